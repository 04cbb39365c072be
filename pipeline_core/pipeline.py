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
from .grouping import group_images
from .images.convert import pixels_digest
from .models.configs import SCALING_FACTOR
from .models.specs import ModelSpec, PredictionType
from .outline import Outline
from .ranges import check_whole
from .safety.checker import SafetyChecker
from .safety.policy import check as check_safety
from .sampling import Denoiser, sample
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


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Tensors that come with a request.

    `init_image` [1 or B, 3, H, W] in 0..1, for img2img by `strength`; `mask` [1 or B, 1, H, W] in
    0..1, 1 where the init image is painted anew; `noise` [B, 4, H/8, W/8] instead of that of the
    seeds; `generator` a stream to go on with, in the `batch` and `flagai` noise conventions.
    """

    init_image: torch.Tensor | None = None
    mask: torch.Tensor | None = None
    noise: torch.Tensor | None = None
    generator: torch.Generator | None = None


class TextToImagePipeline:
    """Prompt in, checked images out.

    Args:
        source: the model's name or the name of its file; it is written into pictures, so no path.
        native_size: pixels a side where a request names none; None takes the model's own.
        origin: what else made the pipeline, for the metadata; see `Outline`.
    """

    def __init__(
        self,
        spec: ModelSpec,
        parts: Parts,
        *,
        source: str,
        native_size: int | None = None,
        origin: Mapping[str, Any] | None = None,
    ) -> None:
        self.spec = spec
        self.parts = parts
        self.source = source
        self.native_size = native_size or spec.native_size
        self.origin = dict(origin or {})

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
            init_image, mask, noise, generator: see `Inputs`.
            batch_size: images sampled at a time; None: all of one conditioning length together.

        Raises:
            InvalidRequest: an option does not fit, before anything is computed.
            UnsafeContent: the policy is `block` and an image was flagged.
        """
        inputs = Inputs(init_image=init_image, mask=mask, noise=noise, generator=generator)
        request = self._complete(request, inputs, batch_size)
        latents = self._sample(request, inputs, on_step, batch_size)
        images = self.decode(latents, tiling=request.vae_tiling)
        images = dataclasses.replace(images, warnings=latents.warnings + images.warnings)
        checked = self.check(_keep_unmasked(images, inputs), request.safety, request=request)
        if noise is None and generator is None:
            return checked
        return dataclasses.replace(checked, metadata={**checked.metadata, "noise": "given"})

    @property
    def outline(self) -> Outline:
        """What this pipeline is, without its weights."""
        encoder = self.parts.text_encoder
        return Outline(
            spec=self.spec,
            source=self.source,
            native_size=self.native_size,
            scheduler_config=self.parts.scheduler_config,
            prediction_type=self.parts.prediction_type,
            has_checker=self.parts.safety_checker is not None,
            origin=self.origin,
            embeddings=encoder.embeddings if encoder else None,
        )

    def complete(self, request: ImageRequest) -> ImageRequest:
        """Return the request with the model's own values filled in; see `Outline.complete`."""
        return self.outline.complete(request)

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
        inputs = Inputs(init_image=init_image, mask=mask, noise=noise, generator=generator)
        request = self._complete(request, inputs, batch_size)
        return self._sample(request, inputs, on_step, batch_size)

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
            metadata=self.outline.describe(request) if request else None,
        )

    def _complete(
        self, request: ImageRequest, inputs: Inputs, batch_size: int | None
    ) -> ImageRequest:
        if batch_size is not None:
            check_whole("batch_size", batch_size, 1, 4096)
        request = self.outline.complete(
            request,
            init_image=None if inputs.init_image is None else pixels_digest(inputs.init_image),
            mask=None if inputs.mask is None else pixels_digest(inputs.mask),
        )
        height, width = request.height or 0, request.width or 0
        _check_shape("init_image", inputs.init_image, (3, height, width), (1, request.count))
        _check_shape("mask", inputs.mask, (1, height, width), (1, request.count))
        _check_shape("noise", inputs.noise, (4, height // 8, width // 8), (request.count,))
        return request

    def _sample(
        self,
        request: ImageRequest,
        inputs: Inputs,
        on_step: StepCallback | None,
        batch_size: int | None,
    ) -> Latents:
        """Sample a completed request, group by group."""
        options = self.outline.options(request)
        init = self._encode_init(inputs.init_image, request.count)
        holes = _holes(inputs.mask, request.count)
        noise = inputs.noise
        encoder = _need(self.parts.text_encoder, "text_encoder")
        groups = group_images(encoder, request, batch_size)
        rows_done: dict[int, torch.Tensor] = {}
        for number, group in enumerate(groups):
            latents = sample(
                _need(self.parts.unet, "unet"),
                group.positive,
                group.negative,
                dataclasses.replace(options, seeds=tuple(options.seeds[i] for i in group.rows)),
                scheduler_config=self.parts.scheduler_config,
                prediction_type=self.outline.known_prediction_type(),
                scaling_factor=self._scaling_factor,
                init=None if init is None else Latents(init[group.rows]),
                mask=None if holes is None else holes[group.rows],
                noise=None if noise is None else noise[group.rows],
                generator=inputs.generator,
                on_step=_counted_through(on_step, number, len(groups)),
            )
            rows_done.update(zip(group.rows, latents.samples.cpu(), strict=True))
        warnings = dict.fromkeys(text for group in groups for text in group.warnings)
        samples = torch.stack([rows_done[row] for row in range(request.count)])
        return Latents(samples, tuple(warnings))

    def _encode_init(self, init_image: torch.Tensor | None, count: int) -> torch.Tensor | None:
        """Return the init latents [B, 4, h, w] in VAE space: the posterior's mean."""
        if init_image is None:
            return None
        latents = _need(self.parts.vae, "vae").encode(init_image)
        return latents.samples.expand(count, -1, -1, -1)

    @property
    def _scaling_factor(self) -> float:
        if self.parts.vae is not None:
            return self.parts.vae.scaling_factor
        return self.spec.vae_config.get("scaling_factor", SCALING_FACTOR)


def _need(part: Part | None, name: str) -> Part:
    if part is None:
        raise PipelineError(f"this pipeline was loaded without its {name}; load it with parts=")
    return part


def _holes(mask: torch.Tensor | None, count: int) -> torch.Tensor | None:
    """Return the mask at latent size [B, 1, h, w]: one pixel to repaint repaints its latent."""
    if mask is None:
        return None
    return torch.nn.functional.max_pool2d(mask.float(), 8).expand(count, -1, -1, -1)


def _keep_unmasked(images: Images, inputs: Inputs) -> Images:
    """Put the init image's own pixels back where the mask keeps them."""
    if inputs.init_image is None or inputs.mask is None:
        return images
    pixels = inputs.init_image + inputs.mask * (images.pixels - inputs.init_image)
    return dataclasses.replace(images, pixels=pixels)


def _check_shape(
    name: str, tensor: torch.Tensor | None, size: tuple[int, ...], rows: tuple[int, ...]
) -> None:
    if tensor is None:
        return
    if tensor.ndim != 4 or tuple(tensor.shape[1:]) != size or tensor.shape[0] not in rows:
        wanted = " or ".join(str([count, *size]) for count in dict.fromkeys(rows))
        raise InvalidRequest(f"{name} has shape {list(tensor.shape)}; it must be {wanted}")


def _counted_through(on_step: StepCallback | None, number: int, groups: int) -> StepCallback | None:
    """Return a callback that counts on over the groups."""
    if on_step is None or groups == 1:
        return on_step
    return lambda step: on_step(
        Step(step.index + number * step.total, step.total * groups, step.latents)
    )
