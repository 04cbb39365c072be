"""Between ComfyUI's sockets and the library's values; nothing that comes in is ever changed.

IMAGE is [B, H, W, C] in 0..1, MASK [B, H, W], LATENT {"samples": [B, 4, h, w] in VAE space},
CONDITIONING a list of [tensor [B, T, D], dict].
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..pipeline_core.errors import InvalidRequest, UnknownName
from ..pipeline_core.values import Conditioning, Images, Latents
from . import host

if TYPE_CHECKING:
    import torch

    from ..pipeline_core.sampling.regions import PromptRegion

logger = logging.getLogger("multilingual_diffusion")

# In a conditioning's dict: one encoded empty window [W, D], by which the shorter side is filled up
EMPTY_WINDOW = "multilingual_empty_window"

# What only the host's own sampler can do
_HOST_ONLY = ("control", "gligen", "hooks", "default", "concat_latent_image", "noise_concat")


def check_choice(kind: str, value: str, known: Sequence[str]) -> None:
    """Check a combo's value again: what comes from a workflow file was not always checked.

    Raises:
        UnknownName: it is none of the known ones.
    """
    if value not in known:
        raise UnknownName(kind, value, known)


def log_warnings(warnings: Sequence[str]) -> None:
    """Tell the user what was not as it should be."""
    for warning in warnings:
        logger.warning("%s", warning)


# -- IMAGE and MASK


def to_comfy_image(pixels: torch.Tensor) -> torch.Tensor:
    """Turn [B, 3, H, W] into an IMAGE [B, H, W, 3]."""
    return pixels.permute(0, 2, 3, 1).contiguous().to(host.intermediate_device()).float()


def from_comfy_image(image: torch.Tensor) -> torch.Tensor:
    """Turn an IMAGE into pixels [B, 3, H, W] float32 on the CPU; alpha is left out.

    Raises:
        InvalidRequest: it is no batch of RGB pictures.
    """
    if image.ndim != 4 or image.shape[3] not in (3, 4) or not image.numel():
        raise InvalidRequest(f"the image has shape {list(image.shape)}; it must be [B, H, W, 3]")
    pixels = image[..., :3].permute(0, 3, 1, 2).contiguous().cpu().float()
    return pixels.clamp(0.0, 1.0)


def to_images(image: torch.Tensor) -> Images:
    """Turn an IMAGE into `Images`."""
    return Images(from_comfy_image(image))


def from_comfy_mask(mask: torch.Tensor) -> torch.Tensor:
    """Turn a MASK [B, H, W], [H, W] or [B, 1, H, W] into [B, 1, H, W] float32 on the CPU.

    Raises:
        InvalidRequest: it has another shape.
    """
    if mask.ndim == 2:
        mask = mask[None]
    if mask.ndim == 3:
        mask = mask[:, None]
    if mask.ndim != 4 or mask.shape[1] != 1 or not mask.numel():
        raise InvalidRequest(f"the mask has shape {list(mask.shape)}; it must be [B, H, W]")
    return mask.cpu().float().clamp(0.0, 1.0)


def to_comfy_mask(mask: torch.Tensor) -> torch.Tensor:
    """Turn [B, 1, H, W] into a MASK [B, H, W]."""
    return mask[:, 0].to(host.intermediate_device()).float()


# -- LATENT


def to_comfy_latent(latents: Latents, **more: Any) -> dict[str, Any]:
    """Turn latents into a LATENT; `more` are its further keys, such as `noise_mask`."""
    return {"samples": latents.samples.to(host.intermediate_device()).float(), **more}


def from_comfy_latent(latent: Mapping[str, Any]) -> Latents:
    """Turn a LATENT into latents, float32 on the CPU.

    Raises:
        InvalidRequest: it does not hold [B, 4, h, w].
    """
    samples = latent["samples"]
    if samples.ndim != 4 or samples.shape[1] != 4 or not samples.numel():
        raise InvalidRequest(
            f"the latent has shape {list(samples.shape)}; these models take [B, 4, h, w]"
        )
    return Latents(samples.cpu().float())


def noise_mask(latent: Mapping[str, Any]) -> torch.Tensor | None:
    """Return the LATENT's mask [B, 1, h, w] at its size, None without one."""
    import torch

    if latent.get("noise_mask") is None:
        return None
    count, _, height, width = latent["samples"].shape
    mask = from_comfy_mask(latent["noise_mask"])
    if mask.shape[2:] != (height, width):
        mask = torch.nn.functional.interpolate(mask, size=(height, width), mode="bilinear")
    return repeat_rows(mask, count)


