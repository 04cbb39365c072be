"""What travels between the rooms: request, tokens, conditioning, latents, images, checked images.

Frozen dataclasses; tensors in them are never changed in place. Shapes use B images, T tokens,
D conditioning width, H x W pixels.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

from .errors import InvalidRequest, UnknownName
from .ranges import (
    MAX_SEED,
    check_choice,
    check_number,
    check_pixels,
    check_side,
    check_sigmas,
    check_whole,
)

if TYPE_CHECKING:
    import torch
    from PIL import Image

Weighting = Literal["toward-empty", "mean-restored", "none"]
LongPrompt = Literal["chunk", "single", "truncate"]
NoiseConvention = Literal["per-image", "batch", "flagai"]
TimestepRule = Literal["model", "flagai"]
SafetyPolicy = Literal["auto", "block", "black", "blur", "pass", "off"]
GuidanceBatching = Literal["auto", "batched", "two-pass"]


@dataclass(frozen=True, kw_only=True)
class ImageRequest:
    """All that influences a picture, but the pixels of an init image and a mask.

    Hashable, written into the PNG, enough to make the picture again. `None` means the model's own.
    """

    prompts: tuple[str, ...]
    negative_prompts: tuple[str, ...] = ()  # none, one for all, or one for each prompt
    images_per_prompt: int = 1
    width: int | None = None  # pixels, a multiple of 8
    height: int | None = None
    steps: int | None = None  # 2..999 unless the sampler's own table says otherwise
    sampler: str | None = None  # a key of sampling.SAMPLERS
    schedule: str = "model"  # or karras, normal, simple, ddim_uniform
    sigmas: tuple[float, ...] | None = None  # explicit noise levels, falling; overrides schedule
    guidance_scale: float | None = None  # 1 = no second pass
    seed: int = 0  # image i takes seed + i
    noise: NoiseConvention = "per-image"
    eta: float = 0.0  # DDIM: 0 deterministic .. 1 DDPM-like
    timestep_rule: TimestepRule = "model"  # "flagai": DDIM's original timestep table
    strength: float = 1.0  # img2img: 0..1, the share of the steps that run
    init_image: str | None = None  # sha256 of the init image's pixels, None without one
    mask: str | None = None  # sha256 of the mask's pixels, None without one
    weighting: Weighting = "toward-empty"
    long_prompt: LongPrompt = "chunk"
    guidance_batching: GuidanceBatching = "auto"
    vae_tiling: bool = False
    safety: SafetyPolicy = "auto"  # auto: black where the model has a checker, else off
    safety_adjustment: float = 0.0  # added to every score: above 0 is stricter

    def __post_init__(self) -> None:
        for name in ("prompts", "negative_prompts", "sigmas"):
            value = getattr(self, name)
            if value is None and name == "sigmas":
                continue
            if not isinstance(value, (list, tuple)):
                raise InvalidRequest(f"{name} is {value!r}; it must be a list")
            object.__setattr__(self, name, tuple(value))
        check_request(self)

    @property
    def count(self) -> int:
        """Images this request makes."""
        return len(self.prompts) * self.images_per_prompt

    @property
    def seeds(self) -> tuple[int, ...]:
        """One seed an image: `seed + index`, wrapping at 2**64."""
        return tuple((self.seed + index) % (MAX_SEED + 1) for index in range(self.count))

    def single(self, index: int) -> ImageRequest:
        """Return the request that makes image `index` alone.

        Only the `per-image` noise can be cut: under the other conventions the request is returned
        whole, since the batch shares one stream.

        Raises:
            InvalidRequest: there is no such image.
        """
        check_whole("index", index, 0, self.count - 1)
        if self.noise != "per-image":
            return self
        row = index // self.images_per_prompt
        negatives = self.negative_prompts
        return dataclasses.replace(
            self,
            prompts=(self.prompts[row],),
            negative_prompts=negatives if len(negatives) < 2 else (negatives[row],),
            images_per_prompt=1,
            seed=self.seeds[index],
        )

    def to_metadata(self) -> dict[str, Any]:
        """Return plain JSON values of every field."""
        return dataclasses.asdict(self)

    @classmethod
    def from_metadata(cls, values: Mapping[str, Any]) -> ImageRequest:
        """Read what `to_metadata` wrote; unknown fields are an error.

        Raises:
            InvalidRequest: a field is unknown or has a wrong value.
        """
        known = [item.name for item in dataclasses.fields(cls)]
        for name in values:
            if name not in known:
                raise UnknownName("request field", name, known)
        if "prompts" not in values:
            raise InvalidRequest("the request has no prompts")
        return cls(**values)


def check_request(request: ImageRequest) -> None:
    """Check every field that can be checked without a model.

    Raises:
        InvalidRequest: naming the field, the value received and the range.
    """
    _check_prompts(request)
    check_whole("images_per_prompt", request.images_per_prompt, 1, 4096)
    for name in ("width", "height"):
        if getattr(request, name) is not None:
            check_side(name, getattr(request, name))
    check_pixels(request.width or 512, request.height or 512, request.count)
    if request.steps is not None:
        check_whole("steps", request.steps, 1, 1000)
    check_whole("seed", request.seed, 0, MAX_SEED)
    check_sigmas(request.sigmas)
    for name, (low, high) in _RANGES.items():
        if getattr(request, name) is not None:
            check_number(name, getattr(request, name), low, high)
    for name, choices in _CHOICES.items():
        check_choice(name, getattr(request, name), choices)
    _check_names(request)
    if request.mask is not None and request.init_image is None:
        raise InvalidRequest("a mask needs an init image to keep what it leaves out")


_RANGES: dict[str, tuple[float, float]] = {
    "guidance_scale": (0.0, 1000.0),
    "eta": (0.0, 1.0),
    "strength": (0.0, 1.0),
    "safety_adjustment": (-1.0, 1.0),
}
_CHOICES: dict[str, tuple[str, ...]] = {
    "noise": get_args(NoiseConvention),
    "timestep_rule": get_args(TimestepRule),
    "weighting": get_args(Weighting),
    "long_prompt": get_args(LongPrompt),
    "guidance_batching": get_args(GuidanceBatching),
    "safety": get_args(SafetyPolicy),
}


def _check_prompts(request: ImageRequest) -> None:
    if not request.prompts:
        raise InvalidRequest("prompts is empty; give at least one (it may be the empty string)")
    for name in ("prompts", "negative_prompts"):
        for value in getattr(request, name):
            if not isinstance(value, str):
                raise InvalidRequest(f"{name} holds {value!r}; every entry must be a string")
    count = len(request.negative_prompts)
    if count not in (0, 1, len(request.prompts)):
        raise InvalidRequest(
            f"{count} negative prompts for {len(request.prompts)} prompts; "
            "give none, one for all, or one for each"
        )


def _check_names(request: ImageRequest) -> None:
    if not isinstance(request.vae_tiling, bool):
        raise InvalidRequest(f"vae_tiling is {request.vae_tiling!r}; it must be true or false")
    if not (request.sampler is None or isinstance(request.sampler, str)):
        raise InvalidRequest(f"sampler is {request.sampler!r}; it must be a name")
    if not isinstance(request.schedule, str):
        raise InvalidRequest(f"schedule is {request.schedule!r}; it must be a name")
    for name in ("init_image", "mask"):
        digest = getattr(request, name)
        if digest is not None and not (isinstance(digest, str) and _SHA256.fullmatch(digest)):
            raise InvalidRequest(f"{name} is {digest!r:.80}; it must be the sha256 of its pixels")


_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class TokenBatch:
    """Token ids of several prompts, all of one length.

    `ids` and `mask` are [B, T], int64 and bool; T is a multiple of the window where prompts are
    chunked. `weights` [B, T] float32 is 1 where the prompt sets none. `window` is the length the
    encoder sees at a time (T when the prompt goes in one pass).
    """

    ids: torch.Tensor
    mask: torch.Tensor
    weights: torch.Tensor
    window: int
    warnings: tuple[str, ...] = ()

    @property
    def chunks(self) -> int:
        """Windows a prompt was cut into."""
        return self.ids.shape[1] // self.window


@dataclass(frozen=True)
class Conditioning:
    """What the UNet attends to: `embeddings` [B, T, D]; `mask` [B, T] is for reports only.

    The UNet gets no mask: pads are attended, as in the original code (models.md section 0).
    """

    embeddings: torch.Tensor
    mask: torch.Tensor | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Latents:
    """`samples` [B, 4, H/8, W/8] in VAE space (already divided by the scaling factor)."""

    samples: torch.Tensor
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Images:
    """`pixels` [B, 3, H, W] float32 in 0..1, on the CPU."""

    pixels: torch.Tensor
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """What the checker said of one image; scores above 0 flag it."""

    flagged: bool
    concept_scores: tuple[float, ...] = ()
    special_scores: tuple[float, ...] = ()


@dataclass(frozen=True)
class CheckedImages:
    """Images that went through the safety gate; the only thing `write_png` takes.

    `pixels` [B, 3, H, W] in 0..1 after the policy acted; `policy` is what really applied;
    `metadata` is strict JSON and enough to make the pictures again.
    """

    pixels: torch.Tensor
    verdicts: tuple[Verdict, ...]
    policy: SafetyPolicy
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])
    warnings: tuple[str, ...] = ()

    def to_pil(self) -> list[Image.Image]:
        """Return one RGB picture an image, rounded to 8 bits."""
        import numpy as np
        from PIL import Image

        pixels = self.pixels.clamp(0.0, 1.0).permute(0, 2, 3, 1).numpy()
        array = (pixels * 255.0).round().astype(np.uint8)
        return [Image.fromarray(row) for row in array]


@dataclass(frozen=True)
class Step:
    """What a step callback receives. `latents` is the model's current estimate of the clean
    latents [B, 4, h, w] in VAE space; `index` counts from 0."""

    index: int
    total: int
    latents: torch.Tensor


# Called after each step; raise `Cancelled` to stop.
StepCallback = Callable[[Step], None]
