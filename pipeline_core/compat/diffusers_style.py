"""`AltDiffusionPipeline` as diffusers had it: `from_pretrained`, `.to`, `.scheduler`, a call.

Differences: nothing is downloaded, so `revision`, `cache_dir` and tokens do nothing; a prompt
beyond 77 tokens is taken in windows, not cut; a checker that the folder has always runs; there is
no `clip_skip` (this encoder has one trained layer) and no `cross_attention_kwargs`.
Source: diffusers pipelines/deprecated/alt_diffusion/pipeline_alt_diffusion.py.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from ..assemble import LoadOptions, load_pipeline
from ..errors import InvalidRequest
from ..loading.parts import load_scheduler_config
from ..models.detection import PartName
from ..pipeline import TextToImagePipeline
from ..ranges import check_whole
from ..sampling import SAMPLERS
from ..values import CheckedImages, ImageRequest, Step
from .own_encoder import XLMRobertaTokenizer, own_text_encoder
from .places import find_place, log_warnings, pick_device, pick_dtype

StepFunction = Callable[[int, int, torch.Tensor], None]


@dataclass(frozen=True)
class AltDiffusionPipelineOutput:
    """Pictures (or one array [B, H, W, 3] in 0..1), and which of them the checker flagged."""

    images: Any
    nsfw_content_detected: list[bool] | None


class AltDiffusionPipeline:
    """A model behind the call of diffusers' pipeline; its weights are read at the first use."""

    def __init__(
        self,
        options: LoadOptions,
        place: str,
        own: tuple[XLMRobertaTokenizer, Any] | None,
        *,
        checked: bool = True,
    ) -> None:
        from diffusers.schedulers.scheduling_pndm import PNDMScheduler

        self.options = options
        self.place = place
        self.device = torch.device("cpu")
        self._own = own
        self._checked = checked
        self._pipeline: TextToImagePipeline | None = None
        self._found = options.find(place)
        self.scheduler: Any = PNDMScheduler.from_config(load_scheduler_config(self._found))

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        torch_dtype: torch.dtype | None = None,
        tokenizer: XLMRobertaTokenizer | None = None,
        text_encoder: torch.nn.Module | None = None,
        allow_pickle: bool = False,
        models_dir: str | Path | None = None,
        safety_checker: Literal["own"] | None = "own",
        feature_extractor: None = None,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        use_auth_token: bool | str | None = None,
    ) -> AltDiffusionPipeline:
        """Open a folder or file of this machine; a hub id is looked up in the models folder.

        Args:
            tokenizer, text_encoder: an encoder of your own instead of the model's; `tokenizer` is
                `compat.XLMRobertaTokenizer`, `text_encoder(ids)[0]` gives the states.
            safety_checker: None goes without (policy `off`); else the model's own runs.
            feature_extractor: comes with the checker; it does nothing here.
            revision, cache_dir, use_auth_token: of hubs; they do nothing here.

        Raises:
            ModelNotFound, FileRefused: there is no such model, or a file was refused.
        """
        if (tokenizer is None) != (text_encoder is None):
            raise InvalidRequest("give tokenizer and text_encoder together, or neither")
        own = None if tokenizer is None else (tokenizer, text_encoder)
        options = LoadOptions(
            device="cpu",
            dtype="auto" if torch_dtype is None else torch_dtype,
            allow_pickle=allow_pickle,
            models_dir=models_dir,
        )
        return cls(options, find_place(name_or_path), own, checked=safety_checker is not None)

    def to(self, device: str | torch.device) -> AltDiffusionPipeline:
        """Run on that device from now on; one that is not there is said and not taken."""
        chosen = pick_device(device)
        if chosen != self.device:
            self.device, self._pipeline = chosen, None
        return self

    @property
    def pipeline(self) -> TextToImagePipeline:
        """Our own pipeline behind this one."""
        if self._pipeline is None:
            self._pipeline = self._load()
        return self._pipeline

    def _load(self) -> TextToImagePipeline:
        dtype = self.options.dtype
        left_out = ("text_encoder", "tokenizer") if self._own else ()
        left_out += () if self._checked else ("safety_checker",)
        promised: tuple[PartName, ...] = (*self._found.parts, *self._found.missing)
        pipeline = load_pipeline(
            self.place,
            device=self.device,
            dtype=pick_dtype(dtype, self.device) if isinstance(dtype, torch.dtype) else dtype,
            parts=[name for name in promised if name not in left_out],
            models_dir=self.options.models_dir,
            allow_pickle=self.options.allow_pickle,
        )
        if self._own:
            tokenizer, module = self._own
            module = module.to(self.device)
            pipeline.parts.text_encoder = own_text_encoder(tokenizer, module, pipeline.spec)
        return pipeline

    def __call__(
        self,
        prompt: str | Sequence[str],
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = 50,
        guidance_scale: float = 7.5,
        negative_prompt: str | Sequence[str] | None = None,
        num_images_per_prompt: int = 1,
        eta: float = 0.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: torch.Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback: StepFunction | None = None,
        callback_steps: int = 1,
        seed: int | None = None,
    ) -> Any:
        """Make pictures; the arguments, their order and defaults are those of diffusers.

        Args:
            generator: one for the whole batch, or one for each picture.
            latents: start noise [B, 4, H/8, W/8].
            output_type: pil, np ([B, H, W, 3] in 0..1) or pt ([B, 3, H, W] in 0..1).
            callback: called with (step, timestep, latents) every `callback_steps` steps; the
                latents are the estimate of the clean ones, the timestep is the step's number.
            seed: instead of a generator: picture i takes seed + i.

        Raises:
            InvalidRequest: an argument does not fit.
        """
        if output_type not in ("pil", "np", "pt"):
            raise InvalidRequest(f"output_type is {output_type!r}; it must be pil, np or pt")
        check_whole("callback_steps", callback_steps, 1, 1000)
        sampler, config = sampler_of(self.scheduler)
        request = ImageRequest(
            prompts=_texts(prompt),
            negative_prompts=() if negative_prompt is None else _texts(negative_prompt),
            images_per_prompt=num_images_per_prompt,
            width=width,
            height=height,
            steps=num_inference_steps,
            sampler=sampler,
            guidance_scale=max(1.0, guidance_scale),  # diffusers: guidance acts above 1 only
            eta=eta if SAMPLERS[sampler].takes_eta else 0.0,
            seed=secrets.randbelow(2**32) if seed is None else seed,
            safety="auto" if self._checked else "off",
            noise="batch" if isinstance(generator, torch.Generator) else "per-image",
        )
        self.pipeline.parts.scheduler_config = config
        images = self.pipeline(
            request,
            noise=_start_noise(self.pipeline.complete(request), generator, latents),
            generator=generator if isinstance(generator, torch.Generator) else None,
            on_step=_every(callback, callback_steps),
        )
        log_warnings(images)
        output = AltDiffusionPipelineOutput(_as(images, output_type), _flags(images))
        return output if return_dict else (output.images, output.nsfw_content_detected)