def seeds_of(latent: Mapping[str, Any], seed: int) -> tuple[int, ...]:
    """Return one seed an image: `seed` + its index in the batch it was taken from."""
    count = latent["samples"].shape[0]
    indices = latent.get("batch_index") or range(count)
    if len(indices) != count:
        raise InvalidRequest(f"the latent has {count} images and {len(indices)} batch indices")
    return tuple((seed + int(index)) % 2**64 for index in indices)


# -- CONDITIONING


def to_comfy_conditioning(
    conditioning: Conditioning, empty_window: torch.Tensor | None = None
) -> list[list[Any]]:
    """Turn conditioning [B, T, D] into a CONDITIONING of one entry."""
    device = host.intermediate_device()
    more: dict[str, Any] = {"pooled_output": None}
    if empty_window is not None:
        more[EMPTY_WINDOW] = empty_window.to(device).float()
    return [[conditioning.embeddings.to(device).float(), more]]


def from_comfy_conditioning(
    positive: Sequence[Any], negative: Sequence[Any], count: int
) -> tuple[list[PromptRegion], list[PromptRegion]]:
    """Turn both CONDITIONINGs into regions for so many images.

    Rows are repeated or cut to the number of images, as the host does. Of one entry a side, the
    shorter is filled up with encoded empty windows, where both come from our encoders.

    Raises:
        InvalidRequest: a side is empty, or asks for what only the host's sampler can do.
    """
    if len(positive) == len(negative) == 1:
        positive, negative = _fill_up(positive, negative), _fill_up(negative, positive)
    return (
        [_to_region("positive", entry, count) for entry in positive],
        [_to_region("negative", entry, count) for entry in negative],
    )


def _fill_up(side: Sequence[Any], other: Sequence[Any]) -> Sequence[Any]:
    """Return one side's only entry at the length of the other's, where that is possible."""
    import torch

    (embeddings, more), longer = side[0], other[0][0]
    window = more.get(EMPTY_WINDOW)
    if window is None or embeddings is None or longer is None or EMPTY_WINDOW not in other[0][1]:
        return side
    windows, rest = divmod(longer.shape[1] - embeddings.shape[1], window.shape[0])
    if windows < 1 or rest:
        return side
    filling = window.repeat(windows, 1).expand(embeddings.shape[0], -1, -1)
    return [[torch.cat([embeddings, filling.to(embeddings)], dim=1), more]]


def _to_region(side: str, entry: Sequence[Any], count: int) -> PromptRegion:
    from ..pipeline_core.sampling.regions import PromptRegion

    embeddings, more = entry
    if embeddings is None or embeddings.ndim != 3:
        raise InvalidRequest(f"the {side} conditioning holds no text embeddings [B, T, D]")
    beyond = [name for name in _HOST_ONLY if more.get(name) is not None]
    if beyond:
        raise InvalidRequest(
            f"the {side} conditioning asks for {beyond[0]!r}, which only ComfyUI's own sampler "
            "can do; take its KSampler, or leave that node out"
        )
    if embeddings.shape[0] > count:
        log_warnings(
            [f"the {side} conditioning has {embeddings.shape[0]} rows for {count} images; "
             "the rest is not used: raise the batch size"]
        )  # fmt: skip
    area, in_shares = _area(more.get("area"))
    mask = more.get("mask")
    return PromptRegion(
        embeddings=repeat_rows(embeddings.float(), count),
        strength=float(more.get("strength", 1.0)),
        area=area,
        area_in_shares=in_shares,
        mask=None if mask is None else repeat_rows(from_comfy_mask(mask)[:, 0], count),
        mask_strength=float(more.get("mask_strength", 1.0)),
        area_from_mask=bool(more.get("set_area_to_bounds", False)),
        start=float(more.get("start_percent", 0.0)),
        end=float(more.get("end_percent", 1.0)),
    )


def _area(area: Any) -> tuple[tuple[float, float, float, float] | None, bool]:
    """Return (height, width, top, left), and whether these are shares of the picture."""
    if area is None:
        return None, False
    in_shares = area[0] == "percentage"
    numbers = tuple(area[1:] if in_shares else area)
    if len(numbers) != 4:
        raise InvalidRequest(f"the conditioning's area is {area!r}; a picture's has four numbers")
    return numbers, in_shares


def repeat_rows(tensor: torch.Tensor, count: int) -> torch.Tensor:
    """Return so many rows: one serves all, several go round, too many are cut; always a view or
    a copy, never the tensor changed."""
    import torch

    if tensor.shape[0] in (1, count):
        return tensor
    rows = torch.arange(count, device=tensor.device) % tensor.shape[0]
    return tensor[rows]
