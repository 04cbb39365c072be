"""Which shape a mask has: mask [H, W] in, name, likeness and true centre and size out.

The mask is laid on a grid around its centroid, as large as its area tells, and compared with the
renderer's own shapes at all tilts, crisp and as blur rounds them: a star with soft tips is a star.
"""

from __future__ import annotations

import functools
import itertools
import math
from typing import NamedTuple

import numpy as np
import torch

from .drawing import TILT, coverage
from .shapes import DISTANCES

GRID = 32  # cells a side
REACH = 0.95  # half the grid's side, in roots of the area: the farthest tip is at 0.89
TILTS = (-1.5, -0.75, 0.0, 0.75, 1.5)  # of the renderer's largest
SIZES = (28, 60)  # pixels: edges are softer, in cells, on small things
BLURS = (0.0, 0.055, 0.11)  # deviation in shares of the size, cut at half coverage afterwards
_EDGE = 20.0  # steepness of that cut: about a pixel of soft edge


class Match(NamedTuple):
    """The likest shape."""

    kind: str  # a key of DISTANCES
    likeness: float  # soft intersection over union, 0..1
    x: float  # centre of the shape's box, pixels
    y: float
    size: float  # pixels, as the renderer counts it


class _Bank(NamedTuple):
    kinds: list[str]  # M
    grids: np.ndarray  # (M, GRID * GRID)
    offsets: np.ndarray  # (M, 2) from the centroid to the shape's middle, in roots of the area
    roots: np.ndarray  # (M) root of the area, in sizes


def match(mask: np.ndarray) -> Match:
    """Compare a mask [H, W], 0..1 and not empty, with each shape of the world."""
    bank = _bank()
    grid, (x, y), root = _laid_on_grid(mask)
    shared = np.minimum(bank.grids, grid).sum(1)
    likeness = shared / (bank.grids.sum(1) + grid.sum() - shared)
    best = int(likeness.argmax())
    dx, dy = bank.offsets[best] * root
    return Match(bank.kinds[best], float(likeness[best]), x + dx, y + dy, root / bank.roots[best])


@functools.cache
def _bank() -> _Bank:
    kinds: list[str] = []
    rows: list[tuple[np.ndarray, tuple[float, float], float]] = []
    for kind, size, tilt, blur in itertools.product(DISTANCES, SIZES, TILTS, BLURS):
        template = _blurred(_template(kind, size, tilt * TILT), blur * size)
        grid, (x, y), root = _laid_on_grid(template.numpy())
        kinds.append(kind)
        rows.append((grid, ((size - x) / root, (size - y) / root), root / size))
    grids, offsets, roots = zip(*rows, strict=True)
    return _Bank(kinds, np.stack(grids), np.array(offsets), np.array(roots))


def _template(kind: str, size: int, angle: float) -> torch.Tensor:
    """Draw a shape in the middle of a canvas twice its size."""
    steps = (torch.arange(2 * size) + 0.5 - size) / size
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    cos, sin = math.cos(angle), math.sin(angle)
    return coverage(kind, cos * x + sin * y, cos * y - sin * x, size)


def _blurred(mask: torch.Tensor, deviation: float) -> torch.Tensor:
    """Blur a mask [H, W] and cut it where half was covered, as a reader of colours does."""
    if not deviation:
        return mask
    reach = math.ceil(3 * deviation)
    kernel = torch.exp(-(torch.arange(-reach, reach + 1.0) ** 2) / (2 * deviation**2))
    kernel = kernel / kernel.sum()
    for _ in range(2):  # rows, then columns
        rows = torch.nn.functional.conv1d(mask[:, None], kernel[None, None], padding=reach)
        mask = rows[:, 0].T
    return torch.sigmoid((mask - 0.5) * _EDGE)


def _laid_on_grid(mask: np.ndarray) -> tuple[np.ndarray, tuple[float, float], float]:
    """Return the mask's cells [GRID * GRID], its centroid (x, y) and the root of its area."""
    height, width = mask.shape
    columns, rows, area = mask.sum(0), mask.sum(1), float(mask.sum())
    x = float(columns @ (np.arange(width) + 0.5)) / area
    y = float(rows @ (np.arange(height) + 0.5)) / area
    root = math.sqrt(area)
    steps = (np.arange(GRID) + 0.5) * (2 * REACH * root / GRID) - REACH * root
    across = _weights(x + steps, width)
    down = _weights(y + steps, height)
    return (down @ mask @ across.T).ravel(), (x, y), root


def _weights(positions: np.ndarray, length: int) -> np.ndarray:
    """Return [GRID, length]: linear interpolation between pixel middles, 0 outside."""
    return np.maximum(0, 1 - np.abs(positions[:, None] - (np.arange(length) + 0.5))).astype("f4")
