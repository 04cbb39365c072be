"""Where and when a prompt speaks: areas, masks, strengths and parts of the schedule.

The rules are those of ComfyUI's conditioning nodes, so that their output means here what it means
there; `regional.py` samples with them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from ..errors import InvalidRequest
from .schedules import Table, sigmas_of

_FEATHER = 8  # latent pixels over which the inner edges of an area fade
_LEAST_SIDE = 8  # latent pixels of an area made from a mask

Box = tuple[int, int, int, int]  # height, width, top, left


@dataclass(frozen=True, kw_only=True)
class PromptRegion:
    """One prompt, where and when it speaks; by default everywhere and always.

    `embeddings` [1 or B, T, D]. `area` is (height, width, top, left) in latent pixels, or in shares
    of the picture where `area_in_shares`. `mask` [1 or B, H, W] of any size. `start` and `end` are
    0..1 of the schedule, counted from full noise.
    """

    embeddings: torch.Tensor
    strength: float = 1.0
    area: tuple[float, float, float, float] | None = None
    area_in_shares: bool = False
    mask: torch.Tensor | None = None
    mask_strength: float = 1.0
    area_from_mask: bool = False  # look only at the box around the mask
    start: float = 0.0
    end: float = 1.0

    @property
    def is_plain(self) -> bool:
        """Whether it speaks everywhere and always."""
        bounded = self.area is not None or self.mask is not None
        return not bounded and self.strength == 1 and self.start <= 0 and self.end >= 1


@dataclass(frozen=True)
class PlacedRegion:
    """A region in a picture of known size: `weight` [1 or B, 1, h, w] covers its box.

    `area` is the box before it was cut to the picture: what areas are compared by.
    """

    embeddings: torch.Tensor
    area: Box | None
    box: Box | None
    weight: torch.Tensor
    first_sigma: float
    last_sigma: float

    def crop(self, latents: torch.Tensor) -> torch.Tensor:
        """Return the view of [B, C, H, W] that this region covers."""
        if self.box is None:
            return latents
        height, width, top, left = self.box
        return latents[..., top : top + height, left : left + width]


def place_regions(
    positive: Sequence[PromptRegion],
    negative: Sequence[PromptRegion],
    *,
    size: tuple[int, int],
    device: torch.device,
    table: Table,
) -> tuple[list[PlacedRegion], list[PlacedRegion]]:
    """Place both sides of the guidance in latents of `size`; `table` holds the training sigmas.

    Raises:
        InvalidRequest: a side has no prompt, or an area lies outside the picture.
    """
    if not positive or not negative:
        raise InvalidRequest("a side of the guidance has no prompt; give at least an empty one")
    placed = [
        [_place(region, size, device, table) for region in side] for side in (positive, negative)
    ]
    return _pair_areas(*placed)


def _place(
    region: PromptRegion, size: tuple[int, int], device: torch.device, table: Table
) -> PlacedRegion:
    mask = None if region.mask is None else _fit_mask(region.mask.to(device).float(), size)
    area = _find_area(region, mask, size)
    box = None if area is None else _cut(area, size)
    height, width = size if box is None else box[:2]
    weight = torch.full((1, 1, height, width), region.strength, device=device)
    placed = PlacedRegion(
        region.embeddings.to(device),
        area,
        box,
        weight,
        _sigma_at(region.start, table),
        _sigma_at(region.end, table),
    )
    if mask is not None:
        return replace(placed, weight=weight * placed.crop(mask) * region.mask_strength)
    return placed if box is None else replace(placed, weight=_feather(weight, box, size))


def _find_area(
    region: PromptRegion, mask: torch.Tensor | None, size: tuple[int, int]
) -> Box | None:
    """Return the area of a region in latent pixels; None where it is the whole picture."""
    area = region.area
    if region.area_from_mask and mask is not None:
        return _box_around(mask)
    if area is None:
        return None
    if region.area_in_shares:
        shares = [round(share * side) for share, side in zip(area, (*size, *size), strict=True)]
        return (max(1, shares[0]), max(1, shares[1]), shares[2], shares[3])
    height, width, top, left = (int(value) for value in area)
    return (height, width, top, left)


def _cut(area: Box, size: tuple[int, int]) -> Box:
    """Return what of an area lies in the picture."""
    height, width, top, left = area
    box = (min(height, size[0] - top), min(width, size[1] - left), top, left)
    if min(box[:2]) < 1 or top < 0 or left < 0:
        raise InvalidRequest(
            f"an area of {width}x{height} at {left}, {top} lies outside the picture of "
            f"{size[1]}x{size[0]} latent pixels"
        )
    return box


def _fit_mask(mask: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Return [1 or B, 1, h, w]."""
    mask = mask[:, None]
    if mask.shape[2:] == size:
        return mask
    return torch.nn.functional.interpolate(mask, size=size, mode="bilinear", align_corners=False)


