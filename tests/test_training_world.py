"""The small world: scenes split for ever, pictures that repeat, a reader with teeth."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from multilingual_diffusion.pipeline_core.errors import InvalidRequest
from multilingual_diffusion.pipeline_core.training.world.drawing import draw
from multilingual_diffusion.pipeline_core.training.world.obedience import Rate, measure
from multilingual_diffusion.pipeline_core.training.world.palette import COLOURS
from multilingual_diffusion.pipeline_core.training.world.reader import read_picture
from multilingual_diffusion.pipeline_core.training.world.regions import find_regions
from multilingual_diffusion.pipeline_core.training.world.scene import (
    ATTRIBUTES,
    HAZARD,
    PLACES,
    RELATION_PLACES,
    SHAPES,
    SIZES,
    ClaimedThing,
    Claims,
    Reading,
    Scene,
    Thing,
    full_claims,
    is_held_out,
    obeys,
    random_hazard_scene,
    random_scene,
)
from multilingual_diffusion.pipeline_core.training.world.shapes import DISTANCES
from scipy.stats import binomtest
from torch.nn import functional

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
    train = scenes(3000, split="train")
    assert abs(sum(len(scene.things) for scene in train) / 3000 - 1.5) < 0.03
    assert HAZARD not in {thing.shape for thing in things}


@pytest.mark.parametrize("choices", [{"split": "test"}, {"objects": 3}])
def test_bad_choices_are_refused(choices):
    with pytest.raises(InvalidRequest):
        scenes(1, **choices)


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
    assert picture.mean().item() == pytest.approx(0.867680, abs=1e-5)


def test_a_small_picture_is_the_large_one_made_smaller():
    some = scenes(20)
    large = torch.nn.functional.avg_pool2d(draw(some, range(20), size=(256, 256)), 4)
    assert (draw(some, range(20), size=(64, 64)) - large).abs().mean() < 0.003


@pytest.mark.parametrize(
    ("seeds", "size"),
    [([1], (128, 128)), ([1, -2], (128, 128)), ([1, 2], (8, 128)), ([1, 2], (128, 5000))],
)
def test_bad_drawing_requests_are_refused(seeds, size):
    with pytest.raises(InvalidRequest):
        draw([ONE, TWO], seeds, size=size)


@pytest.mark.parametrize("kind", DISTANCES)
def test_shapes_are_centred_and_of_one_size(kind):
    steps = (torch.arange(800) + 0.5 - 400) / 500
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    inside = DISTANCES[kind](x, y) < 0
    for side in (steps[inside.any(0)], steps[inside.any(1)]):
        assert abs(side[0] + side[-1]) < 0.03
        assert kind == "hazard-field" or 0.83 < side[-1] - side[0] < 1.13


def test_things_keep_clear_of_the_rim_and_of_each_other():
    rng = random.Random(2)
    some = scenes(300) + [random_hazard_scene(rng) for _ in range(50)]
    for scene, picture in zip(some, draw(some, range(350)), strict=True):
        shown = ((picture - picture[:, :1, :1]).abs().amax(0) > 0.02).numpy()
        assert not (
            shown[:2].any() or shown[-2:].any() or shown[:, :2].any() or shown[:, -2:].any()
        )
        regions, _ = find_regions(shown.astype(int), ground=0)
        blobs = sum(region.label for region in regions if region.area > 4)  # not a star's tip
        ring_inside = scene.relation == "inside" and scene.things[1].shape == "ring"
        assert blobs == (2 if ring_inside or scene.relation in ("left-of", "above") else 1)


# reading


def degraded(pictures: torch.Tensor, kind: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    if kind == "blurred":
        window = torch.tensor([0.06, 0.24, 0.40, 0.24, 0.06]).outer(
            torch.tensor([0.06, 0.24, 0.40, 0.24, 0.06])
        )
        padded = functional.pad(pictures, (2, 2, 2, 2), mode="replicate")
        return functional.conv2d(padded, window.expand(3, 1, 5, 5), groups=3)
    if kind == "noisy":
        return (pictures + 0.05 * torch.randn(pictures.shape, generator=generator)).clamp(0, 1)
    if kind == "tinted":
        tint = 0.05 * (2 * torch.rand(len(pictures), 3, 1, 1, generator=generator) - 1)
        return (pictures * (1 + tint) + tint).clamp(0, 1)
    if kind == "resized":
        return functional.interpolate(
            functional.avg_pool2d(pictures, 2), scale_factor=2, mode="bilinear"
        )
    return pictures


@pytest.mark.parametrize("kind", ["plain", "blurred", "noisy", "tinted", "resized"])
def test_true_scenes_are_read_right(kind):
    some = scenes(100, seed=5)
    tally = measure(degraded(draw(some, range(100)), kind), map(full_claims, some))
    assert tally.overall().hits >= 99, tally  # at 99.5 % a single one may well fail


@pytest.mark.parametrize("size", [(96, 160), (192, 128), (256, 256)])
def test_other_sizes_are_read_as_well(size):
    some = scenes(60, seed=6)
    assert measure(draw(some, range(60), size=size), map(full_claims, some)).overall().hits >= 59


def test_hazard_signs_are_told_from_triangles():
    rng = random.Random(0)
    signs = [random_hazard_scene(rng) for _ in range(40)]
    assert measure(draw(signs, range(40)), map(full_claims, signs)).overall().hits == 40
    alike = [
        Scene("white", (Thing("triangle", "yellow", "large", "centre"),)),
        Scene("black", (Thing("triangle", "yellow", "large", "centre"),)),
        Scene(
            "white",
            (
                Thing("triangle", "yellow", "small", "centre"),
                Thing("triangle", "black", "large", "centre"),
            ),
            "inside",
        ),
    ]
    for seed in range(8):
        for picture in draw(alike, [seed] * 3):
            assert HAZARD not in {thing.shape for thing in read_picture(picture).things}


def changed(scene: Scene, attribute: str, rng: random.Random) -> Scene | None:
    """Return a scene that differs in this attribute alone, None where there is none."""
    thing = scene.things[0]
    if attribute == "relation":
        turned = {"left-of": "above", "above": "left-of"}.get(scene.relation or "")
        if turned is None:
            return None
        places = RELATION_PLACES[turned]
        things = tuple(replace(t, place=p) for t, p in zip(scene.things, places, strict=True))
        return Scene(scene.background, things, turned)
    choices = {
        "shape": SHAPES,
        "colour": COLOURS,
        "background": COLOURS,
        "size": SIZES,
        "place": PLACES,
    }[attribute]
    for value in rng.sample(choices, len(choices)):
        try:
            other = (
                replace(scene, background=value)
                if attribute == "background"
                else replace(
                    scene, things=(replace(thing, **{attribute: value}), *scene.things[1:])
                )
            )
        except InvalidRequest:
            continue
        if other != scene:
            return other
    return None


@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_one_wrong_attribute_fails_alone(attribute):
    rng = random.Random(1)
    pairs = [(scene, changed(scene, attribute, rng)) for scene in scenes(100, seed=7)]
    pairs = [(scene, other) for scene, other in pairs if other is not None][:25]
    assert len(pairs) == 25
    pictures = draw([scene for scene, _ in pairs], range(25))
    for picture, (_, other) in zip(pictures, pairs, strict=True):
        verdict = obeys(full_claims(other), read_picture(picture))
        wrong = {name for name, agrees in verdict.items() if not agrees} - {"all"}
        allowed = {"relation", "place"} if attribute == "relation" else {attribute}
        assert attribute in wrong and wrong <= allowed and not verdict["all"]


def test_order_of_a_relation_counts():
    reading = read_picture(draw([TWO], [3])[0])
    heart, ring = (ClaimedThing(thing.shape, thing.colour) for thing in TWO.things)
    assert obeys(Claims((heart, ring), None, "left-of"), reading)["all"]
    verdict = obeys(Claims((ring, heart), None, "left-of"), reading)
    assert verdict == {"shape": True, "colour": True, "relation": False, "all": False}


def test_a_thing_missing_or_too_many_is_noticed():
    one, two = draw([ONE, TWO], [1, 2])
    star = Claims((ClaimedThing("star", "red"),))
    assert obeys(star, read_picture(one))["all"]
    heart = Claims((ClaimedThing("heart", "red"),))
    assert obeys(heart, read_picture(two)) == {"shape": False, "colour": True, "all": False}
    pair = Claims((*star.things, *heart.things), None, "left-of")
    assert obeys(pair, read_picture(one)) == dict.fromkeys(
        ("shape", "colour", "relation", "all"), False
    )


def test_a_picture_like_nothing_is_not_named():
    generator = torch.Generator().manual_seed(0)
    grey = torch.full((3, 128, 128), 0.5)
    assert read_picture(grey) == Reading((), None, None)
    assert read_picture(torch.full((3, 128, 128), torch.nan)) == Reading((), None, None)
    for _ in range(10):
        noise = read_picture(torch.rand(3, 128, 128, generator=generator))
        assert {thing.shape for thing in noise.things} <= {None}
    with pytest.raises(InvalidRequest):
        read_picture(torch.zeros(1, 3, 128, 128))


def test_a_thing_at_the_rim_keeps_its_shape():
    picture = draw([Scene("white", (Thing("ring", "blue", "large", "left"),))], [1])[0]
    first = int((picture[0] < 0.5).any(0).nonzero()[0])
    assert read_picture(picture[:, :, first:]).things[0].shape == "ring"


def test_regions_know_what_they_lie_on():
    drawing = [
        "........",
        ".aaaaaa.",
        ".a....a.",
        ".a.bb.a.",
        ".a....a.",
        ".aaaaaa.",
        ".c......",
    ]
    labels = np.array([[".abc".index(mark) for mark in row] for row in drawing])
    (ground, frame, hole, dot, tail), numbers = find_regions(labels, ground=0)
    assert [r.label for r in (ground, frame, hole, dot, tail)] == [0, 1, 0, 2, 3]
    assert [r.parent for r in (frame, hole, dot, tail)] == [ground, frame, hole, ground]
    assert hole.is_hole and not dot.is_hole
    assert frame.filled() == [frame] and ground.filled() == [ground, frame, hole, dot, tail]
    assert (frame.area, frame.box, dot.box) == (18, (1, 1, 6, 7), (3, 3, 4, 5))
    assert numbers[3, 3] == dot.number


# obedience


def test_measure_counts_by_language():
    pictures = draw([ONE, ONE, TWO], range(3))
    right, wrong = full_claims(ONE), full_claims(replace(ONE, background="pink"))
    tally = measure(pictures, [right, wrong, full_claims(TWO)], ["en", "zh", "en"])
    assert tally.languages == ("en", "zh") and tally.attributes == (*ATTRIBUTES, "all")
    assert tally.rate("en") == Rate(2, 2) and tally.rate("zh", "background") == Rate(0, 1)
    assert tally.rate("zh", "relation") == Rate() and tally.overall("shape") == Rate(3, 3)
    assert (tally.mean(), tally.worst(), tally.worst("relation")) == (0.5, "zh", "en")
    assert (tally + tally).rate("en") == Rate(4, 4)
    with pytest.raises(InvalidRequest):
        measure(pictures, [right])
    with pytest.raises(InvalidRequest):
        tally.worst("weight")


def test_wilson_interval_is_the_textbook_one():
    reference = binomtest(970, 1000).proportion_ci(method="wilson")
    assert Rate(970, 1000).interval == pytest.approx((reference.low, reference.high), abs=1e-7)
    assert Rate(10, 10).interval == pytest.approx((0.722467, 1), abs=1e-6)
    assert Rate().interval == (0, 1)