class StableDiffusionPipeline(AltDiffusionPipeline):
    """The same, under the name that the hand-written encoder example of the m9 card imports."""


def sampler_of(scheduler: Any) -> tuple[str, dict[str, Any]]:
    """Return our sampler for a diffusers scheduler, and its config as a scheduler file.

    Raises:
        InvalidRequest: there is no sampler of ours for its class.
    """
    name, config = type(scheduler).__name__, dict(scheduler.config)
    matches = [
        sampler
        for sampler, spec in SAMPLERS.items()
        if spec.scheduler == name
        and all(config.get(key, value) == value for key, value in spec.options.items())
    ]
    if not matches:
        known = sorted({spec.scheduler for spec in SAMPLERS.values()})
        raise InvalidRequest(f"{name} with these options is no sampler here; known: {known}")
    # The one that pins the most options: karras before plain
    return max(matches, key=lambda sampler: len(SAMPLERS[sampler].options)), config


def _texts(value: str | Sequence[str]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


def _start_noise(
    request: ImageRequest,
    generator: torch.Generator | list[torch.Generator] | None,
    latents: torch.Tensor | None,
) -> torch.Tensor | None:
    """Return noise for a list of generators or given latents; None leaves it to the sampler."""
    shape = (request.count, 4, (request.height or 0) // 8, (request.width or 0) // 8)
    if latents is not None:
        if tuple(latents.shape) != shape:
            raise InvalidRequest(f"latents have shape {tuple(latents.shape)}; this needs {shape}")
        return latents
    if not isinstance(generator, list):
        return None
    if len(generator) != request.count:
        raise InvalidRequest(f"{len(generator)} generators for {request.count} pictures")
    rows = [torch.randn((1, *shape[1:]), generator=one, device=one.device) for one in generator]
    return torch.cat([row.cpu() for row in rows])


def _every(callback: StepFunction | None, steps: int) -> Callable[[Step], None] | None:
    if callback is None:
        return None

    def on_step(step: Step) -> None:
        if step.index % steps == 0:
            callback(step.index, step.index, step.latents)

    return on_step


def _as(images: CheckedImages, output_type: str) -> Any:
    if output_type == "pil":
        return images.to_pil()
    if output_type == "pt":
        return images.pixels
    return images.pixels.permute(0, 2, 3, 1).numpy()


def _flags(images: CheckedImages) -> list[bool] | None:
    if images.policy == "off":
        return None
    return [verdict.flagged for verdict in images.verdicts]
