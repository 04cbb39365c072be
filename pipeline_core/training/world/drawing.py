"""Scenes to pictures [B, 3, H, W] in 0..1: anti-aliased, batched, on any device.

Each picture varies a little in pose, size and shade by its own seed, drawn on the CPU, so a seed
means the same on each device and in each batch.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from ...errors import InvalidRequest
from ...ranges import MAX_SEED
from .palette import COLOURS, PALETTE
from .scene import HAZARD, Scene, Thing
from .shapes import DISTANCES

MIN_SIDE, MAX_SIDE = 16, 4096  # pixels
MARGIN = 0.02  # of the shorter side, kept free of things
REACH = 0.6  # how far a tilted shape reaches from its middle, in sizes
TILT = math.radians(6)  # largest rotation
SHIFT = 0.015  # largest shift, of the shorter side
SHADE = 0.03  # largest change of brightness; each channel alone changes by TINT at most
TINT = 0.012
CHUNK = 128  # pictures at a time on a CPU; more gains nothing

# Smallest and largest size, and distance from the middle when off-centre, in shares of the side
# (sizes: of the shorter one), by (is one of two, size): two never touch, large ones are no pair.
LAYOUT = {
    (False, "small"): (0.29, 0.34, 0.27),
    (False, "large"): (0.46, 0.52, 0.19),
    (True, "small"): (0.29, 0.33, 0.28),
    (True, "large"): (0.43, 0.46, 0.22),
}
INNER = (0.265, 0.305)  # of 'inside': the thing within ...
OUTER = (0.68, 0.74)  # ... and the one around it
ROOM_BELOW = {"triangle": 0.07}  # where the middle of the room is not the middle of the box
DRAWS_BACKGROUND, DRAWS_THING = 4, 8


class _Layer(NamedTuple):
    """One shape in one ink; layers of a picture are painted in order of `rank`."""

    picture: int
    rank: int
    slot: int  # index of the thing: whose random draws it takes
    kind: str
    colour: int  # index into COLOURS
    placing: tuple[float, float, float, float]  # x, y off the middle; smallest, largest size


class _Poses(NamedTuple):
    """Where the layers lie, one row a layer; all [L, 1] but colour [L, 3]."""

    x: torch.Tensor  # pixels
    y: torch.Tensor
    size: torch.Tensor
    angle: torch.Tensor  # radians
    colour: torch.Tensor


def draw(
    scenes: Sequence[Scene],
    seeds: Sequence[int],
    size: tuple[int, int] = (128, 128),
    device: torch.device | str = "cpu",
) -> torch.Tensor:
    """Draw one picture a scene.

    Args:
        seeds: one a scene, 0 .. 2**64 - 1.
        size: (height, width) in pixels.

    Returns:
        [B, 3, H, W] float32, 0..1.

    Raises:
        InvalidRequest: not as many seeds as scenes, or a seed or a side out of range.
    """
    if len(scenes) != len(seeds):
        raise InvalidRequest(f"one seed a scene: got {len(scenes)} scenes, {len(seeds)} seeds")
    if not all(0 <= seed <= MAX_SEED for seed in seeds):
        raise InvalidRequest(f"seeds must be 0 .. 2**64 - 1; got {min(seeds)} .. {max(seeds)}")
    if not all(MIN_SIDE <= side <= MAX_SIDE for side in size):
        raise InvalidRequest(f"size is {size}; each side must be {MIN_SIDE} .. {MAX_SIDE} pixels")
    pictures = torch.empty(len(scenes), 3, *size, device=device)
    step = CHUNK if pictures.device.type == "cpu" else max(1, len(scenes))
    for start in range(0, len(scenes), step):
        part = slice(start, start + step)
        _paint(pictures[part], scenes[part], seeds[part])
    return pictures


def coverage(
    kind: str, x: torch.Tensor, y: torch.Tensor, scale: torch.Tensor | float
) -> torch.Tensor:
    """Return how much of each pixel a shape covers, 0..1; `scale` is its size in pixels."""
    return (0.5 - DISTANCES[kind](x, y) * scale).clamp_(0, 1)


def _paint(pictures: torch.Tensor, scenes: Sequence[Scene], seeds: Sequence[int]) -> None:
    """Fill `pictures` [B, 3, H, W]."""
    device, (height, width) = pictures.device, pictures.shape[2:]
    draws = _random_draws(seeds)
    ground = torch.tensor([COLOURS.index(scene.background) for scene in scenes])
    ground = _shaded(ground, draws[:, :DRAWS_BACKGROUND]).to(device)
    pictures.copy_(ground[:, :, None, None].expand_as(pictures))
    layers = [layer for index, scene in enumerate(scenes) for layer in _layers(index, scene)]
    layers.sort(key=_group)
    poses = _Poses(*(value.to(device) for value in _poses(layers, draws, height, width)))
    index = torch.tensor([layer.picture for layer in layers]).to(device)
    start = 0
    for (_, kind), group in itertools.groupby(layers, key=_group):
        part = slice(start, start + len(list(group)))
        cover = _cover(kind, _Poses(*(value[part] for value in poses)), height, width)[:, None]
        under, ink = pictures[index[part]], poses.colour[part, :, None, None]
        pictures[index[part]] = under.lerp_(ink, cover)
        start = part.stop


def _group(layer: _Layer) -> tuple[int, str]:
    """Key of layers that are painted at once: a picture has one layer at most in each rank."""
    return layer.rank, layer.kind


def _random_draws(seeds: Sequence[int]) -> torch.Tensor:
    """Return [B, draws], uniform in -1..1, each row from its own seed.

    SplitMix64 (Steele, Lea, Flood 2014; doi 10.1145/2660193.2660195) of the seed and the column:
    a generator object a picture would cost more than the drawing.
    """
    step = np.uint64(0x9E3779B97F4A7C15)
    columns = np.arange(1, DRAWS_BACKGROUND + 2 * DRAWS_THING + 1, dtype=np.uint64)
    rows = _mix(np.array(seeds, dtype=np.uint64) + step)
    bits = _mix(rows[:, None] + columns * step) >> np.uint64(40)
    return torch.from_numpy(bits.astype(np.float32)) / 2**23 - 1


def _mix(z: np.ndarray) -> np.ndarray:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _shaded(colours: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
    """Look up palette colours [N] and vary them by draws [N, 4]; return [N, 3] in 0..1."""
    palette = torch.tensor(list(PALETTE.values())) / 255
    return (palette[colours] + SHADE * draws[:, :1] + TINT * draws[:, 1:]).clamp_(0, 1)


def _layers(picture: int, scene: Scene) -> list[_Layer]:
    """List what to paint, the thing behind first."""
    layers: list[_Layer] = []
    for slot, thing in reversed(list(enumerate(scene.things))):
        placing = _placing(thing, scene.relation, slot, scene.things[-1].shape)
        for kind, colour in _inks(thing):
            layers.append(_Layer(picture, len(layers), slot, kind, COLOURS.index(colour), placing))
    return layers


def _inks(thing: Thing) -> list[tuple[str, str]]:
    if thing.shape == HAZARD:
        return [(HAZARD, "black"), ("hazard-field", "yellow")]
    return [(thing.shape, thing.colour)]


@functools.cache
def _placing(
    thing: Thing, relation: str | None, slot: int, container: str
) -> tuple[float, float, float, float]:
    """Return the thing's (x, y) off the middle and its range of sizes, in shares of the side."""
    if relation == "inside":
        return (0.0, 0.0, *OUTER) if slot else (0.0, ROOM_BELOW.get(container, 0.0), *INNER)
    smallest, largest, off = LAYOUT[relation is not None, thing.size]
    x = off * (("right" in thing.place) - ("left" in thing.place))
    y = off * (("bottom" in thing.place) - ("top" in thing.place))
    return x, y, smallest, largest


