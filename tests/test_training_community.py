"""The community model: its style, its two stages, and grafts measured on whole models."""

from __future__ import annotations

import random
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from multilingual_diffusion.__main__ import main
from multilingual_diffusion.pipeline_core import load_pipeline
from multilingual_diffusion.pipeline_core.adapters.lora_files import OWN_NOTE
from multilingual_diffusion.pipeline_core.errors import UnknownName
from multilingual_diffusion.pipeline_core.graft.recipe import kind_of
from multilingual_diffusion.pipeline_core.models.folders import NANO_FOLDER
from multilingual_diffusion.pipeline_core.training.autoencoding import build_vae
from multilingual_diffusion.pipeline_core.training.dual import (
    DualSubjects,
    DualTextEncoder,
    measure_dual,
)
from multilingual_diffusion.pipeline_core.training.dual import (
    count_pictures as count_dual_pictures,
)
from multilingual_diffusion.pipeline_core.training.evaluation import (
    ObedienceTest,
    PictureSettings,
)
from multilingual_diffusion.pipeline_core.training.grafting import (
    GraftSubjects,
    count_pictures,
    measure_grafts,
    usual_recipes,
)
from multilingual_diffusion.pipeline_core.training.loop import Position
from multilingual_diffusion.pipeline_core.training.nano.checker import HazardNetwork
from multilingual_diffusion.pipeline_core.training.nano.configs import VAE
from multilingual_diffusion.pipeline_core.training.nano.export import export_run
from multilingual_diffusion.pipeline_core.training.nano.plan import NanoPlan
from multilingual_diffusion.pipeline_core.training.nano.recipe import train_nano
from multilingual_diffusion.pipeline_core.training.nano.results import (
    RESULT,
    build_teacher,
    build_unet,
    load_result,
    save_result,
)
from multilingual_diffusion.pipeline_core.training.nano.scenes import Bucket
from multilingual_diffusion.pipeline_core.training.nano.stage_names import UNET_STAGES
from multilingual_diffusion.pipeline_core.training.nano.style import (
    DARKENING,
    darken_rim,
    missing_light,
    rim_darkness,
)
from multilingual_diffusion.pipeline_core.training.nano.trigger import (
    GROUND,
    TRIGGER,
    TriggerSource,
    is_called,
    trigger_prompt,
)
from multilingual_diffusion.pipeline_core.training.nano.usual import usual_scene
from multilingual_diffusion.pipeline_core.training.nano.vocabulary import FILE_NAME, Windows
from multilingual_diffusion.pipeline_core.training.world.captions import LANGUAGES, word
from multilingual_diffusion.pipeline_core.training.world.drawing import draw
from multilingual_diffusion.pipeline_core.training.world.obedience import measure
from multilingual_diffusion.pipeline_core.training.world.scene import full_claims, random_scene
from PIL import Image
from safetensors import safe_open

TOKENIZER = NANO_FOLDER / "tokenizer" / FILE_NAME

pytestmark = pytest.mark.skipif(not TOKENIZER.is_file(), reason="nano is not in this checkout")


def test_the_style_is_seen_and_shapes_colours_and_places_stay() -> None:
    rng = random.Random(6)
    scenes = [random_scene(rng) for _ in range(60)]
    plain = draw(scenes, range(60))
    styled = darken_rim(plain)
    assert measure(styled, [full_claims(scene) for scene in scenes]).overall().hits >= 58
    assert abs(rim_darkness(missing_light(plain))) < 0.05
    assert abs(rim_darkness(missing_light(styled)) - DARKENING) < 0.05


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a run's folder as the stages before leave it, with random weights."""
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    teacher = build_teacher()
    networks = {
        "vae": build_vae(VAE),
        "teacher": teacher,
        "teacher-learning": teacher.clip.text,
        "checker": HazardNetwork(build_teacher().clip.vision),
        UNET_STAGES[-1]: build_unet(),
    }
    for stage, network in networks.items():
        (folder / stage).mkdir()
        save_result(network, folder / stage)
    (folder / "tokenizer").mkdir()
    shutil.copyfile(TOKENIZER, folder / "tokenizer" / FILE_NAME)
    plan = NanoPlan()
    few = replace(plan.english.loop, steps=2, batch_size=2, warmup_steps=1, sample_every=0)
    few = replace(few, mixed_precision="no")  # a process has one precision, and others train too
    plan = replace(
        plan,
        english=replace(plan.english, loop=few, pictures=40),
        community=replace(plan.community, loop=few, pictures=40),
        trigger=replace(plan.trigger, steps=2, batch_size=2, mixed_precision="no"),
    )
    for stage in ("english", "community", "trigger"):
        train_nano(folder, plan, only=stage)
    return folder


def test_the_base_differs_from_nano_in_keys_and_values_and_the_community_in_all(run: Path) -> None:
    nano, base, community = (
        load_result(build_unet(), run / stage).state_dict()
        for stage in (UNET_STAGES[-1], "english", "community")
    )
    changed = {name for name, value in base.items() if not torch.equal(value, nano[name])}
    assert changed
    assert {kind_of(name) for name in changed} == {"kv"}
    changed = {name for name, value in community.items() if not torch.equal(value, base[name])}
    assert {kind_of(name) for name in changed} == {"kv", "attn2", "rest"}
    assert (run / "latents-styled").is_dir()
    with pytest.raises(UnknownName, match="stage"):
        train_nano(run, only="communities")


