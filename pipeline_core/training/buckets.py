"""Aspect-ratio buckets: each batch has one size, and each picture is cropped to the nearest.

The idea that makes tall and wide pictures work (AltDiffusion model card; NovelAI 2022).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import InvalidRequest

if TYPE_CHECKING:
    from PIL import Image

Size = tuple[int, int]  # (height, width) in pixels


def make_buckets(native: int, *, step: int = 64, widest: float = 2.0) -> tuple[Size, ...]:
    """List sizes of about native x native pixels, sides multiples of `step`, the square first.

    Raises:
        InvalidRequest: `step` is no multiple of 8, or the native size none of `step`.
    """
    if step % 8 or step < 8 or native % step:
        raise InvalidRequest(f"native {native} must be a multiple of step {step}, step of 8")
    sizes = [(native, native)]
    for width in range(native + step, 2 * native + 1, step):
        height = native * native // width // step * step
        if height >= step and width / height <= widest:
            sizes += [(height, width), (width, height)]
    return tuple(sizes)


def nearest_bucket(width: int, height: int, buckets: Sequence[Size]) -> Size:
    """Return the bucket whose aspect ratio is nearest that of a picture."""
    ratio = math.log(width / height)
    return min(buckets, key=lambda size: abs(math.log(size[1] / size[0]) - ratio))


def crop_to(picture: Image.Image, size: Size) -> Image.Image:
    """Resize a picture to cover `size` and cut the middle out."""
    from PIL import Image, ImageOps

    return ImageOps.fit(picture, (size[1], size[0]), Image.Resampling.LANCZOS)
