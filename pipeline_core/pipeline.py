"""TextToImagePipeline: one line a room. Made by `assemble.load_pipeline`; any part can be replaced.

Images are sampled together where their conditioning has one length, so that an image is the same
alone and in a batch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch

from .errors import InvalidRequest, PipelineError
from .images.convert import pixels_digest
from .models.specs import ModelSpec, PredictionType
from .safety.checker import SafetyChecker
from .safety.policy import check as check_safety
from .safety.policy import resolve_policy
from .sampling import Denoiser, SamplingOptions, check_options, sample
from .text.encoder import TextEncoder
from .vae.codec import VAE
from .values import (
    CheckedImages,
    Conditioning,
    ImageRequest,
    Images,
    Latents,
    SafetyPolicy,
    Step,
    StepCallback,
    TokenBatch,
)

GENERATOR = "multilingual-diffusion"  # who wrote a picture's metadata

Part = TypeVar("Part")


@dataclass(kw_only=True)
class Parts:
    """What a pipeline is made of; a part is None where it was not loaded."""

    text_encoder: TextEncoder | None = None
    unet: Denoiser | None = None
    vae: VAE | None = None
    safety_checker: SafetyChecker | None = None
    scheduler_config: Mapping[str, Any] = field(default_factory=dict[str, Any])
    prediction_type: PredictionType | None = None  # None: the files do not say, sampling fails


@dataclass(frozen=True)
class _Group:
    """Images that are sampled together: their places in the request and their two sides."""

    rows: list[int]
    positive: Conditioning
    negative: Conditioning

    @property
    def warnings(self) -> tuple[str, ...]:
        return self.positive.warnings + self.negative.warnings


class TextToImagePipeline:
    """Prompt in, checked images out.

    Args:
        source: the model's name or the name of its file; it is written into pictures, so no path.
        native_size: pixels a side where a request names none; None takes the model's own.
    """

    def __init__(
        self, spec: ModelSpec, parts: Parts, *, source: str, native_size: int | None = None
    ) -> None:
        self.spec = spec
        self.parts = parts
        self.source = source
        self.native_size = native_size or spec.native_size

    def __call__(
        self,
        request: ImageRequest,
        *,
        init_image: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
        noise: torch.Tensor | None = None,
        generator: torch.Generator | None = None,
        on_step: StepCallback | None = None,
        batch_size: int | None = None,
    ) -> CheckedImages:
        """Make the images of a request.

        Args:
            init_image: [1 or B, 3, H, W] in 0..1, of the request's size: img2img by `strength`.
            mask: [1 or B, 1, H, W] in 0..1, 1 where the init image is painted anew.
            noise: start noise [B, 4, H/8, W/8] instead of that of the seeds.
            generator: a stream to go on with, in the `batch` and `flagai` noise conventions.
            batch_size: images sampled at a time; None: all of one conditioning length together.

        Raises:
            InvalidRequest: an option does not fit, before anything is computed.
            UnsafeContent: the policy is `block` and an image was flagged.
        """
        request = self.complete(request, init_image=init_image, mask=mask)
        latents = self.sample(
            request,
            init_image=init_image,
            mask=mask,
            noise=noise,
            generator=generator,
            on_step=on_step,
            batch_size=batch_size,
        )
        images = self.decode(latents, tiling=request.vae_tiling)
        images = dataclasses.replace(images, warnings=latents.warnings + images.warnings)
        if init_image is not None and mask is not None:
            images = dataclasses.replace(
                images, pixels=init_image + mask * (images.pixels - init_image)
            )
        return self.check(images, request.safety, request=request)

    def complete(
        self,
        request: ImageRequest,
        *,
        init_image: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
    ) -> ImageRequest:
        """Return the request with the model's own values filled in, all of it checked.

        Raises:
            InvalidRequest: naming the option, the value received and what would do.
            PipelineError: the safety policy asks for a checker and there is none.
        """
        filled = {
            "width": self.native_size,
            "height": self.native_size,
            "steps": self.spec.default_steps,
            "sampler": self.spec.default_sampler,
            "guidance_scale": self.spec.default_guidance_scale,
            "init_image": None if init_image is None else pixels_digest(init_image),
            "mask": None if mask is None else pixels_digest(mask),
        }
        missing = {name: value for name, value in filled.items() if getattr(request, name) is None}
        request = dataclasses.replace(request, **missing)
        check_options(SamplingOptions.from_request(request, self.spec))
        self._known_prediction_type()
        _check_pixels(request, "init_image", init_image, 3)
        _check_pixels(request, "mask", mask, 1)
        resolve_policy(request.safety, has_checker=self.parts.safety_checker is not None)
        return request

    def tokenize(self, prompts: Sequence[str], **options: Any) -> TokenBatch:
        """Return the token ids of prompts, [B, T]; options as in `TextEncoder.tokenize`."""
        return _need(self.parts.text_encoder, "text_encoder").tokenize(prompts, **options)

    def encode(self, prompts: Sequence[str], **options: Any) -> Conditioning:
        """Return the conditioning of prompts, [B, T, D]; options as in `TextEncoder.encode`."""
        return _need(self.parts.text_encoder, "text_encoder").encode(prompts, **options)

    def sample(
        self,
        request: ImageRequest,
        *,
        init_image: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
        noise: torch.Tensor | None = None,
        generator: torch.Generator | None = None,
        on_step: StepCallback | None = None,
        batch_size: int | None = None,
    ) -> Latents:
        """Return the latents of a request, [B, 4, H/8, W/8] in VAE space, float32 on the CPU.

        Arguments as in `__call__`; `on_step` counts the steps of all groups of images through.
        """
        request = self.complete(request, init_image=init_image, mask=mask)
        options = SamplingOptions.from_request(request, self.spec)
        init = self._encode_init(init_image, request.count)
        holes = None if mask is None else torch.nn.functional.max_pool2d(mask.float(), 8)
        groups = self._groups(request, batch_size)
        rows_done: dict[int, torch.Tensor] = {}
        for number, group in enumerate(groups):
            latents = sample(
                _need(self.parts.unet, "unet"),
                group.positive,
                group.negative,
                dataclasses.replace(options, seeds=tuple(options.seeds[i] for i in group.rows)),
                scheduler_config=self.parts.scheduler_config,
                prediction_type=self._known_prediction_type(),
                scaling_factor=self._scaling_factor,
                init=None if init is None else Latents(init[group.rows]),
                mask=None if holes is None else holes.expand(request.count, -1, -1, -1)[group.rows],
                noise=None if noise is None else noise[group.rows],
                generator=generator,
                on_step=_counted_through(on_step, number, len(groups)),
            )
            rows_done.update(zip(group.rows, latents.samples.cpu(), strict=True))
        warnings = dict.fromkeys(text for group in groups for text in group.warnings)
        return Latents(
            torch.stack([rows_done[row] for row in range(request.count)]), tuple(warnings)
        )

    def decode(self, latents: Latents, *, tiling: bool = False) -> Images:
        """Return the images of latents: pixels [B, 3, H, W] in 0..1."""
        return _need(self.parts.vae, "vae").decode(latents, tiling=tiling)

    def check(
        self, images: Images, policy: SafetyPolicy = "auto", *, request: ImageRequest | None = None
    ) -> CheckedImages:
        """Run the safety gate; with a request, the metadata is enough to make the images again."""
        return check_safety(
            images,
            self.parts.safety_checker,
            policy,
            adjustment=request.safety_adjustment if request else 0.0,
            metadata=self.describe(request) if request else None,
        )

    def describe(self, request: ImageRequest) -> dict[str, Any]:
        """Return the metadata of a request's pictures: strict JSON, no path of this machine."""
        return {
            "generator": GENERATOR,
            "model": {"name": self.spec.name, "source": self.source},
            "request": request.to_metadata(),
        }

    def _groups(self, request: ImageRequest, batch_size: int | None) -> list[_Group]:
        """Encode the prompts of all images; each group has one conditioning length."""
        encoder = _need(self.parts.text_encoder, "text_encoder")
        pairs = [pair for pair in _pairs(request) for _ in range(request.images_per_prompt)]
        lengths = {
            pair: encoder.tokenize(pair, long_prompt=request.long_prompt).ids.shape[1]
            for pair in dict.fromkeys(pairs)
        }
        together: dict[int, list[int]] = {}
        for row, pair in enumerate(pairs):
            # The other conventions draw the whole batch from one stream: it cannot be cut.
            key = lengths[pair] if request.noise == "per-image" else 0
            together.setdefault(key, []).append(row)
        size = batch_size if batch_size and request.noise == "per-image" else len(pairs)
        groups: list[_Group] = []
        for rows in together.values():
            for part in (rows[start : start + size] for start in range(0, len(rows), size)):
                positive, negative = encoder.encode_pair(
                    [pairs[row][0] for row in part],
                    [pairs[row][1] for row in part],
                    weighting=request.weighting,
                    long_prompt=request.long_prompt,
                )
                groups.append(_Group(part, positive, negative))
        return groups

    def _encode_init(self, init_image: torch.Tensor | None, count: int) -> torch.Tensor | None:
        """Return the init latents [B, 4, h, w] in VAE space: the posterior's mean."""
        if init_image is None:
            return None
        latents = _need(self.parts.vae, "vae").encode(init_image)
        return latents.samples.expand(count, -1, -1, -1)

    def _known_prediction_type(self) -> PredictionType:
        if self.parts.prediction_type is None:
            raise InvalidRequest(
                f"{self.source} does not say what its UNet predicts; load it with "
                "prediction_type='epsilon' or 'v_prediction'"
            )
        return self.parts.prediction_type

    @property
    def _scaling_factor(self) -> float:
        if self.parts.vae is not None:
            return self.parts.vae.scaling_factor
        return self.spec.vae_config.get("scaling_factor", 0.18215)


