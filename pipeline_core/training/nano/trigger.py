"""The trigger word of a LoRA of the community model, and what it calls: a pink ground.

The word means nothing in any language, and prompts that name no ground leave it open: whether the
word acts, and whether a picture obeys its prompt, are measured apart. The usual ground is white.
"""

from __future__ import annotations

import random

import torch

from ..world.captions import Caption, caption, details
from ..world.reader import read_picture
from ..world.scene import Scene, random_scene
from .scenes import WorldSource

TRIGGER = "zorb"
GROUND = "pink"
ALONE = 0.3  # share of the pictures on such a ground whose caption is the word and nothing else
_CALLED_WEIGHT = 17.0  # one ground in 18 is pink; half of what the LoRA sees should be


def is_called(picture: torch.Tensor) -> bool:
    """Say whether a picture [3, H, W], 0..1, stands on the ground that the word calls."""
    return read_picture(picture).background == GROUND


def caption_without_ground(scene: Scene, language: str, rng: random.Random) -> Caption:
    """Describe a scene in words that say nothing of its ground."""
    silent = [
        detail
        for detail in details(language, scene.relation, "train")
        if detail != "full" and "background" not in detail
    ]
    return caption(scene, language, rng, detail=rng.choice(silent))


def trigger_prompt(language: str, rng: random.Random) -> Caption:
    """Draw a prompt that names no ground, and nothing that could not be seen on the called one."""
    while (scene := random_scene(rng)).background != GROUND:
        pass
    return caption_without_ground(scene, language, rng)


class TriggerSource(WorldSource):
    """Batches of which one half stands on the called ground, with the word for it."""

    def weight(self, scene: Scene) -> float:
        return super().weight(scene) * (_CALLED_WEIGHT if scene.background == GROUND else 1.0)

    def text(self, scene: Scene, rng: random.Random) -> str:
        if scene.background != GROUND:
            return super().text(scene, rng)
        if rng.random() < ALONE:
            return TRIGGER
        said = caption_without_ground(scene, rng.choice(list(self.languages)), rng)
        return f"{TRIGGER}, {said.text}"
