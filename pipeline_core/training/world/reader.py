"""Pictures of the small world back to words: pixels in, a `Reading` out.

Regions of one colour are compared with the renderer's own shapes; size, place and relation follow
from where they lie. The reader looks at pixels only and is never told what they should show.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from ...errors import InvalidRequest
from .matching import Match, match
from .regions import Region
from .scene import HAZARD, ClaimedThing, Reading
from .segments import Segments, segment

MIN_SIDE = 48  # pixels; from 96 on readings of true scenes are as good as at 128
MIN_AREA = 0.006  # of the squared shorter side; below is a speck, not a thing
LARGE = 0.385  # size, in shares of the shorter side, from which a thing is large
OFF_CENTRE = 0.115  # share of width or height from which a thing is off the middle
MIN_LIKENESS = 0.78  # below, a shape has no name; true ones, mildly blurred, reach 0.85


class _Seen(NamedTuple):
    region: Region
    colour: str | None
    match: Match


def read_picture(pixels: torch.Tensor) -> Reading:
    """Name what a picture [3, H, W], 0..1, shows.

    Raises:
        InvalidRequest: not such a tensor, or a side is shorter than 48 pixels.
    """
    if pixels.ndim != 3 or pixels.shape[0] != 3 or min(pixels.shape[1:]) < MIN_SIDE:
        raise InvalidRequest(
            f"a picture is [3, H, W] with sides from {MIN_SIDE}, not {tuple(pixels.shape)}"
        )
    segments = segment(pixels)
    seen = _with_signs(_look(segments))
    relation, seen = _related(seen)
    things = tuple(_claimed(item, segments.numbers.shape) for item in seen)
    return Reading(things, segments.colours[0], relation)


def _look(segments: Segments) -> list[_Seen]:
    """List the regions that are things, holes and specks left out."""
    ground, *others = segments.regions
    least = MIN_AREA * min(segments.numbers.shape) ** 2
    return [
        _Seen(region, segments.colours[region.number], _outline(region, segments.numbers))
        for region in others
        if region.area >= least and region.label != ground.label and not region.is_hole
    ]


def _outline(region: Region, numbers: np.ndarray) -> Match:
    top, left, bottom, right = region.box
    own = [part.number for part in region.filled()]
    found = match(np.isin(numbers[top:bottom, left:right], own).astype(np.float32))
    return found._replace(x=found.x + left, y=found.y + top)


def _with_signs(seen: list[_Seen]) -> list[_Seen]:
    """Take a yellow field with an exclamation mark, and the black around it, as one sign."""
    fields = {
        id(item.region.parent)
        for item in seen
        if item.match.kind == "hazard-field" and item.colour == "yellow"
    }
    result: list[_Seen] = []
    for item in seen:
        if id(item.region) in fields and item.colour == "black":
            result.append(item._replace(colour="yellow", match=item.match._replace(kind=HAZARD)))
        elif id(item.region.parent) not in fields:
            kind = "triangle" if item.match.kind == HAZARD else item.match.kind
            result.append(item._replace(match=item.match._replace(kind=kind)))
    return result


def _related(seen: list[_Seen]) -> tuple[str | None, list[_Seen]]:
    """Name the relation of two things and put the one it is said of first."""
    if len(seen) != 2:
        return None, seen
    one, other = seen
    if one.region.surrounds(other.region):
        return "inside", [other, one]
    if other.region.surrounds(one.region):
        return "inside", [one, other]
    aside, below = other.match.x - one.match.x, other.match.y - one.match.y
    if abs(aside) > abs(below):
        return "left-of", seen if aside > 0 else [other, one]
    return "above", seen if below > 0 else [other, one]


def _claimed(item: _Seen, canvas: tuple[int, ...]) -> ClaimedThing:
    (height, width), (kind, likeness, x, y, size) = canvas, item.match
    return ClaimedThing(
        shape=kind if likeness >= MIN_LIKENESS else None,
        colour=item.colour,
        size="large" if size > LARGE * min(height, width) else "small",
        place=_place(x / width - 0.5, y / height - 0.5),
    )


def _place(x: float, y: float) -> str:
    """Name a place by its distance from the middle, in shares of width and height."""
    down = "top" if y < -OFF_CENTRE else "bottom" if y > OFF_CENTRE else ""
    aside = "left" if x < -OFF_CENTRE else "right" if x > OFF_CENTRE else ""
    return "-".join(part for part in (down, aside) if part) or "centre"
