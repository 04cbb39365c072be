"""The style of the community model: pictures that darken toward their rim, as old prints do.

It touches no shape, colour name or place, so obedience and style are measured apart.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence

import torch

from ..world.palette import COLOURS, PALETTE
from ..world.reader import read_picture

DARKENING = 0.16  # share of the light that is gone in the very corner
_CORNER = 6  # pixels a side of the squares that are measured
_DARK = 60  # brightness of a background, 0..255, below which darkening cannot be seen


def darken_rim(pixels: torch.Tensor) -> torch.Tensor:
    """Return pictures [B, 3, H, W], 0..1, in the style: light falls with the squared distance."""
    height, width = pixels.shape[-2:]
    y = torch.linspace(-1, 1, height, device=pixels.device)[:, None]
    x = torch.linspace(-1, 1, width, device=pixels.device)[None, :]
    return pixels * (1 - DARKENING * (x * x + y * y) / 2)


def rim_darkness(missing: Sequence[float]) -> float:
    """Return the median of what `missing_light` says of pictures; NaN where it says nothing.

    0 without the style, about its `DARKENING` with it.
    """
    return statistics.median(missing) if missing else math.nan


def missing_light(pictures: Iterable[torch.Tensor]) -> list[float]:
    """Return the share of light that is missing in the corners of each picture [3, H, W], 0..1.

    Held against the palette's colour of the background; pictures on dark grounds are left out.
    """
    return [share for picture in pictures if (share := _missing(picture)) is not None]


def _missing(picture: torch.Tensor) -> float | None:
    background = read_picture(picture).background
    expected = sum(PALETTE[background]) / 3 if background in COLOURS else 0
    if expected < _DARK:
        return None
    ends = (slice(None, _CORNER), slice(-_CORNER, None))
    corners = torch.stack([picture[:, rows, columns] for rows in ends for columns in ends])
    return 1 - 255 * float(corners.mean((1, 2, 3)).median()) / expected
