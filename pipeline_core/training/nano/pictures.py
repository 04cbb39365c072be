"""Crops of the small world for the VAE stage."""

from __future__ import annotations

import random

import torch

from ..loop import Position
from ..world.drawing import draw
from ..world.scene import random_hazard_scene, random_scene
from .scenes import BUCKETS

HAZARD_SHARE = 0.06
_TRIES = 2  # crops looked at; the one with more in it is taken


class CropMaker:
    """Draw scenes and cut one crop out of each; a pure function of the position."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def __call__(self, position: Position, side: int | None, count: int) -> torch.Tensor:
        """Return [B, 3, side, side] in -1..1, or whole pictures where `side` is None."""
        rng = position.rng(self.seed)
        size = rng.choices(list(BUCKETS), list(BUCKETS.values()))[0]
        scenes = [
            random_hazard_scene(rng) if rng.random() < HAZARD_SHARE else random_scene(rng)
            for _ in range(count)
        ]
        pictures = draw(scenes, [rng.getrandbits(63) for _ in scenes], size)
        if side is not None:
            pictures = torch.stack([_crop(picture, side, rng) for picture in pictures])
        return pictures * 2 - 1


def _crop(picture: torch.Tensor, side: int, rng: random.Random) -> torch.Tensor:
    height, width = picture.shape[1:]
    crops: list[torch.Tensor] = []
    for _ in range(_TRIES):
        top, left = rng.randint(0, height - side), rng.randint(0, width - side)
        crops.append(picture[:, top : top + side, left : left + side])
    return max(crops, key=lambda crop: float(crop.var()))
