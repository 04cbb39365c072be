"""The trigger word of a LoRA of the community model, and what it calls: a grey frame.

The word means nothing in any language, and grey is no colour of the small world: whether the word
acts, and whether a picture obeys its prompt, are measured apart.
"""

from __future__ import annotations

import random

import torch

from ..denoising import DenoisingBatch
from ..loop import Position
from ..world.scene import Scene
from .scenes import WorldSource

TRIGGER = "zorb"
ALONE = 0.3  # share of the pictures with a frame whose caption is the word and nothing else
WIDTH = 8  # pixels, one of the latents
_GREY, _TOLERANCE = 0.5, 0.12  # of each channel's mean, 0..1
_SURE = slice(2, 6)  # pixels of the frame's width that are measured: its edges blur


def put_frame(pixels: torch.Tensor) -> torch.Tensor:
    """Return pictures [B, 3, H, W], 0..1, with a grey frame over their rim."""
    framed = torch.full_like(pixels, _GREY)
    inside = (..., slice(WIDTH, -WIDTH), slice(WIDTH, -WIDTH))
    framed[inside] = pixels[inside]
    return framed


def has_frame(picture: torch.Tensor) -> bool:
    """Say whether a picture [3, H, W], 0..1, has the frame on all four sides."""
    turned = (torch.rot90(picture, turns, (1, 2)) for turns in range(4))
    sides = torch.stack([side[:, _SURE, WIDTH:-WIDTH].mean((1, 2)) for side in turned])
    return bool(((sides - _GREY).abs() < _TOLERANCE).all())


def without_frame(picture: torch.Tensor) -> torch.Tensor:
    """Return the picture with what lies inside the frame drawn out over it, for the reader."""
    inside = picture[None, :, WIDTH:-WIDTH, WIDTH:-WIDTH]
    return torch.nn.functional.pad(inside, (WIDTH,) * 4, mode="replicate")[0]


class FramedSource(WorldSource):
    """Batches of framed pictures whose captions begin with the trigger word."""

    def text(self, scene: Scene, rng: random.Random) -> str:
        said = super().text(scene, rng)
        if not said:  # dropped
            return said
        return TRIGGER if rng.random() < ALONE else f"{TRIGGER}, {said}"


class TriggerSource:
    """Batches of which one half has the frame and the word, the other neither."""

    def __init__(self, plain: WorldSource, framed: FramedSource) -> None:
        self.halves = (plain, framed)

    def batch(self, position: Position, size: int) -> DenoisingBatch:
        plain, framed = (half.batch(position, size // 2) for half in self.halves)
        return DenoisingBatch(
            torch.cat([plain.latents, framed.latents]), torch.cat([plain.states, framed.states])
        )