def _poses(layers: list[_Layer], draws: torch.Tensor, height: int, width: int) -> _Poses:
    """Turn placings and random draws [B, draws] into poses on a canvas."""
    picture, slot, colour = _table([(t.picture, t.slot, t.colour) for t in layers], np.int64)
    first = DRAWS_BACKGROUND + slot * DRAWS_THING
    own = draws[picture[:, None], first[:, None] + torch.arange(DRAWS_THING)]  # (L, 8)
    x, y, smallest, largest = _table([layer.placing for layer in layers], np.float32)
    side = min(height, width)
    size = side * (smallest + (largest - smallest) * (own[:, 2] + 1) / 2)
    room = size * REACH + side * MARGIN
    x = (0.5 + x) * width + SHIFT * side * own[:, 0]
    y = (0.5 + y) * height + SHIFT * side * own[:, 1]
    return _Poses(
        x=torch.minimum(torch.maximum(x, room), width - room)[:, None],
        y=torch.minimum(torch.maximum(y, room), height - room)[:, None],
        size=size[:, None],
        angle=TILT * own[:, 3:4],
        colour=_shaded(colour, own[:, 4:]),
    )


def _table(rows: list[tuple[Any, ...]], dtype: type) -> tuple[torch.Tensor, ...]:
    """Return the columns of a table; by way of numpy, which reads lists ten times faster."""
    return torch.from_numpy(np.array(rows, dtype=dtype)).unbind(1)


def _cover(kind: str, poses: _Poses, height: int, width: int) -> torch.Tensor:
    """Return how much of each pixel the shape covers: [L, H, W], 0..1."""
    device = poses.x.device
    x = (torch.arange(width, device=device) + 0.5 - poses.x) / poses.size  # (L, W)
    y = (torch.arange(height, device=device) + 0.5 - poses.y) / poses.size  # (L, H)
    cos, sin = poses.angle.cos(), poses.angle.sin()
    u = (cos * x)[:, None, :] + (sin * y)[:, :, None]
    v = (cos * y)[:, :, None] - (sin * x)[:, None, :]
    return coverage(kind, u, v, poses.size[:, :, None])
