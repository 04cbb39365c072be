"""Conditioning and latents to latents: the two samplers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, get_args

from ..pipeline_core.errors import InvalidRequest
from ..pipeline_core.ranges import MAX_SEED
from ..pipeline_core.values import (
    GuidanceBatching,
    Latents,
    NoiseConvention,
    TimestepRule,
)
from . import host
from .conversions import (
    from_comfy_conditioning,
    from_comfy_latent,
    noise_mask,
    seeds_of,
    to_comfy_latent,
)
from .sockets import UNET, SocketUNet

if TYPE_CHECKING:
    import torch

    from ..pipeline_core.sampling import SamplingOptions
    from ..pipeline_core.sampling.regions import PromptRegion

# Activations of one UNet call for each latent position: an estimate on the generous side
_BYTES_PER_POSITION = 128 * 2**10


def _choices() -> tuple[list[str], list[str]]:
    """Return the samplers and the schedules; their room is imported only when somebody asks."""
    from ..pipeline_core.sampling import SAMPLERS, SCHEDULES

    return list(SAMPLERS), list(SCHEDULES)


def _common_inputs() -> dict[str, Any]:
    samplers, schedules = _choices()
    return {
        "unet": (UNET, {"tooltip": "From a loader of this pack."}),
        "positive": ("CONDITIONING", {"tooltip": "What the picture shows."}),
        "negative": ("CONDITIONING", {"tooltip": "What it does not show; may be empty text."}),
        "latent_image": (
            "LATENT",
            {"tooltip": "Empty for a new picture; an encoded one to go on from it; with a noise "
             "mask to paint a part anew."},
        ),
        "seed": (
            "INT",
            {"default": 0, "min": 0, "max": MAX_SEED, "control_after_generate": True,
             "tooltip": "Image i of the batch takes seed + i, so it is the same alone."},
        ),
        "steps": (
            "INT",
            {"default": 25, "min": 1, "max": 1000, "tooltip": "Steps that remove noise."},
        ),
        "cfg": (
            "FLOAT",
            {"default": 7.5, "min": 0.0, "max": 100.0, "step": 0.1, "round": 0.01,
             "tooltip": "How closely the prompt is followed; 1 leaves the negative side out and "
             "takes half the time."},
        ),
        "sampler": (
            samplers,
            {"default": "dpmpp_2m", "tooltip": "The algorithm that takes the steps."},
        ),
        "schedule": (
            schedules,
            {"default": "model", "tooltip": "What spaces the noise levels. model: as the model's "
             "own files say; the others as in ComfyUI."},
        ),
    }  # fmt: skip


class MultilingualSampler:
    """Turn noise into latents that show the prompt."""

    DISPLAY_NAME = "Multilingual Sampler"
    CATEGORY = "multilingual/sampling"
    DESCRIPTION = __doc__
    SEARCH_ALIASES = ["KSampler", "sample", "denoise", "generate"]
    RETURN_TYPES = ("LATENT",)
    RETURN_NAMES = ("latent",)
    OUTPUT_TOOLTIPS = ("The denoised latents, in VAE space.",)
    FUNCTION = "execute"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        denoise = {
            "default": 1.0,
            "min": 0.0,
            "max": 1.0,
            "step": 0.01,
            "tooltip": "How much is made anew, as in KSampler: all steps run, on the last part of "
            "a longer schedule. Below 1 the latent image shows through.",
        }
        return {"required": {**_common_inputs(), "denoise": ("FLOAT", denoise)}}

    def execute(
        self,
        unet: SocketUNet,
        positive: Sequence[Any],
        negative: Sequence[Any],
        latent_image: Mapping[str, Any],
        seed: int,
        steps: int,
        cfg: float,
        sampler: str,
        schedule: str,
        denoise: float,
    ) -> tuple[Mapping[str, Any]]:
        if denoise <= 0:
            return (latent_image,)
        options = _options(
            latent_image, seed, steps=steps, guidance_scale=cfg, sampler=sampler,
            schedule=schedule, denoise=denoise,
        )  # fmt: skip
        return (_sample(unet, positive, negative, latent_image, options),)


class MultilingualSamplerAdvanced:
    """Run a part of the schedule, with noise added or left over, or explicit sigmas."""

    DISPLAY_NAME = "Multilingual Sampler (Advanced)"
    CATEGORY = "multilingual/sampling"
    DESCRIPTION = __doc__
    SEARCH_ALIASES = ["KSampler Advanced", "start step", "leftover noise", "sigmas"]
    RETURN_TYPES = ("LATENT", "SIGMAS")
    RETURN_NAMES = ("latent", "sigmas")
    OUTPUT_TOOLTIPS = (
        "The latents, in VAE space, with what noise is left.",
        "The noise levels that ran.",
    )
    FUNCTION = "execute"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        step = {"min": 0, "max": 10_000}
        return {
            "required": {
                **_common_inputs(),
                "start_step": (
                    "INT",
                    {"default": 0, **step, "tooltip": "The first step that runs, from 0."},
                ),
                "end_step": (
                    "INT",
                    {"default": 10_000, **step, "min": 1,
                     "tooltip": "The step before which it stops; beyond the last: to the end."},
                ),
                "add_noise": (
                    "BOOLEAN",
                    {"default": True, "tooltip": "Add noise at the start; off where the latent "
                     "image has it already."},
                ),
                "keep_leftover_noise": (
                    "BOOLEAN",
                    {"default": False, "tooltip": "Stop with the noise of that step left in, for "
                     "a sampler that goes on; else the last step removes it."},
                ),
            },
            "optional": {
                "sigmas": (
                    "SIGMAS",
                    {"tooltip": "Explicit noise levels, falling; they replace steps and schedule."},
                ),
                "noise": (
                    list(get_args(NoiseConvention)),
                    {"default": "per-image", "advanced": True, "tooltip": "per-image: seed + i "
                     "for image i; batch: one draw, as ComfyUI; flagai: FlagAI's one stream."},
                ),
                "eta": (
                    "FLOAT",
                    {"default": 0.0, "min": 0.0, "max": 1.0, "step": 0.01, "advanced": True,
                     "tooltip": "Fresh noise in each step, for ddim only."},
                ),
                "timestep_rule": (
                    list(get_args(TimestepRule)),
                    {"default": "model", "advanced": True, "tooltip": "flagai: the timesteps of "
                     "FlagAI's own ddim and plms."},
                ),
                "guidance_batching": (
                    list(get_args(GuidanceBatching)),
                    {"default": "auto", "advanced": True, "tooltip": "Both sides of the guidance "
                     "at once, or one after the other with half the memory."},
                ),
            },
        }  # fmt: skip

    def execute(
        self,
        unet: SocketUNet,
        positive: Sequence[Any],
        negative: Sequence[Any],
        latent_image: Mapping[str, Any],
        seed: int,
        cfg: float,
        sigmas: torch.Tensor | None = None,
        **fields: Any,
    ) -> tuple[Mapping[str, Any], torch.Tensor]:
        if sigmas is not None:
            fields["sigmas"] = tuple(float(sigma) for sigma in sigmas)
        options = _options(latent_image, seed, guidance_scale=cfg, **fields)
        latent = _sample(unet, positive, negative, latent_image, options)
        return latent, _levels(unet, options)


def _options(latent: Mapping[str, Any], seed: int, **fields: Any) -> SamplingOptions:
    """Return the options of a run over a LATENT, all of them checked."""
    from ..pipeline_core.sampling import SamplingOptions, check_options

    if fields.get("noise", "per-image") != "per-image" and latent.get("batch_index"):
        raise InvalidRequest(
            f"noise {fields['noise']!r} draws a whole batch and this latent is a part of one; take "
            "'per-image'"
        )
    height, width = from_comfy_latent(latent).samples.shape[2:]
    options = SamplingOptions(
        seeds=seeds_of(latent, seed), width=width * 8, height=height * 8, **fields
    )
    check_options(options)
    return options


def _sample(
    unet: SocketUNet,
    positive: Sequence[Any],
    negative: Sequence[Any],
    latent: Mapping[str, Any],
    options: SamplingOptions,
) -> dict[str, Any]:
    from ..pipeline_core.sampling.regional import sample_regions

    prediction_type = unet.known_prediction_type()
    given, mask = from_comfy_latent(latent), noise_mask(latent)
    sides = from_comfy_conditioning(positive, negative, len(options.seeds))
    _check_width(unet, [*sides[0], *sides[1]])
    positions = given.samples.shape[0] * given.samples.shape[2] * given.samples.shape[3]
    latents = sample_regions(
        unet.ready(2 * positions * _BYTES_PER_POSITION),
        *sides,
        options,
        scheduler_config=unet.scheduler_config,
        prediction_type=prediction_type,
        scaling_factor=unet.scaling_factor,
        init=_init(given, mask, options),
        mask=mask,
        on_step=host.Progress(unet.scaling_factor).step,
    )
    return {**latent, **to_comfy_latent(latents)}


def _check_width(unet: SocketUNet, regions: Sequence[PromptRegion]) -> None:
    taken = unet.need().network.config.cross_attention_dim
    for region in regions:
        given = region.embeddings.shape[2]
        if given != taken:
            raise InvalidRequest(
                f"the conditioning has {given} numbers a token and the UNet of {unet.source} takes "
                f"{taken}; encode the prompt with the text encoder of the same model"
            )


def _init(latents: Latents, mask: torch.Tensor | None, options: SamplingOptions) -> Latents | None:
    """Return the latents to start from; None where empty ones start from noise alone."""
    part = options.denoise < 1 or options.start_step > 0 or not options.add_noise
    return latents if part or mask is not None or bool(latents.samples.any()) else None


def _levels(unet: SocketUNet, options: SamplingOptions) -> torch.Tensor:
    """Return the noise levels of a run as SIGMAS: one a step, and what is left."""
    import torch

    from ..pipeline_core.sampling.plan import make_plan

    plan = make_plan(options, unet.scheduler_config, unet.known_prediction_type())
    begins = [True, *(call.ends_step for call in plan.calls)]
    starts = [call.sigma for call, begin in zip(plan.calls, begins, strict=False) if begin]
    return torch.tensor([*starts, plan.end_sigma])


NODES = [MultilingualSampler, MultilingualSamplerAdvanced]
