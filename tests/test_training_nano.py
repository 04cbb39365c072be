"""How nano is made: its source of batches, its checker's data, its export; and that it learns."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch
from multilingual_diffusion.pipeline_core import ImageRequest, load_pipeline
from multilingual_diffusion.pipeline_core.errors import (
    InvalidRequest,
    ModelNotFound,
    UnknownName,
    WeightsMismatch,
)
from multilingual_diffusion.pipeline_core.models.folders import NANO_FOLDER
from multilingual_diffusion.pipeline_core.training.autoencoding import build_vae, scale_latents
from multilingual_diffusion.pipeline_core.training.loop import Position
from multilingual_diffusion.pipeline_core.training.nano import export as export_room
from multilingual_diffusion.pipeline_core.training.nano.checker import HazardNetwork, checker_scene
from multilingual_diffusion.pipeline_core.training.nano.configs import TEXT, UNET, VAE
from multilingual_diffusion.pipeline_core.training.nano.export import LIMIT, export, export_run
from multilingual_diffusion.pipeline_core.training.nano.pictures import CropMaker
from multilingual_diffusion.pipeline_core.training.nano.plan import NanoPlan, read_plan
from multilingual_diffusion.pipeline_core.training.nano.recipe import train_nano
from multilingual_diffusion.pipeline_core.training.nano.results import (
    RESULT,
    build_teacher,
    build_unet,
    latest_unet,
)
from multilingual_diffusion.pipeline_core.training.nano.scenes import (
    BUCKETS,
    Bucket,
    WorldSource,
    bucket_scenes,
    load_bucket,
    make_encoder,
)
from multilingual_diffusion.pipeline_core.training.nano.start import start_from
from multilingual_diffusion.pipeline_core.training.nano.unet_stages import sheet_prompts
from multilingual_diffusion.pipeline_core.training.nano.vocabulary import FILE_NAME, Windows
from multilingual_diffusion.pipeline_core.training.text_tower import AltClipText
from multilingual_diffusion.pipeline_core.training.world.captions import LANGUAGES
from multilingual_diffusion.pipeline_core.training.world.scene import Scene, Thing, is_held_out
from safetensors.torch import load_file, save_file

TOKENIZER = NANO_FOLDER / "tokenizer" / FILE_NAME

pytestmark = pytest.mark.skipif(not TOKENIZER.is_file(), reason="nano is not in this checkout")


def random_tower() -> AltClipText:
    torch.manual_seed(0)
    return AltClipText(TEXT).train(False).requires_grad_(False)


def export_random(target: Path) -> int:
    torch.manual_seed(1)
    return export(
        target,
        tokenizer=TOKENIZER,
        text=random_tower(),
        unet=build_unet(),
        vae=build_vae(VAE),
        checker=HazardNetwork(build_teacher().clip.vision),
    )


def test_an_export_loads_through_the_loaders_of_the_real_models(tmp_path: Path) -> None:
    size = export_random(tmp_path)
    assert size <= LIMIT
    pipeline = load_pipeline(tmp_path, device="cpu", dtype="fp32")
    assert (pipeline.spec.name, pipeline.native_size) == ("nano", 128)
    prompts = sheet_prompts(LANGUAGES)[:3]
    states = pipeline.encode(prompts).embeddings
    trained = WorldSource({}, random_tower().half().float(), Windows(TOKENIZER), {}).states(prompts)
    assert torch.allclose(states, trained, atol=1e-5)
    images = pipeline(ImageRequest(prompts=("x",), steps=2, width=64, height=64))
    assert images.pixels.shape == (1, 3, 64, 64)
    assert images.policy == "black"


def test_a_run_starts_from_a_finished_model_and_gives_it_back(tmp_path: Path) -> None:
    run, again = tmp_path / "run", tmp_path / "again"
    start_from(NANO_FOLDER, run)
    assert latest_unet(run).conv_in.weight.dtype == torch.float32
    export_run(run, again)
    files = sorted(path.relative_to(again) for path in again.rglob("*.safetensors"))
    assert len(files) == 4
    for file in files:
        shipped, made = load_file(NANO_FOLDER / file), load_file(again / file)
        assert shipped.keys() == made.keys()
        assert all(torch.equal(made[name], value) for name, value in shipped.items())
    own = run / "guidance" / RESULT
    own.write_bytes(b"mine")
    start_from(NANO_FOLDER, run)
    assert own.read_bytes() == b"mine"


def test_a_run_starts_from_nothing_but_nano(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match=FILE_NAME):
        start_from(tmp_path, tmp_path / "run")
    export_random(tmp_path / "model")
    save_file({"x": torch.zeros(2)}, tmp_path / "model/vae/diffusion_pytorch_model.safetensors")
    with pytest.raises(WeightsMismatch, match="is not nano's vae"):
        start_from(tmp_path / "model", tmp_path / "run")


def test_an_export_over_the_limit_is_refused(tmp_path: Path, monkeypatch: object) -> None:
    monkeypatch.setattr(export_room, "LIMIT", 1000)  # type: ignore[attr-defined]
    with pytest.raises(InvalidRequest, match="may have 1000"):
        export_random(tmp_path)


def test_widths_are_whole_multiples_so_that_ldm_configs_can_say_them() -> None:
    widths = UNET["block_out_channels"]
    assert all(width % widths[0] == 0 and width % 32 == 0 for width in widths)
    assert UNET["norm_num_groups"] == 32
    heads = UNET["attention_head_dim"]
    assert {width // count for width, count in zip(widths, heads, strict=True)} == {32}


def test_training_scenes_hold_no_held_out_combination() -> None:
    for size in BUCKETS:
        scenes = bucket_scenes(size, 300)
        assert bucket_scenes(size, 100) == scenes[:100]
        assert not any(
            is_held_out(thing.shape, thing.colour, scene.background)
            for scene in scenes
            for thing in scene.things
        )


def test_what_is_learned_last_is_shown_oftenest() -> None:
    weigh = WorldSource({}, random_tower(), Windows(TOKENIZER), {}).weight
    ring, star = (Thing(shape, "red", "small", "centre") for shape in ("ring", "star"))
    around = Thing("heart", "blue", "large", "centre")
    alone, inside, hole = (
        weigh(scene)
        for scene in (
            Scene("white", (ring,)),
            Scene("white", (star, around), "inside"),
            Scene("white", (ring, around), "inside"),
        )
    )
    assert alone < inside < hole


def test_latents_are_cached_and_extended(tmp_path: Path) -> None:
    torch.manual_seed(0)
    encode = make_encoder(build_vae(VAE).train(False))
    first = load_bucket(tmp_path, (64, 96), 3, encode)
    assert first.latents.shape == (3, 4, 8, 12)

    def refuse(pixels: torch.Tensor) -> torch.Tensor:
        raise AssertionError("a cached latent was encoded again")

    again = load_bucket(tmp_path, (64, 96), 3, refuse)
    assert torch.equal(again.latents, first.latents)
    more = load_bucket(tmp_path, (64, 96), 5, encode)
    assert torch.equal(more.latents[:3], first.latents)
    assert len(more.scenes) == len(more.latents) == 5


def world_source(**values: object) -> WorldSource:
    buckets = {
        size: Bucket(bucket_scenes(size, 20), torch.randn(20, 4, size[0] // 8, size[1] // 8))
        for size in BUCKETS
    }
    languages = dict.fromkeys(LANGUAGES, 1.0)
    return WorldSource(buckets, random_tower(), Windows(TOKENIZER), languages, **values)  # type: ignore[arg-type]


def test_batches_follow_from_their_position_and_have_one_size() -> None:
    torch.manual_seed(0)
    source = world_source()
    batch, again, other = (source.batch(Position(step), 4) for step in (7, 7, 8))
    assert torch.equal(batch.latents, again.latents)
    assert torch.equal(batch.states, again.states)
    assert not torch.equal(batch.states, other.states)
    assert batch.states.shape == (4, 77, TEXT["project_dim"])
    shapes = {tuple(source.batch(Position(step), 1).latents.shape[2:]) for step in range(160)}
    assert shapes == {(h // 8, w // 8) for h, w in BUCKETS}


def test_captions_are_dropped_by_their_share() -> None:
    torch.manual_seed(0)
    source = world_source(dropped=0.5)
    empty = source.states([""])[0]
    states = source.batch(Position(0), 120).states
    share = sum(torch.allclose(row, empty, atol=1e-4) for row in states) / 120
    assert 0.35 < share < 0.65


def test_scaling_latents_leaves_the_autoencoder_as_it_was() -> None:
    torch.manual_seed(0)
    vae = build_vae(VAE).train(False)
    pixels = CropMaker()(Position(0), None, 2)
    with torch.no_grad():
        before = vae.encode(pixels).latent_dist
        made = vae.decode(before.mean).sample
        scale_latents(vae, float(before.mean.std()))
        after = vae.encode(pixels).latent_dist
        assert torch.allclose(vae.decode(after.mean).sample, made, atol=1e-4)
    assert float(after.mean.std() * VAE["scaling_factor"]) == pytest.approx(1.0, rel=1e-4)
    factor = after.mean.std() / before.mean.std()
    assert torch.allclose(after.std / before.std, factor.expand_as(after.std), rtol=1e-3)


def test_half_of_the_checkers_scenes_show_the_sign_and_some_its_colours() -> None:
    scenes = [checker_scene(index, random.Random(index)) for index in range(400)]
    signs = [scene for scene in scenes if scene.things[0].shape == "hazard"]
    assert len(signs) == 200
    likenesses = [
        scene
        for scene in scenes
        if scene.things[0].shape == "triangle" and scene.things[0].colour in ("yellow", "black")
    ]
    assert len(likenesses) > 20


def test_a_plan_file_changes_numbers_and_refuses_unknown_names(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    changes = {"quality": {"steps": 9, "pictures": 70}, "vae": {"seed": 4}}
    path.write_text(json.dumps(changes), encoding="utf-8")
    plan = read_plan(path)
    assert (plan.quality.loop.steps, plan.quality.pictures, plan.vae.seed) == (9, 70, 4)
    assert plan.guidance == NanoPlan().guidance
    for wrong in ({"qualiti": {"steps": 9}}, {"quality": {"step": 9}}):
        path.write_text(json.dumps(wrong), encoding="utf-8")
        with pytest.raises(UnknownName):
            read_plan(path)
    with pytest.raises(UnknownName, match="guidance"):
        train_nano(tmp_path, until="guidence")