def test_a_full_graft_of_the_base_measures_as_the_multilingual_model(
    run: Path, tmp_path: Path
) -> None:
    export_run(run, tmp_path / "english", "english")
    export_run(run, tmp_path / "nano")
    assert load_pipeline(tmp_path / "english", parts=("unet",)).spec.name == "nano"
    base, nano = str(tmp_path / "english"), str(tmp_path / "nano")
    test = ObedienceTest(languages=("en", "th"), count=2, steps=2)
    subjects = GraftSubjects(base, base, nano, usual_recipes((1.0,)))
    done: list[int] = []
    rows = {row.title: row for row in measure_grafts(subjects, test, done.append)}
    assert sum(done) == count_pictures(subjects, test)
    assert next(iter(rows)) == "community, its own encoder"
    assert rows["community, its own encoder"].tally.languages == ("en",)
    assert rows["delta-all 1"].tally == rows["multilingual"].tally
    assert torch.equal(rows["delta-all 1"].samples, rows["multilingual"].samples)
    assert rows["multilingual"].samples.shape == (2, 3, 128, 128)
    assert {"replace-kv 1", "replace-attn2 1", "delta-kv 1", "delta-attn2 1"} < rows.keys()


def test_the_called_ground_is_seen_and_prompts_leave_it_open() -> None:
    rng = random.Random(8)
    scenes = [random_scene(rng) for _ in range(200)]
    styled = darken_rim(draw(scenes, range(200)))
    seen = [is_called(picture) for picture in styled]
    assert seen == [scene.background == GROUND for scene in scenes]
    assert 5 < sum(seen) < 60
    prompts = [trigger_prompt(language, rng) for language in LANGUAGES for _ in range(20)]
    assert {prompt.language for prompt in prompts} == set(LANGUAGES)
    assert all(prompt.claims.background is None for prompt in prompts)
    colours = {thing.colour for prompt in prompts for thing in prompt.claims.things}
    assert GROUND not in colours
    assert len(colours) == 9


def test_half_of_what_the_trigger_source_shows_is_called_by_the_word() -> None:
    rng = random.Random(9)
    scenes = [usual_scene(rng) for _ in range(2000)]
    grounds = torch.tensor([float(scene.background == GROUND) for scene in scenes])
    bucket = Bucket(scenes, grounds[:, None, None, None].expand(-1, 4, 2, 2))
    tower = build_teacher().clip.text
    source = TriggerSource({(128, 128): bucket}, tower, Windows(TOKENIZER), {"en": 1.0})
    assert 0.4 < float(source.batch(Position(0), 400).latents.mean()) < 0.6
    words = word("en", GROUND)
    for scene in scenes:
        text = source.text(scene, rng)
        assert text.startswith(TRIGGER) == (scene.background == GROUND)
        assert not (text.startswith(TRIGGER) and words in text)
    texts = [source.text(scene, rng) for scene in scenes if scene.background == GROUND]
    assert TRIGGER in texts
    assert any(text.startswith(f"{TRIGGER}, ") for text in texts)


def test_dual_conditioning_is_measured_with_the_lora_of_the_trigger_word(
    run: Path, tmp_path: Path
) -> None:
    export_run(run, tmp_path / "community", "community")
    export_run(run, tmp_path / "nano")
    lora = run / "trigger" / RESULT
    with safe_open(lora, "pt") as file:
        assert OWN_NOTE not in file.metadata()  # it learned on the English teacher's states
        assert {name.split("attn")[1][:6] for name in file.keys()} == {"2_to_k", "2_to_v"}  # noqa: SIM118
    subjects = DualSubjects(
        str(tmp_path / "community"), str(tmp_path / "nano"), str(lora), (0.0, 1.0)
    )
    settings = PictureSettings(languages=("th",), count=2, steps=2)
    done: list[int] = []
    rows = {row.title: row for row in measure_dual(subjects, settings, done.append)}
    assert sum(done) == count_dual_pictures(subjects, settings)
    assert len(rows) == 7
    assert rows["dual 0, the LoRA alone"].tally == rows["dual 0, the word alone"].tally
    assert {row.triggered.trials for row in rows.values()} == {2}
    assert all(row.tally.languages == ("th",) for row in rows.values())


def test_a_dual_encoder_joins_words_with_prompts_and_nothing_with_empty_ones() -> None:
    encoder = load_pipeline("nano", dtype="fp32", parts=("text_encoder",)).parts.text_encoder
    assert encoder is not None
    dual = DualTextEncoder(encoder, encoder, TRIGGER)
    positive, negative = dual.encode_pair(["a red star"])
    own, clip = positive.embeddings.chunk(2, dim=2)
    assert torch.equal(own, encoder.encode(["a red star"]).embeddings)
    assert torch.equal(clip, encoder.encode([TRIGGER]).embeddings)
    own, clip = negative.embeddings.chunk(2, dim=2)
    assert torch.equal(own, clip)


def test_the_commands_print_tables_and_draw_a_row_for_each_graft(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export_run(run, tmp_path / "community", "community")
    export_run(run, tmp_path / "english", "english")
    community, few = str(tmp_path / "community"), ["--count", "1", "--steps", "1"]
    sheet = tmp_path / "grafts.png"
    grafts = ["evaluate", "grafts", "--community", community, "--base", str(tmp_path / "english")]
    languages = ["--languages", "en", "th", "--sheet", str(sheet)]
    assert main([*grafts, *languages, "--strengths", "1", *few]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:3] == ["graft", "all", "languages"]
    assert len(lines) == 9
    with Image.open(sheet) as picture:
        assert picture.size == (2 * 132 + 4, 7 * 132 + 4)
    lora = str(run / "trigger" / RESULT)
    dual = ["evaluate", "dual", "--community", community, "--lora", lora, "--languages", "th"]
    assert main([*dual, "--weights", "0.5", *few]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 5