def _box_around(mask: torch.Tensor) -> Box:
    """Return the box around all that is not 0, at least 8 a side; at the corner if nothing is."""
    rows, columns = torch.nonzero(mask.abs().amax(dim=(0, 1)), as_tuple=True)
    if not len(rows):
        return (_LEAST_SIDE, _LEAST_SIDE, 0, 0)
    top, left = int(rows.min()), int(columns.min())
    height, width = int(rows.max()) - top + 1, int(columns.max()) - left + 1
    return (max(_LEAST_SIDE, height), max(_LEAST_SIDE, width), top, left)


def _feather(weight: torch.Tensor, box: Box, size: tuple[int, int]) -> torch.Tensor:
    """Fade the edges that do not lie on the picture's own."""
    faded = weight.clone()
    for axis, (length, offset, side) in enumerate(zip(box[:2], box[2:], size, strict=True)):
        reach = min(_FEATHER, length // 4)
        ramp = torch.ones(length, device=weight.device)
        rise = torch.arange(1, reach + 1, device=weight.device) / max(reach, 1)
        if reach and offset:
            ramp[:reach] *= rise
        if reach and offset + length < side:
            ramp[length - reach :] *= rise.flip(0)
        faded *= ramp[:, None] if axis == 0 else ramp
    return faded


def _sigma_at(share: float, table: Table) -> float:
    """Return the noise level at a share of the schedule; the ends mean always."""
    if share <= 0:
        return float("inf")
    if share >= 1:
        return 0.0
    return float(sigmas_of(np.array([(1 - share) * (len(table) - 1)]), table)[0])


def _pair_areas(
    positive: Sequence[PlacedRegion], negative: Sequence[PlacedRegion]
) -> tuple[list[PlacedRegion], list[PlacedRegion]]:
    """Give every area a twin of the same box, weight and time on the other side.

    The twin speaks with the prompt of the smallest region there that covers the box, so that both
    sides of the guidance look at the same crop.
    """
    sides = (list(positive), list(negative))
    for own, other in (sides, sides[::-1]):
        for region in own:
            twin = _twin(region, other)
            if twin is not None:
                other.append(twin)
    return sides


def _twin(region: PlacedRegion, other: Sequence[PlacedRegion]) -> PlacedRegion | None:
    if region.area is None:
        return None
    covering = [each for each in other if each.area is None or _covers(each.area, region.area)]
    if not covering:
        return None
    nearest = min(covering, key=lambda each: each.area[0] * each.area[1] if each.area else np.inf)
    if nearest.area == region.area:
        return None
    return replace(region, embeddings=nearest.embeddings)


def _covers(outer: Box, inner: Box) -> bool:
    return all(
        outer[axis + 2] <= inner[axis + 2]
        and inner[axis + 2] + inner[axis] <= outer[axis + 2] + outer[axis]
        for axis in (0, 1)
    )
