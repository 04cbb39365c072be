"""Which samplers there are: name -> diffusers scheduler class and options, as data.

A scheduler is built from the JSON of the scheduler file on disk, so that a key the file lacks
takes the default of the class that runs (the published PNDM file has no `timestep_spacing`).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from ..errors import InvalidRequest, MissingDependency, UnknownName
from ..models.specs import PredictionType

# How often a step calls the network: once; twice but in the last step (Heun); twice in the first
# step (PLMS, whose start is a pseudo improved Euler step).
Calls = Literal["one", "heun", "plms"]


@dataclass(frozen=True, kw_only=True)
class SamplerSpec:
    """One sampler: the diffusers class that takes its steps, and what is right for it.

    `min_steps`..`max_steps` hold for the model's own schedule and were found by running every
    sampler with 1, 2, 3, 5, 50, 998, 999 and 1000 steps on the published scheduler file and on a
    re-saved one: below, the only step would start at the clean end of the schedule; above, two
    levels would be one (NaN), or the table would end.
    """

    scheduler: str  # class name in diffusers
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])  # win over the file
    calls: Calls = "one"
    variance_exploding: bool = False  # latents are x0 + sigma * noise, else scaled to variance 1
    accepts_sigmas: bool = True  # the class has a `sigmas` table; else its alphas are replaced
    whole_timesteps: bool = False  # the class rounds the timesteps that belong to given sigmas
    open_end: Mapping[str, Any] = field(default_factory=dict[str, Any])  # sigmas that end above 0
    needs_epsilon: bool = False  # multistep on raw outputs: v must become epsilon before
    stochastic: bool = False  # draws noise in each step
    takes_eta: bool = False
    needs_scipy: bool = False
    min_steps: int = 2
    max_steps: int = 999


_OPEN_END = {"final_sigmas_type": "sigma_min", "lower_order_final": False}
_DPMPP_2M: dict[str, Any] = {"algorithm_type": "dpmsolver++", "solver_order": 2}

SAMPLERS: dict[str, SamplerSpec] = {
    "ddim": SamplerSpec(scheduler="DDIMScheduler", accepts_sigmas=False, takes_eta=True),
    "plms": SamplerSpec(
        scheduler="PNDMScheduler",
        options={"skip_prk_steps": True},
        calls="plms",
        accepts_sigmas=False,
        needs_epsilon=True,
    ),
    "dpmpp_2m": SamplerSpec(
        scheduler="DPMSolverMultistepScheduler",
        options=_DPMPP_2M,
        whole_timesteps=True,
        open_end=_OPEN_END,
        min_steps=1,
        max_steps=998,
    ),
    "dpmpp_2m_karras": SamplerSpec(
        scheduler="DPMSolverMultistepScheduler",
        options={**_DPMPP_2M, "use_karras_sigmas": True},
        whole_timesteps=True,
        open_end=_OPEN_END,
        min_steps=1,
    ),
    "dpmpp_2m_sde": SamplerSpec(
        scheduler="DPMSolverMultistepScheduler",
        options={**_DPMPP_2M, "algorithm_type": "sde-dpmsolver++"},
        whole_timesteps=True,
        open_end=_OPEN_END,
        stochastic=True,
        min_steps=1,
        max_steps=998,
    ),
    "unipc": SamplerSpec(
        scheduler="UniPCMultistepScheduler",
        whole_timesteps=True,
        open_end=_OPEN_END,
        min_steps=1,
        max_steps=998,
    ),
    "euler": SamplerSpec(scheduler="EulerDiscreteScheduler", variance_exploding=True),
    "euler_ancestral": SamplerSpec(
        scheduler="EulerAncestralDiscreteScheduler", variance_exploding=True, stochastic=True
    ),
    "heun": SamplerSpec(scheduler="HeunDiscreteScheduler", variance_exploding=True, calls="heun"),
    "lms": SamplerSpec(scheduler="LMSDiscreteScheduler", variance_exploding=True, needs_scipy=True),
}


def find_sampler(name: str) -> SamplerSpec:
    """Return the entry of a sampler that can run here.

    Raises:
        UnknownName: listing the known samplers and the nearest.
        MissingDependency: `lms` without scipy.
    """
    if name not in SAMPLERS:
        raise UnknownName("sampler", name, SAMPLERS)
    spec = SAMPLERS[name]
    if spec.needs_scipy and importlib.util.find_spec("scipy") is None:
        raise MissingDependency(f"sampler {name!r} integrates with scipy: pip install scipy")
    return spec


def make_noise_scheduler(
    sampler: str,
    scheduler_config: Mapping[str, Any],
    *,
    prediction_type: PredictionType,
    **overrides: Any,
) -> Any:
    """Build the diffusers scheduler of a sampler from the JSON of the scheduler file.

    As AltDiffusionPipeline does with any file, `clip_sample` is off (latents are not in -1..1)
    and `steps_offset` is 1. `overrides` win over everything.

    Raises:
        UnknownName: of the sampler or the prediction type.
        MissingDependency: see `find_sampler`.
        InvalidRequest: the file holds a value that the class refuses.
    """
    import diffusers

    if prediction_type not in get_args(PredictionType):
        raise UnknownName("prediction type", prediction_type, get_args(PredictionType))
    spec = find_sampler(sampler)
    fixed = {
        "clip_sample": False,
        "steps_offset": 1,
        **spec.options,
        **overrides,
        "prediction_type": "epsilon" if spec.needs_epsilon else prediction_type,
    }
    try:
        return getattr(diffusers, spec.scheduler).from_config(dict(scheduler_config), **fixed)
    except (TypeError, ValueError, NotImplementedError) as exc:
        raise InvalidRequest(f"the scheduler file does not fit sampler {sampler!r}: {exc}") from exc
