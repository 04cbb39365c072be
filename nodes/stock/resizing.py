"""Batches of channels [B, C, H, W] brought to another size, as the host's nodes do it.

`bislerp` goes from one latent pixel to the next along the arc between their vectors of channels.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

IMAGE_METHODS = ["nearest-exact", "bilinear", "area", "bicubic", "lanczos"]
LATENT_METHODS = ["nearest-exact", "bilinear", "area", "bicubic", "bislerp"]
CROPS = ["disabled", "center"]

_PARALLEL = 1 - 1e-5  # cosine from which two vectors count as one direction, or as opposites


def resize(
    samples: torch.Tensor, width: int, height: int, method: str, crop: str = "disabled"
) -> torch.Tensor:
    """Return samples [B, C, height, width]; `crop` "center" cuts to the new proportions first."""
    if crop == "center":
        samples = _cut_to_proportions(samples, width / height)
    if method == "bislerp":
        return _bislerp(samples, width, height)
    if method == "lanczos":
        return _lanczos(samples, width, height)
    return torch.nn.functional.interpolate(samples, size=(height, width), mode=method)


def resize_image(
    image: torch.Tensor, width: int, height: int, method: str, crop: str = "disabled"
) -> torch.Tensor:
    """Return an IMAGE [B, height, width, C]."""
    return resize(image.movedim(-1, 1), width, height, method, crop).movedim(1, -1)


def _cut_to_proportions(samples: torch.Tensor, proportions: float) -> torch.Tensor:
    height, width = samples.shape[-2:]
    old = width / height
    left = round((width - width * (proportions / old)) / 2) if old > proportions else 0
    top = round((height - height * (old / proportions)) / 2) if old < proportions else 0
    return samples[..., top : height - top, left : width - left]


def _lanczos(samples: torch.Tensor, width: int, height: int) -> torch.Tensor:
    """Resize each picture with Pillow, in 8 bits that are cut off, not rounded."""
    pictures = (samples.movedim(1, -1).cpu().numpy() * 255.0).clip(0, 255).astype(np.uint8)
    channels = samples.shape[1]
    resized = [
        np.asarray(
            Image.fromarray(picture[..., 0] if channels == 1 else picture).resize(
                (width, height), Image.Resampling.LANCZOS
            )
        )
        for picture in pictures
    ]
    array = np.stack(resized).reshape(-1, height, width, channels).astype(np.float32) / 255.0
    return torch.from_numpy(array).movedim(-1, 1).to(samples)


def _bislerp(samples: torch.Tensor, width: int, height: int) -> torch.Tensor:
    result = samples.float()
    for axis, length in ((3, width), (2, height)):
        old = result.shape[axis]
        here = torch.arange(old, dtype=torch.float32, device=samples.device)
        place = _spread(here, length)
        after = _spread((here + 1).clamp(max=old - 1), length)
        shape = [1, 1, 1, 1]
        shape[axis] = length
        share = (place - place.floor()).view(shape)
        first, second = (result.index_select(axis, each.long()) for each in (place, after))
        result = _along_the_arc(first, second, share)
    return result.to(samples.dtype)


def _spread(values: torch.Tensor, length: int) -> torch.Tensor:
    """Stretch a row of values to a new length."""
    row = values.view(1, 1, 1, -1)
    return torch.nn.functional.interpolate(row, size=(1, length), mode="bilinear").flatten()


def _along_the_arc(first: torch.Tensor, second: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    """Return what lies at `share` of the way from the first vectors [B, C, H, W] to the second.

    Directions turn evenly, lengths change linearly; nearly equal directions give the first vector,
    opposite ones the straight way.
    """
    lengths = [each.norm(dim=1, keepdim=True) for each in (first, second)]
    units = [
        torch.where(length == 0, 0.0, each / length)
        for each, length in zip((first, second), lengths, strict=True)
    ]
    cosine = (units[0] * units[1]).sum(1, keepdim=True)
    angle = torch.acos(cosine)
    weights = [torch.sin(part * angle) / torch.sin(angle) for part in (1 - share, share)]
    arc = weights[0] * units[0] + weights[1] * units[1]
    result = arc * (lengths[0] * (1 - share) + lengths[1] * share)
    result = torch.where(cosine > _PARALLEL, first, result)
    return torch.where(cosine < -_PARALLEL, first * (1 - share) + second * share, result)
