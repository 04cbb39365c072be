"""Regions of one label and how they nest: label map [H, W] in, a tree of regions out.

Rows are cut into runs of one label, runs that touch are joined (4-connected), and each region
finds the one around it through the pixel above its first.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass(eq=False)
class Region:
    """A connected area of one label; `parent` is the region around it, None for the ground."""

    number: int  # in the map of regions
    label: int
    box: tuple[int, int, int, int]  # top, left, bottom, right; the last two exclusive
    area: int  # pixels
    parent: Region | None = None
    children: list[Region] = field(default_factory=list["Region"])

    @property
    def is_hole(self) -> bool:
        """Whether what is around the parent shows through here."""
        behind = self.parent.parent if self.parent else None
        return behind is not None and behind.label == self.label

    def surrounds(self, other: Region) -> bool:
        """Say whether the other's box lies within this one's, edges apart."""
        (top, left, bottom, right), inner = self.box, other.box
        return top < inner[0] and left < inner[1] and inner[2] < bottom and inner[3] < right

    def family(self) -> list[Region]:
        """List this region and all within it."""
        return [self, *(region for child in self.children for region in child.family())]

    def filled(self) -> list[Region]:
        """List this region and all that lies on it; its own holes, and what is in them, do not."""
        on_it = [child for child in self.children if not child.is_hole]
        return [self, *(region for child in on_it for region in child.family())]


def find_regions(labels: np.ndarray, ground: int) -> tuple[list[Region], np.ndarray]:
    """Split a map into regions, as if `ground` went on beyond its rim.

    Returns:
        The regions in order of their first pixels, the ground first, and the map [H, W] of their
        numbers. The ground's box is one pixel larger than the map on each side.
    """
    labels = np.pad(labels, 1, constant_values=ground)
    starts = np.ones(labels.shape, dtype=bool)
    starts[:, 1:] = labels[:, 1:] != labels[:, :-1]
    runs = np.cumsum(starts).reshape(labels.shape) - 1  # (H, W) number of the run
    numbers = _join(_touching(labels, runs), int(runs[-1, -1]) + 1)
    region_map = numbers[runs]
    boxes, first_pixels = _boxes(starts, numbers)
    areas = np.bincount(region_map[1:-1, 1:-1].ravel(), minlength=len(boxes))
    regions: list[Region] = []
    for (row, column), box, area in zip(first_pixels, boxes, areas.tolist(), strict=True):
        region = Region(len(regions), int(labels[row, column]), box, area)
        _nest(region, regions[region_map[row - 1, column]] if regions else None)
        regions.append(region)
    return regions, region_map[1:-1, 1:-1]


def _touching(labels: np.ndarray, runs: np.ndarray) -> np.ndarray:
    """Return pairs [N, 2] of runs of one label, one above the other; each pair once."""
    upper, lower = runs[:-1], runs[1:]
    fresh = np.ones(upper.shape, dtype=bool)
    fresh[:, 1:] = (upper[:, 1:] != upper[:, :-1]) | (lower[:, 1:] != lower[:, :-1])
    fresh &= labels[:-1] == labels[1:]
    return np.stack([upper[fresh], lower[fresh]], axis=1)


def _join(pairs: np.ndarray, count: int) -> np.ndarray:
    """Return the region of each run; regions count in order of their first run.

    Each run points at the least it touches and pointers are followed to their ends, until all
    agree.
    """
    root = np.arange(count)
    while True:
        one, other = root[pairs[:, 0]], root[pairs[:, 1]]
        if (one == other).all():
            return np.unique(root, return_inverse=True)[1]
        np.minimum.at(root, np.maximum(one, other), np.minimum(one, other))
        while (root[root] != root).any():
            root = root[root]


def _boxes(
    starts: np.ndarray, numbers: np.ndarray
) -> tuple[list[tuple[int, int, int, int]], list[tuple[int, int]]]:
    """Return each region's box, without the padding, and its first pixel, with it."""
    width = starts.shape[1]
    rows, columns = np.nonzero(starts)
    stops = np.append(np.flatnonzero(starts)[1:], starts.size) - rows * width
    order = np.argsort(numbers, kind="stable")
    bounds = np.flatnonzero(np.diff(numbers[order], prepend=-1))
    edges = (
        np.minimum.reduceat(rows[order], bounds) - 1,
        np.minimum.reduceat(columns[order], bounds) - 1,
        np.maximum.reduceat(rows[order], bounds),
        np.maximum.reduceat(stops[order], bounds) - 1,
    )
    first = order[bounds]  # the run that holds each region's first pixel
    pixels = zip(rows[first].tolist(), columns[first].tolist(), strict=True)
    return list(zip(*(edge.tolist() for edge in edges), strict=True)), list(pixels)


def _nest(region: Region, above: Region | None) -> None:
    """Hang a region below the innermost one around it; one beside it is not around it."""
    while above is not None and not above.surrounds(region):
        above = above.parent
    if above is not None:
        region.parent = above
        above.children.append(region)
