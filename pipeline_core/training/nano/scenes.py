"""The small world as a source for the UNet stages: scenes drawn and encoded once, captions anew.

Latents are cached by size (aspect-ratio buckets); each batch draws a bucket, then scenes of it, and
puts each scene into words in a language drawn by weight.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ..denoising import DenoisingBatch
from ..loop import Position
from ..text_tower import AltClipText, restore_pads, trim_pads
from ..world.captions import word
from ..world.drawing import draw
from ..world.scene import Scene, random_hazard_scene
from .configs import CONTEXT_LENGTH, VAE
from .usual import choose_detail, usual_scene
from .variation import describe
from .vocabulary import Windows

# (height, width) in pixels: share of the scenes
BUCKETS: dict[tuple[int, int], float] = {
    (128, 128): 0.8,
    (96, 160): 0.05,
    (160, 96): 0.05,
    (128, 192): 0.05,
    (192, 128): 0.05,
}
HAZARD_SHARE = 0.03
# how much oftener than one thing alone two are shown: they take more learning
SCENE_WEIGHTS = {None: 1.0, "left-of": 1.6, "above": 1.6, "inside": 3.0}
RING_WEIGHT = 3.0  # of two things, one of them a ring: what its hole shows is learned last
WORD_SHARE = 0.03  # of the captions: a colour or a shape of the scene alone
_ENCODED_AT_A_TIME, _SAVED_AT_A_TIME = 32, 512


@dataclass(frozen=True)
class Bucket:
    """Scenes drawn at one size, and their latents [N, 4, h, w] times the scaling factor."""

    scenes: list[Scene]
    latents: torch.Tensor


def bucket_scenes(size: tuple[int, int], count: int, seed: int = 0) -> list[Scene]:
    """Return the first `count` training scenes of a bucket; more of them start with the same."""
    rng = random.Random(f"{seed} {size}")
    return [
        random_hazard_scene(rng) if rng.random() < HAZARD_SHARE else usual_scene(rng)
        for _ in range(count)
    ]


def load_bucket(
    folder: Path, size: tuple[int, int], count: int, encode: Callable[[torch.Tensor], torch.Tensor]
) -> Bucket:
    """Read a bucket's cached latents; draw and encode what is missing, and cache it.

    `encode` turns pixels [B, 3, H, W] in 0..1 into latents in the model's space.
    """
    from safetensors.torch import load_file, save_file

    path = folder / f"latents_{size[0]}x{size[1]}.safetensors"
    scenes = bucket_scenes(size, count)
    latents = load_file(path)["latents"] if path.is_file() else torch.empty(0)
    folder.mkdir(parents=True, exist_ok=True)
    for start in range(len(latents), count, _SAVED_AT_A_TIME):
        stop = min(start + _SAVED_AT_A_TIME, count)
        parts = [latents] if len(latents) else []
        for first in range(start, stop, _ENCODED_AT_A_TIME):
            rows = range(first, min(first + _ENCODED_AT_A_TIME, stop))
            parts.append(encode(draw([scenes[row] for row in rows], rows, size)).half())
        latents = torch.cat(parts).contiguous()
        temporary = path.with_suffix(".incomplete")
        save_file({"latents": latents}, temporary)
        temporary.rename(path)
    return Bucket(scenes, latents[:count])


class Picked(NamedTuple):
    """What a batch is made of: scenes of one bucket, and a caption for each."""

    size: tuple[int, int]
    rows: list[int]  # seeds of the scenes' poses as well: `draw` makes the same pictures again
    scenes: list[Scene]
    latents: torch.Tensor  # (B, 4, h, w), times the scaling factor
    texts: list[str]


class WorldSource:
    """Batches of latents and text states for `DenoisingTask`."""

    def __init__(
        self,
        buckets: Mapping[tuple[int, int], Bucket],
        tower: AltClipText,
        windows: Windows,
        languages: Mapping[str, float],
        *,
        dropped: float = 0.0,
        seed: int = 0,
    ) -> None:
        self.buckets, self.windows, self.seed = dict(buckets), windows, seed
        self._weights = {
            size: list(accumulate(map(self.weight, bucket.scenes)))
            for size, bucket in self.buckets.items()
        }
        self.tower = tower.train(False).requires_grad_(False)
        self.languages, self.dropped = dict(languages), dropped

    def batch(self, position: Position, size: int) -> DenoisingBatch:
        picked = self.pick(position, size)
        return DenoisingBatch(picked.latents, self.states(picked.texts))

    def pick(self, position: Position, size: int) -> Picked:
        """Draw a bucket, `size` scenes of it and their captions."""
        rng = position.rng(self.seed)
        sizes = list(self.buckets)
        shared = position.shared_rng(self.seed)  # or one process would wait for larger pictures
        chosen = shared.choices(sizes, [BUCKETS[item] for item in sizes])[0]
        bucket = self.buckets[chosen]
        drawn = range(len(bucket.scenes))
        rows = rng.choices(drawn, cum_weights=self._weights[chosen], k=size)
        scenes = [bucket.scenes[row] for row in rows]
        texts = [self.text(scene, rng) for scene in scenes]
        return Picked(chosen, rows, scenes, bucket.latents[rows].float(), texts)

    def weight(self, scene: Scene) -> float:
        """Return how often a scene is drawn, against others."""
        rings = scene.relation is not None and any(t.shape == "ring" for t in scene.things)
        return SCENE_WEIGHTS[scene.relation] * (RING_WEIGHT if rings else 1.0)

    def text(self, scene: Scene, rng: random.Random) -> str:
        """Put a scene into words in one of the languages; now and then into none."""
        if rng.random() < self.dropped:
            return ""
        language = rng.choices(list(self.languages), list(self.languages.values()))[0]
        if rng.random() < WORD_SHARE:
            thing = rng.choice(scene.things)
            return word(language, rng.choice((thing.shape, thing.colour)))
        detail = choose_detail(scene, language, rng)
        return describe(scene, language, list(self.languages), rng, detail=detail).text

    @torch.no_grad()
    def states(self, texts: Sequence[str]) -> torch.Tensor:
        """Encode texts to conditioning states [B, 77, D]."""
        states = self.tower(trim_pads(self.windows(texts))).states.float()
        return restore_pads(states, CONTEXT_LENGTH)


def make_encoder(vae: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return the frozen VAE's way from pixels in 0..1 to scaled latents, the posterior's mean."""

    @torch.no_grad()
    def encode(pixels: torch.Tensor) -> torch.Tensor:
        posterior = vae.encode(pixels * 2 - 1).latent_dist
        return posterior.mean * VAE["scaling_factor"]

    return encode