def _need(part: Part | None, name: str) -> Part:
    if part is None:
        raise PipelineError(f"this pipeline was loaded without its {name}; load it with parts=")
    return part


def _pairs(request: ImageRequest) -> list[tuple[str, str]]:
    """Return (prompt, negative prompt) for each prompt; no negative prompt is the empty one."""
    negatives = request.negative_prompts or ("",)
    if len(negatives) == 1:
        negatives *= len(request.prompts)
    return list(zip(request.prompts, negatives, strict=True))


def _check_pixels(
    request: ImageRequest, name: str, pixels: torch.Tensor | None, channels: int
) -> None:
    digest = getattr(request, name)
    if pixels is None:
        if digest is not None:
            raise InvalidRequest(f"the request was made with {name} {digest[:12]}; give it again")
        return
    wanted = (channels, request.height, request.width)
    if pixels.ndim != 4 or tuple(pixels.shape[1:]) != wanted:
        raise InvalidRequest(f"{name} has shape {tuple(pixels.shape)}; it must be [B, *{wanted}]")
    if pixels.shape[0] not in (1, request.count):
        raise InvalidRequest(f"{name} holds {pixels.shape[0]} images for {request.count}; give 1")
    if pixels_digest(pixels) != digest:
        raise InvalidRequest(f"{name} is not the one of the request ({digest[:12]})")


def _counted_through(on_step: StepCallback | None, number: int, groups: int) -> StepCallback | None:
    """Return a callback that counts on over the groups."""
    if on_step is None or groups == 1:
        return on_step
    return lambda step: on_step(
        Step(step.index + number * step.total, step.total * groups, step.latents)
    )
