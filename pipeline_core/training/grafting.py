"""Measure grafts: does a community model obey in every language, and keep its English and style?

The community model, the base it comes from and the multilingual model are loaded once; each graft
shares what it does not change.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from ..assemble import load_pipeline
from ..graft.network import graft_network
from ..graft.recipe import GraftRecipe, Strengths
from ..pipeline import TextToImagePipeline
from ..sampling import UNetDenoiser
from .evaluation import ObedienceTest, obedience_prompts, picture_batches, read_batch
from .nano.style import missing_light, rim_darkness
from .world.obedience import Tally

PARTS = ("text_encoder", "unet", "vae", "scheduler")


@dataclass(frozen=True)
class GraftMeasure:
    """One row: what was grafted, how the pictures obey, and how much of the style is in them."""

    title: str
    tally: Tally
    style: float  # `rim_darkness`
    samples: torch.Tensor  # (N, 3, H, W), 0..1: the first picture of each language


@dataclass(frozen=True)
class GraftSubjects:
    """The three models, and the recipes to try."""

    community: str
    base: str
    multilingual: str
    recipes: Sequence[GraftRecipe]


def usual_recipes(strengths: Sequence[float] = (0.5, 1.0)) -> list[GraftRecipe]:
    """Return every mode at full strength, and the base-aware one of all tensors at others too."""
    full = ("replace-kv", "replace-attn2", "delta-kv", "delta-attn2")
    recipes = [GraftRecipe(mode) for mode in full]
    return recipes + [GraftRecipe("delta-all", Strengths.of(value)) for value in strengths]


def measure_grafts(
    subjects: GraftSubjects,
    test: ObedienceTest,
    on_pictures: Callable[[int], object] | None = None,
) -> Iterator[GraftMeasure]:
    """Yield the community model with its own encoder in English, with the other's, and the grafts.

    The multilingual model itself comes last, as what a graft could reach. `on_pictures` is told
    how many more of `count_pictures` are done.

    Raises:
        InvalidRequest: the models are not of one family.
    """
    community, base, multilingual = (
        load_pipeline(name, parts=PARTS)
        for name in (subjects.community, subjects.base, subjects.multilingual)
    )
    english = dataclasses.replace(test, languages=("en",))
    yield _measured("community, its own encoder", community, english, on_pictures)
    lent = with_unet(multilingual, community.parts.unet)
    yield _measured("community, not grafted", lent, test, on_pictures)
    networks = [pipeline.parts.unet for pipeline in (community, multilingual, base)]
    for recipe in subjects.recipes:
        grafted = graft_network(*(unet.network for unet in networks), recipe)  # type: ignore[union-attr]
        pipeline = with_unet(multilingual, UNetDenoiser(grafted))
        title = f"{recipe.mode} {recipe.strengths.mid:g}"
        yield _measured(title, pipeline, test, on_pictures)
    yield _measured("multilingual", multilingual, test, on_pictures)


def count_pictures(subjects: GraftSubjects, test: ObedienceTest) -> int:
    """Return how many pictures `measure_grafts` draws."""
    in_all_languages = len(subjects.recipes) + 2
    return test.count * (1 + in_all_languages * len(test.languages))


def with_unet(pipeline: TextToImagePipeline, unet: object) -> TextToImagePipeline:
    """Return a pipeline of the same parts with another UNet."""
    parts = dataclasses.replace(pipeline.parts, unet=unet)  # type: ignore[arg-type]
    return TextToImagePipeline(pipeline.spec, parts, source=pipeline.source)


def _measured(
    title: str,
    pipeline: TextToImagePipeline,
    test: ObedienceTest,
    on_pictures: Callable[[int], object] | None,
) -> GraftMeasure:
    tally, missing = Tally({}), list[float]()
    first: dict[str, torch.Tensor] = {}
    for batch, pictures in picture_batches(pipeline, obedience_prompts(test), test):
        tally += read_batch(batch, pictures)
        missing += missing_light(pictures)
        for prompt, picture in zip(batch, pictures, strict=True):
            first.setdefault(prompt.language, picture)
        if on_pictures is not None:
            on_pictures(len(batch))
    return GraftMeasure(title, tally, rim_darkness(missing), torch.stack(list(first.values())))
