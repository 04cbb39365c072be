"""PLMS for ComfyUI, which has none: a SAMPLER for SamplerCustom and the SIGMAS it is made for.

The steps are diffusers' PNDM without its Runge-Kutta start (Liu et al., arXiv 2202.09778), the
same that runs in our own sampler; here it only changes the scale of the latents.
"""

# pyright: reportMissingImports=false

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...pipeline_core.errors import InvalidRequest
from ...pipeline_core.models.configs import PNDM_SCHEDULER

if TYPE_CHECKING:
    import torch

MIN_STEPS, MAX_STEPS = 2, 999


class MultilingualPLMSSampler:
    """Make the sampler PLMS, in which AltDiffusion was published, for SamplerCustom."""

    DISPLAY_NAME = "Multilingual PLMS Sampler"
    CATEGORY = "multilingual/comfyui"
    DESCRIPTION = __doc__
    SEARCH_ALIASES = ["PNDM", "plms", "SamplerCustom", "sigmas"]
    RETURN_TYPES = ("SAMPLER", "SIGMAS")
    RETURN_NAMES = ("sampler", "sigmas")
    OUTPUT_TOOLTIPS = (
        "For SamplerCustom; it wants noise levels at even timesteps.",
        "The noise levels it is made for.",
    )
    FUNCTION = "execute"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "model": ("MODEL", {"tooltip": "Bridged or any other Stable Diffusion 1 or 2."}),
                "steps": (
                    "INT",
                    {"default": 50, "min": MIN_STEPS, "max": MAX_STEPS,
                     "tooltip": "Steps that remove noise; the first calls the UNet twice."},
                ),
            }
        }  # fmt: skip

    def execute(self, model: Any, steps: int) -> tuple[Any, torch.Tensor]:
        from comfy.samplers import KSAMPLER

        config = scheduler_config(model)
        options = {"scheduler_config": config}
        return KSAMPLER(sample_plms, extra_options=options), plms_sigmas(config, steps)


def scheduler_config(model: Any) -> dict[str, Any]:
    """Return the published scheduler's values with the noise levels of a MODEL.

    Raises:
        InvalidRequest: its levels are no table of training timesteps.
    """
    sampling = model.get_model_object("model_sampling")
    if not hasattr(sampling, "log_sigmas") or not hasattr(sampling, "num_timesteps"):
        raise InvalidRequest(
            f"the MODEL samples with {type(sampling).__name__}; PLMS takes models with a table of "
            "training timesteps, such as Stable Diffusion 1 and 2"
        )
    alphas = 1 / (1 + sampling.sigmas.double().cpu() ** 2)
    before = alphas.roll(1)
    before[0] = 1.0
    betas = (1 - alphas / before).tolist()
    return {**PNDM_SCHEDULER, "trained_betas": betas, "num_train_timesteps": len(betas)}


def plms_sigmas(config: dict[str, Any], steps: int) -> torch.Tensor:
    """Return `steps` + 1 falling noise levels: even timesteps, then the lowest level there is."""
    import torch

    from ...pipeline_core.ranges import check_whole
    from ...pipeline_core.sampling.levels import read_levels
    from ...pipeline_core.sampling.samplers import find_sampler, make_noise_scheduler

    check_whole("steps", steps, MIN_STEPS, MAX_STEPS)
    scheduler = make_noise_scheduler("plms", config, prediction_type="epsilon")
    scheduler.set_timesteps(steps)
    return torch.tensor(read_levels(scheduler, find_sampler("plms")).sigmas)


def sample_plms(
    model: Any,
    x: torch.Tensor,
    sigmas: torch.Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Any = None,
    disable: bool | None = None,
    *,
    scheduler_config: dict[str, Any],
) -> torch.Tensor:
    """Take the steps of PLMS as the host calls a sampler.

    Args:
        model: the host's denoiser: latents and one sigma an image to the estimate of clean ones.
        x: latents [B, 4, h, w], x0 + sigmas[0] * noise.
        sigmas: n + 1 falling levels, at even timesteps.

    Raises:
        InvalidRequest: the levels do not lie at even timesteps.
    """
    from ...pipeline_core.sampling import SamplingOptions
    from ...pipeline_core.sampling.plan import make_plan

    options = SamplingOptions(sampler="plms", sigmas=tuple(sigmas.tolist()))
    # whatever the network predicts: the host has made clean latents of it, and those give epsilon
    plan = make_plan(options, scheduler_config, "epsilon")
    latents, step = x / (1 + plan.start_sigma**2) ** 0.5, 0
    for call in plan.calls:
        seen = latents * (1 + call.sigma**2) ** 0.5
        clean = model(seen, x.new_full((len(x),), call.sigma), **(extra_args or {}))
        epsilon = (seen - clean) / call.sigma
        latents = plan.scheduler.step(epsilon, call.scheduler_timestep, latents, return_dict=False)[
            0
        ]
        if callback is not None and call.ends_step:
            callback({"i": step, "x": seen, "denoised": clean, "sigma": call.sigma})
        step += call.ends_step
    return latents * (1 + plan.end_sigma**2) ** 0.5


NODES = [MultilingualPLMSSampler]
