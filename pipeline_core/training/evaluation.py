"""Measure obedience: pictures made through the pipeline, read from their pixels, against captions.

Prompts are captions of random scenes, drawn by seed, so a measurement can be made again.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from ..errors import InvalidRequest
from ..pipeline import TextToImagePipeline
from ..values import ImageRequest
from .world.captions import Caption, caption
from .world.obedience import Tally, measure
from .world.scene import random_scene

PromptSet = Literal["trained", "held-out", "phrasings"]


@dataclass(frozen=True, kw_only=True)
class ObedienceTest:
    """What is measured and how the pictures are made."""

    prompts: PromptSet = "trained"  # combinations: trained, held out; or phrasings never trained
    languages: tuple[str, ...]
    count: int = 50  # prompts of each language
    sampler: str = "dpmpp_2m"
    steps: int = 20
    guidance_scale: float | None = None  # None: the model's own
    width: int = 128
    height: int = 128
    seed: int = 0
    batch_size: int = 64


def obedience_prompts(test: ObedienceTest) -> list[Caption]:
    """Return `count` captions for each language; the same for the same test."""
    split = "held-out" if test.prompts == "held-out" else "train"
    wording = "held-out" if test.prompts == "phrasings" else "train"
    captions: list[Caption] = []
    for language in test.languages:
        rng = random.Random(f"{test.seed} {test.prompts} {language}")
        captions += [
            caption(random_scene(rng, split=split), language, rng, split=wording)
            for _ in range(test.count)
        ]
    return captions


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
    prompts = obedience_prompts(test)
    total = Tally({})
    for start in range(0, len(prompts), test.batch_size):
        batch = prompts[start : start + test.batch_size]
        pixels = _pictures(pipeline, [item.text for item in batch], test, start)
        total += measure(pixels, [item.claims for item in batch], [p.language for p in batch])
        if on_pictures is not None:
            on_pictures(len(batch))
    return total


def _pictures(
    pipeline: TextToImagePipeline, texts: Sequence[str], test: ObedienceTest, first: int
) -> torch.Tensor:
    request = ImageRequest(
        prompts=tuple(texts),
        width=test.width,
        height=test.height,
        steps=test.steps,
        sampler=test.sampler,
        guidance_scale=test.guidance_scale,
        seed=test.seed + first,
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
