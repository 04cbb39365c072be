"""`SamplingOptions`: everything a sampling run is told but tensors, and its checks.

All checks that need no model are in `check_options`, so that bad input fails before loading.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from ..errors import InvalidRequest
from ..models.specs import ModelSpec
from ..ranges import (
    MAX_SEED,
    check_choice,
    check_number,
    check_pixels,
    check_side,
    check_sigmas,
    check_whole,
)
from ..values import GuidanceBatching, ImageRequest, NoiseConvention, TimestepRule
from .samplers import find_sampler
from .schedules import SCHEDULES


@dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """How to sample; one seed an image.

    Which part of the schedule runs (at most one of these ways):
    `strength` (img2img, as diffusers): the last `int(steps * strength)` of the steps. At 1 all
    run, from the init latents under the full noise, of which a faint trace stays (about 7 %).
    `denoise` (the host's KSampler): `steps` steps, the tail of a schedule of `steps / denoise`.
    `start_step`, `end_step`, `add_noise`, `keep_leftover_noise` (KSamplerAdvanced): a window.
    Latents with noise left in them are x0 + sigma * noise over the scaling factor, for every
    sampler, so that one run can hand over to another or to the host's.
    """

    sampler: str = "dpmpp_2m"  # a key of SAMPLERS
    schedule: str = "model"  # one of SCHEDULES
    sigmas: tuple[float, ...] | None = None  # n + 1 falling levels; overrides schedule and steps
    steps: int = 25
    guidance_scale: float = 7.5  # 1 = no second pass
    seeds: tuple[int, ...] = (0,)
    noise: NoiseConvention = "per-image"
    eta: float = 0.0  # DDIM only: 0 deterministic .. 1 DDPM-like
    timestep_rule: TimestepRule = "model"
    strength: float = 1.0
    denoise: float = 1.0
    start_step: int = 0
    end_step: int | None = None  # None, or anything beyond the last step: to the end
    add_noise: bool = True
    keep_leftover_noise: bool = False
    guidance_batching: GuidanceBatching = "auto"
    width: int = 512  # pixels, a multiple of 8
    height: int = 512

    @classmethod
    def from_request(cls, request: ImageRequest, spec: ModelSpec) -> SamplingOptions:
        """Return the options of a request; what it leaves open is the model's own."""

        def pick(value: int | None, default: int) -> int:
            return default if value is None else value

        scale = request.guidance_scale
        return cls(
            sampler=request.sampler or spec.default_sampler,
            schedule=request.schedule,
            sigmas=request.sigmas,
            steps=pick(request.steps, spec.default_steps),
            guidance_scale=spec.default_guidance_scale if scale is None else scale,
            seeds=request.seeds,
            noise=request.noise,
            eta=request.eta,
            timestep_rule=request.timestep_rule,
            strength=request.strength,
            guidance_batching=request.guidance_batching,
            width=pick(request.width, spec.native_size),
            height=pick(request.height, spec.native_size),
        )


def total_steps(options: SamplingOptions) -> int:
    """Return the steps of the whole schedule, of which a part may run."""
    if options.sigmas is not None:
        return len(options.sigmas) - 1
    return int(options.steps / options.denoise)


def check_options(options: SamplingOptions) -> None:
    """Check all that can be checked without a model.

    Raises:
        InvalidRequest: one line that names the option, the value and what to do.
        MissingDependency: the sampler needs a package that is not installed.
    """
    check_whole("steps", options.steps, 1, 1000)
    check_whole("start_step", options.start_step, 0, 10_000)
    for name, (low, high) in _NUMBERS.items():
        check_number(name, getattr(options, name), low, high)
    for name, choices in _CHOICES.items():
        check_choice(name, getattr(options, name), choices)
    for name in ("add_noise", "keep_leftover_noise"):
        if not isinstance(getattr(options, name), bool):
            raise InvalidRequest(f"{name} is {getattr(options, name)!r}; it must be true or false")
    _check_images(options)
    check_sigmas(options.sigmas)
    if options.sigmas and (options.timestep_rule != "model" or options.denoise < 1):
        raise InvalidRequest("sigmas are a whole schedule; timestep_rule and denoise make another")
    _check_window(options)
    _check_sampler(options)
    _check_steps(options)


_NUMBERS: dict[str, tuple[float, float]] = {
    "guidance_scale": (0.0, 1000.0),
    "eta": (0.0, 1.0),
    "strength": (0.0, 1.0),
    "denoise": (0.001, 1.0),
}
_CHOICES: dict[str, tuple[str, ...]] = {
    "schedule": SCHEDULES,
    "noise": get_args(NoiseConvention),
    "timestep_rule": get_args(TimestepRule),
    "guidance_batching": get_args(GuidanceBatching),
}


def _check_images(options: SamplingOptions) -> None:
    check_side("width", options.width)
    check_side("height", options.height)
    if not options.seeds:
        raise InvalidRequest("seeds is empty; give one seed for each image")
    for seed in options.seeds:
        check_whole("seeds", seed, 0, MAX_SEED)
    check_pixels(options.width, options.height, len(options.seeds))


def _check_steps(options: SamplingOptions) -> None:
    if options.sigmas is not None:
        return
    spec, total = find_sampler(options.sampler), total_steps(options)
    low = {"model": spec.min_steps, "ddim_uniform": 2}.get(options.schedule, 1)
    if not low <= total <= spec.max_steps:
        tail = f"steps {options.steps} at denoise {options.denoise:g} make a schedule of "
        raise InvalidRequest(
            f"{tail if options.denoise < 1 else 'steps is '}{total}; sampler "
            f"{options.sampler!r} takes {low}..{spec.max_steps}"
        )


def _check_sampler(options: SamplingOptions) -> None:
    sampler, spec = options.sampler, find_sampler(options.sampler)
    if options.eta and not spec.takes_eta:
        raise InvalidRequest(f"eta is {options.eta:g}; only 'ddim' takes it, not {sampler!r}")
    if spec.options.get("use_karras_sigmas") and options.schedule not in ("model", "karras"):
        raise InvalidRequest(
            f"sampler {sampler!r} is tied to the karras schedule; for schedule "
            f"{options.schedule!r} take 'dpmpp_2m'"
        )
    if options.timestep_rule == "flagai" and (
        sampler not in ("ddim", "plms") or options.schedule != "model"
    ):
        raise InvalidRequest(
            "timestep_rule 'flagai' goes with 'ddim' or 'plms' and schedule 'model', not with "
            f"{sampler!r} and {options.schedule!r}"
        )
    if sampler == "plms" and options.schedule == "karras":
        raise InvalidRequest(
            "plms combines steps of one length and karras steps differ; take 'lms' or 'dpmpp_2m'"
        )


def _check_window(options: SamplingOptions) -> None:
    if options.end_step is not None:
        check_whole("end_step", options.end_step, 1, 10_000)
        if options.end_step <= options.start_step:
            raise InvalidRequest(
                f"end_step {options.end_step} is not after start_step {options.start_step}"
            )
    window = options.start_step > 0 or options.end_step is not None or not options.add_noise
    if (options.strength < 1) + (options.denoise < 1) + window > 1:
        raise InvalidRequest(
            "strength, denoise and start_step / end_step / add_noise are three ways to run a part "
            "of the schedule; use one"
        )
