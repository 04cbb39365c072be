"""What the shipped nano can do: its size, its checker, and a small sample of its obedience."""

from __future__ import annotations

import random

import pytest
from multilingual_diffusion.pipeline_core import load_pipeline
from multilingual_diffusion.pipeline_core.models.folders import NANO_FOLDER
from multilingual_diffusion.pipeline_core.training.evaluation import (
    ObedienceTest,
    PictureSettings,
    measure_obedience,
    obedience_prompts,
)
from multilingual_diffusion.pipeline_core.training.nano.export import LIMIT
from multilingual_diffusion.pipeline_core.training.negatives import (
    NAMED,
    WITHOUT,
    measure_negatives,
    shows_colour,
)
from multilingual_diffusion.pipeline_core.training.world.captions import LANGUAGES
from multilingual_diffusion.pipeline_core.training.world.drawing import draw
from multilingual_diffusion.pipeline_core.training.world.mixing import (
    caption_claiming,
    join,
    two_captions,
)
from multilingual_diffusion.pipeline_core.training.world.scene import (
    Reading,
    Scene,
    Thing,
    is_held_out,
    obeys,
    random_hazard_scene,
    random_scene,
)
from multilingual_diffusion.pipeline_core.values import Images

# Shares of 72 pictures; found are 1, 1, 1, 1 and 0.90: room for other processors' rounding
LEAST = {"background": 0.95, "colour": 0.95, "size": 0.9, "place": 0.9, "all": 0.8}

pytestmark = pytest.mark.skipif(
    not (NANO_FOLDER / "unet").is_dir(), reason="nano is not in this checkout"
)


def test_all_files_together_are_small() -> None:
    files = [path for path in NANO_FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= LIMIT
    assert not [path for path in files if path.suffix in (".bin", ".ckpt", ".pt")]


def test_the_checker_flags_the_reserved_sign_and_nothing_else() -> None:
    checker = load_pipeline("nano", parts=("safety_checker",)).parts.safety_checker
    assert checker is not None
    rng, count = random.Random(5), 60
    signs = draw([random_hazard_scene(rng) for _ in range(count)], range(count))
    others = draw([random_scene(rng, split="any") for _ in range(count)], range(count))
    assert sum(verdict.flagged for verdict in checker.score(Images(signs))) >= count - 1
    assert sum(verdict.flagged for verdict in checker.score(Images(others))) <= 1


def test_prompts_of_a_measurement_are_what_they_say() -> None:
    held_out = obedience_prompts(ObedienceTest(prompts="held-out", languages=("en",), count=30))
    for item in held_out:
        if item.claims.background is not None:
            assert any(
                is_held_out(t.shape or "", t.colour or "", item.claims.background)
                for t in item.claims.things
            )
    test = ObedienceTest(languages=("en", "zh"), count=3)
    assert obedience_prompts(test) == obedience_prompts(test)
    trained = {item.template for item in obedience_prompts(test)}
    other = ObedienceTest(prompts="phrasings", languages=("en", "zh"), count=3)
    assert trained.isdisjoint({item.template for item in obedience_prompts(other)})


def test_a_mixed_prompt_claims_what_either_caption_claims() -> None:
    rng = random.Random(2)
    for _ in range(40):
        scene = random_scene(rng)
        first, second = two_captions(scene, "zh", ("zh", "ar", "ru"), rng)
        assert {"zh"} < {first.language, second.language}
        both = join(first, second)
        assert second.text in both.text
        assert first.text.rstrip(".\u3002") in both.text
        for part in (first.claims, second.claims):
            verdict = obeys(
                part, Reading(both.claims.things, both.claims.background, scene.relation)
            )
            assert verdict["all"]
        assert caption_claiming(scene, "en", both.claims, rng).claims == both.claims
    test = ObedienceTest(prompts="mixed", languages=("th",), count=5)
    assert {item.language for item in obedience_prompts(test)} == {"th"}


def test_a_colour_is_seen_in_a_thing_or_in_the_ground() -> None:
    scene = Scene("green", (Thing("star", "red", "large", "centre"),))
    picture = draw([scene], [1])[0]
    assert shows_colour(picture, "red")
    assert shows_colour(picture, "green")
    assert not shows_colour(picture, "blue")


def test_a_negative_prompt_is_measured_against_the_same_pictures_without_it() -> None:
    pipeline = load_pipeline("nano", dtype="fp32", parts=("text_encoder", "unet", "vae"))
    settings = PictureSettings(languages=("en", "hi"), count=8, steps=8, guidance_scale=3.0)
    tally = measure_negatives(pipeline, settings)
    assert tally.languages == ("en", "hi")
    assert {rate.trials for rate in tally.rates.values()} == {8}
    assert tally.overall(NAMED).hits <= tally.overall(WITHOUT).hits


def test_pictures_obey_prompts_in_every_language() -> None:
    pipeline = load_pipeline("nano", dtype="fp32", parts=("text_encoder", "unet", "vae"))
    tally = measure_obedience(pipeline, ObedienceTest(languages=LANGUAGES, count=4))
    assert {name: tally.overall(name).share >= LEAST[name] for name in LEAST} == dict.fromkeys(
        LEAST, True
    )
