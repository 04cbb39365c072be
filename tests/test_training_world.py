"""The small world: scenes split for ever, pictures that repeat, a reader with teeth."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import pytest
import torch
from multilingual_diffusion.pipeline_core.errors import InvalidRequest
from multilingual_diffusion.pipeline_core.training.world.drawing import draw
from multilingual_diffusion.pipeline_core.training.world.palette import COLOURS
from multilingual_diffusion.pipeline_core.training.world.scene import (
    HAZARD,
    RELATION_PLACES,
    SHAPES,
    Scene,
    Thing,
    is_held_out,
    random_scene,
)

ONE = Scene("white", (Thing("star", "red", "large", "top-left"),))
TWO = Scene(
    "white",
    (Thing("heart", "red", "small", "left"), Thing("ring", "blue", "large", "right")),
    "left-of",
)


def scenes(count: int, *, seed: int = 0, **choices) -> list[Scene]:
    rng = random.Random(seed)
    return [random_scene(rng, **{"split": "any", **choices}) for _ in range(count)]


# scenes and the split


def test_held_out_share_is_15_percent_and_leaves_every_pair_in_training():
    kept, total = set(), 0
    for shape, colour, background in itertools.product(SHAPES, COLOURS, COLOURS):
        total += colour != background
        if colour != background and not is_held_out(shape, colour, background):
            kept.add((shape, colour, background))
    assert abs(1 - len(kept) / total - 0.15) < 0.01
    assert len({(s, c) for s, c, _ in kept}) == len(SHAPES) * len(COLOURS)
    assert len({(s, b) for s, _, b in kept}) == len(SHAPES) * len(COLOURS)
    assert len({(c, b) for _, c, b in kept}) == len(COLOURS) * (len(COLOURS) - 1)


def test_split_is_the_same_for_ever():
    names = ["|".join(c) for c in itertools.product(SHAPES, COLOURS, COLOURS) if is_held_out(*c)]
    assert len(names) == 108
    assert sorted(names)[:3] == ["circle|brown|pink", "circle|green|pink", "circle|green|red"]


@pytest.mark.parametrize("objects", [1, 2])
def test_no_scene_leaks_between_the_splits(objects):
    def held_out(scene):
        return any(is_held_out(t.shape, t.colour, scene.background) for t in scene.things)

    assert not any(map(held_out, scenes(3000, split="train", objects=objects)))
    assert all(map(held_out, scenes(1000, split="held-out", objects=objects)))


def test_random_scenes_cover_the_world_and_repeat_by_seed():
    some = scenes(3000)
    assert some == scenes(3000)
    assert some != scenes(3000, seed=1)
    things = [thing for scene in some for thing in scene.things]
    assert {(t.size, t.place) for t in things} >= set(
        itertools.product(("small", "large"), ("centre", "left", "bottom-right"))
    )
    assert {scene.relation for scene in some} == {None, *RELATION_PLACES}
    assert HAZARD not in {thing.shape for thing in things}


@pytest.mark.parametrize(
    "broken",
    [
        lambda: Thing("blob", "red", "small", "left"),
        lambda: Thing(HAZARD, "red", "small", "left"),
        lambda: replace(ONE, background="red"),
        lambda: replace(ONE, relation="inside"),
        lambda: replace(TWO, relation="above"),
        lambda: replace(TWO, relation=None),
        lambda: Scene("white", (TWO.things[0], replace(TWO.things[0], place="right")), "left-of"),
        lambda: Scene("black", (Thing(HAZARD, "yellow", "small", "left"),)),
    ],
)
def test_scenes_that_cannot_be_seen_are_refused(broken):
    with pytest.raises(InvalidRequest):
        broken()


# drawing


def test_pictures_repeat_by_seed_whatever_the_batch():
    some = scenes(40)
    pictures = draw(some, range(40))
    assert pictures.shape == (40, 3, 128, 128)
    assert pictures.dtype == torch.float32
    assert pictures.min() >= 0 and pictures.max() <= 1
    assert torch.equal(pictures, draw(some, range(40)))
    alone = torch.cat([draw([scene], [seed]) for seed, scene in enumerate(some)])
    assert torch.allclose(pictures, alone, atol=1e-5)
    assert (draw(some, range(1, 41)) - pictures).abs().amax(dim=(1, 2, 3)).min() > 0.01


def test_seeds_mean_the_same_for_ever():
    picture = draw([TWO], [2**64 - 1], size=(64, 64))
    assert picture.mean().item() == pytest.approx(0.878147, abs=1e-5)


def test_a_small_picture_is_the_large_one_made_smaller():
    some = scenes(20)
    large = torch.nn.functional.avg_pool2d(draw(some, range(20), size=(256, 256)), 4)
    assert (draw(some, range(20), size=(64, 64)) - large).abs().mean() < 0.003


@pytest.mark.parametrize(
    ("seeds", "size"), [([1], (128, 128)), ([1, 2], (8, 128)), ([1, 2], (128, 5000))]
)
def test_bad_drawing_requests_are_refused(seeds, size):
    with pytest.raises(InvalidRequest):
        draw([ONE, TWO], seeds, size=size)
