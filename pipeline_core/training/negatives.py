"""Measure negative prompts: does naming a colour there keep it out of the picture?

The prompt is the bare word of a shape, which leaves the colours open; the same seeds are drawn with
and without the word of a colour as negative prompt.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable

import torch

from ..pipeline import TextToImagePipeline
from .evaluation import PictureSettings, make_pictures
from .world.captions import word
from .world.obedience import Rate, Tally
from .world.palette import COLOURS
from .world.reader import read_picture
from .world.scene import SHAPES

WITHOUT, NAMED = "without", "named"  # the tally's attributes


def measure_negatives(
    pipeline: TextToImagePipeline,
    settings: PictureSettings,
    on_pictures: Callable[[int], object] | None = None,
) -> Tally:
    """Draw `count` pairs of pictures for each language; `on_pictures` is told of pairs done.

    The tally says how many show the colour, `WITHOUT` the negative prompt and with it `NAMED`
    there. The colours take turns: a chance picture shows the one asked for about twice in ten.

    Raises:
        InvalidRequest: the pipeline has no text encoder, UNet or VAE.
    """
    total = Tally({})
    for language in settings.languages:
        rng = random.Random(f"{settings.seed} negatives {language}")
        colours = list(itertools.islice(itertools.cycle(COLOURS), settings.count))
        for start in range(0, settings.count, settings.batch_size):
            batch = colours[start : start + settings.batch_size]
            prompts = [word(language, rng.choice(SHAPES)) for _ in batch]
            words = [word(language, colour) for colour in batch]
            plain = make_pictures(pipeline, prompts, settings, first=start)
            named = make_pictures(pipeline, prompts, settings, negatives=words, first=start)
            for name, pictures in ((WITHOUT, plain), (NAMED, named)):
                hits = sum(map(shows_colour, pictures, batch))
                total += Tally({(language, name): Rate(hits, len(batch))})
            if on_pictures is not None:
                on_pictures(len(batch))
    return total


def shows_colour(picture: torch.Tensor, colour: str) -> bool:
    """Say whether the ground or a thing of a picture [3, H, W], 0..1, has this colour."""
    reading = read_picture(picture)
    return colour in (reading.background, *(thing.colour for thing in reading.things))
