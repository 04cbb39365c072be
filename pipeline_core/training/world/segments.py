"""Pixels to regions of the ten colours, whatever blur, noise or a VAE did to the edges.

Edges are pushed to one side (Kuwahara's filter, 1976), pixels take the nearest palette colour, and
slivers that are left between two colours go to these.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional

from .palette import COLOURS, PALETTE
from .regions import Region, find_regions

WORKING_SIDE = 96  # pictures are averaged down, by a whole number, to about this many pixels
MAX_DISTANCE = 0.27  # of RGB in 0..1, beyond which a colour has no everyday name here
MIN_BULK = 0.3  # share of a region's pixels not at its edge; slivers have less

_PALETTE = torch.tensor(list(PALETTE.values())) / 255


class Segments(NamedTuple):
    """A picture taken apart; the first region is the background."""

    regions: list[Region]
    numbers: np.ndarray  # (H, W) region of each pixel
    colours: list[str | None]  # of each region, None where it is like none of the ten


def segment(pixels: torch.Tensor) -> Segments:
    """Take a picture [3, H, W], 0..1, apart; what most of the rim shows is the background."""
    distances = _palette_distances(_sharpened(_working_copy(pixels)))
    nearest, labels = (value.numpy() for value in distances.min(0))
    rim = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    ground = int(np.bincount(rim).argmax())
    regions, numbers = find_regions(labels, ground)
    sliver = _slivers(regions, numbers)
    if sliver.any():
        kept = {region.label for region in regions if not sliver[region.number]}
        at = sliver[numbers]
        labels[at] = _second_choice(distances.numpy()[:, at], labels[at], kept | {ground})
        regions, numbers = find_regions(labels, ground)
    far = np.bincount(numbers.ravel(), weights=nearest.ravel(), minlength=len(regions))
    colours = [
        COLOURS[region.label] if total <= MAX_DISTANCE**2 * region.area else None
        for region, total in zip(regions, far, strict=True)
    ]
    return Segments(regions, numbers, colours)


def _working_copy(pixels: torch.Tensor) -> torch.Tensor:
    factor = max(1, round(min(pixels.shape[1:]) / WORKING_SIDE))
    pixels = pixels.detach().to("cpu", torch.float32)
    return functional.avg_pool2d(pixels, factor) if factor > 1 else pixels


def _sharpened(plane: torch.Tensor) -> torch.Tensor:
    """Give each pixel of [3, H, W] the mean of the calmest 3x3 window it is a corner of."""
    height, width = plane.shape[1:]
    padded = functional.pad(plane[None], (2, 2, 2, 2), mode="replicate")[0]
    means, squares = _box_means(torch.cat([padded, padded * padded])).chunk(2)  # (3, H + 2, W + 2)
    unrest = (squares - means * means).sum(0)
    best, result = torch.full((height, width), torch.inf), plane
    for top in (0, 2):
        for left in (0, 2):
            rows, columns = slice(top, top + height), slice(left, left + width)
            here = unrest[rows, columns]
            result = torch.where(here < best, means[:, rows, columns], result)
            best = torch.minimum(best, here)
    return result


def _box_means(planes: torch.Tensor) -> torch.Tensor:
    """Average 3x3 windows of [C, H, W]; several times as fast as pooling."""
    rows = planes[:, :-2] + planes[:, 1:-1] + planes[:, 2:]
    return (rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]) / 9


def _palette_distances(plane: torch.Tensor) -> torch.Tensor:
    """Return squared distances [colours, H, W] of [3, H, W] to the palette."""
    pixels = plane.flatten(1)
    crossed = torch.addmm((_PALETTE**2).sum(1, keepdim=True), _PALETTE, pixels, alpha=-2)
    return (crossed + (pixels * pixels).sum(0)).unflatten(1, plane.shape[1:])


def _slivers(regions: list[Region], numbers: np.ndarray) -> np.ndarray:
    """Say of each region whether nearly all of it is edge."""
    inner = numbers[1:-1, 1:-1]
    deep = (inner == numbers[:-2, 1:-1]) & (inner == numbers[2:, 1:-1])
    deep &= (inner == numbers[1:-1, :-2]) & (inner == numbers[1:-1, 2:])
    bulk = np.bincount(inner[deep], minlength=len(regions))
    return bulk < MIN_BULK * np.array([region.area for region in regions])


def _second_choice(distances: np.ndarray, labels: np.ndarray, kept: set[int]) -> np.ndarray:
    """Return the nearest of the kept labels, not the present one, from [colours, N]."""
    distances[[label for label in range(len(COLOURS)) if label not in kept]] = np.inf
    distances[labels, np.arange(len(labels))] = np.inf
    return distances.argmin(0)
