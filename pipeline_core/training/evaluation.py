"""Measure obedience: pictures made through the pipeline, read from their pixels, against captions.

Prompts are captions of random scenes, drawn by seed, so a measurement can be made again.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch

from ..errors import InvalidRequest
from ..pipeline import TextToImagePipeline
from ..values import ImageRequest
from .world.captions import LANGUAGES, Caption, caption
from .world.mixing import join, two_captions
from .world.obedience import Tally, measure
from .world.scene import random_scene

PromptSet = Literal["trained", "held-out", "phrasings", "mixed"]


@dataclass(frozen=True, kw_only=True)
class PictureSettings:
    """How many pictures are measured, and how they are made."""

    languages: tuple[str, ...]
    count: int = 50  # prompts of each language
    sampler: str = "dpmpp_2m"
    steps: int = 20
    guidance_scale: float | None = None  # None: the model's own
    width: int = 128
    height: int = 128
    seed: int = 0
    batch_size: int = 64


@dataclass(frozen=True, kw_only=True)
class ObedienceTest(PictureSettings):
    """What is measured."""

    # combinations trained or held out; phrasings never trained; two languages in one prompt
    prompts: PromptSet = "trained"


def obedience_prompts(test: ObedienceTest) -> list[Caption]:
    """Return `count` captions for each language; the same for the same test."""
    captions: list[Caption] = []
    for language in test.languages:
        rng = random.Random(f"{test.seed} {test.prompts} {language}")
        captions += [_prompt(test.prompts, language, rng) for _ in range(test.count)]
    return captions


def _prompt(prompts: PromptSet, language: str, rng: random.Random) -> Caption:
    scene = random_scene(rng, split="held-out" if prompts == "held-out" else "train")
    if prompts == "mixed":
        both = join(*two_captions(scene, language, LANGUAGES, rng))
        return replace(both, language=language)
    return caption(scene, language, rng, split="held-out" if prompts == "phrasings" else "train")


def measure_obedience(
    pipeline: TextToImagePipeline,
    test: ObedienceTest,
    on_pictures: Callable[[int], object] | None = None,
) -> Tally:
    """Make a picture of every prompt and read it; the safety checker is not asked.

    `on_pictures` is told how many more pictures are done.

    Raises:
        InvalidRequest: the pipeline has no text encoder, UNet or VAE.
    """
    total = Tally({})
    for batch, pictures in picture_batches(pipeline, obedience_prompts(test), test):
        total += read_batch(batch, pictures)
        if on_pictures is not None:
            on_pictures(len(batch))
    return total


def picture_batches(
    pipeline: TextToImagePipeline, prompts: Sequence[Caption], settings: PictureSettings
) -> Iterator[tuple[Sequence[Caption], torch.Tensor]]:
    """Yield the prompts of a measurement and their pictures [B, 3, H, W], a batch at a time."""
    for start in range(0, len(prompts), settings.batch_size):
        batch = prompts[start : start + settings.batch_size]
        texts = [item.text for item in batch]
        yield batch, make_pictures(pipeline, texts, settings, first=start)


def read_batch(prompts: Sequence[Caption], pictures: torch.Tensor) -> Tally:
    """Hold pictures [B, 3, H, W], 0..1, against their prompts."""
    return measure(pictures, [p.claims for p in prompts], [p.language for p in prompts])


def make_pictures(
    pipeline: TextToImagePipeline,
    prompts: Sequence[str],
    settings: PictureSettings,
    *,
    negatives: Sequence[str] = (),
    first: int = 0,
) -> torch.Tensor:
    """Return the pictures [B, 3, H, W] of prompts, 0..1; image i has seed `seed + first + i`."""
    request = ImageRequest(
        prompts=tuple(prompts),
        negative_prompts=tuple(negatives),
        width=settings.width,
        height=settings.height,
        steps=settings.steps,
        sampler=settings.sampler,
        guidance_scale=settings.guidance_scale,
        seed=settings.seed + first,
        safety="off",
    )
    return pipeline(request).pixels


def check_languages(languages: Sequence[str], known: Sequence[str]) -> None:
    """Raise InvalidRequest where the small world has no captions in a language."""
    for language in languages:
        if language not in known:
            raise InvalidRequest(
                f"language {language!r} has no captions; there are {', '.join(known)}"
            )
