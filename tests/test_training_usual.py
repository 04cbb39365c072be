"""What goes without saying: scenes that captions may be silent about, and captions that are."""

from __future__ import annotations

import random
from collections import Counter

from multilingual_diffusion.pipeline_core.training.nano.scenes import bucket_scenes
from multilingual_diffusion.pipeline_core.training.nano.usual import (
    choose_detail,
    usual_scene,
    with_usual,
)
from multilingual_diffusion.pipeline_core.training.nano.variation import describe
from multilingual_diffusion.pipeline_core.training.world.captions import LANGUAGES, caption
from multilingual_diffusion.pipeline_core.training.world.mixing import detail_of
from multilingual_diffusion.pipeline_core.training.world.scene import Scene, Thing, is_held_out

RED = Thing("circle", "red", "small", "left")
PAIR = (Thing("star", "white", "small", "left"), Thing("ring", "black", "large", "right"))


def test_the_usual_is_a_large_thing_in_the_middle_of_a_ground_it_can_be_seen_on() -> None:
    scene = Scene("green", (RED,))
    usual = Scene("white", (Thing("circle", "red", "large", "centre"),))
    assert with_usual(scene, ["background", "size", "place"]) == usual
    assert with_usual(scene, ["place"]).things[0] == Thing("circle", "red", "small", "centre")
    pair = with_usual(Scene("green", PAIR, "left-of"), ["background", "size", "place"])
    assert pair.background == "yellow"
    assert [thing.size for thing in pair.things] == ["small", "small"]
    assert [thing.place for thing in pair.things] == ["left", "right"]


def test_captions_say_what_is_unusual() -> None:
    rng = random.Random(0)
    said = {choose_detail(Scene("green", (RED,)), "en", rng) for _ in range(50)}
    assert said == {"full"}
    usual = Scene("white", (Thing("circle", "red", "large", "centre"),))
    counts = Counter(choose_detail(usual, "en", rng) for _ in range(400))
    assert counts["short"] > 200
    assert len(counts) == 8
    for language in LANGUAGES:
        for _ in range(20):
            scene = usual_scene(rng)
            detail = choose_detail(scene, language, rng)
            claims = describe(scene, language, LANGUAGES, rng, detail=detail).claims
            left_open = [
                name
                for name, value in (
                    ("background", claims.background),
                    ("size", claims.things[0].size),
                    ("place", claims.things[0].place),
                )
                if value is None
            ]
            assert with_usual(scene, left_open) == scene


def test_training_scenes_are_those_that_captions_speak_of() -> None:
    rng = random.Random(1)
    scenes = [usual_scene(rng) for _ in range(1500)]
    assert not any(is_held_out(t.shape, t.colour, s.background) for s in scenes for t in s.things)
    grounds = Counter(scene.background for scene in scenes)
    assert len(grounds) == 10
    assert grounds["white"] > 300
    for detail in ("short", "background", "full"):
        said = sum(choose_detail(scene, "en", rng) == detail for scene in scenes)
        asked = sum(detail_of(caption(scene, "en", rng).claims) == detail for scene in scenes)
        assert 0.6 < said / asked < 1.7
    places = Counter(s.things[0].place for s in bucket_scenes((128, 128), 600) if not s.relation)
    assert places.most_common(1)[0][0] == "centre"
    assert len(places) == 9
