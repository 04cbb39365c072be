"""The graft of files: both ends bit for bit, reloads, refusals, what is written with it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import graft_models
import layouts
import pytest
import tiny
import torch
from graft_models import (
    Family,
    assert_bits,
    parents_of,
    unet_of,
    unet_tensors,
    write_checkpoint,
    write_family,
    write_folder,
)
from ldm_names import ldm_unet
from multilingual_diffusion.pipeline_core import ImageRequest, load_pipeline
from multilingual_diffusion.pipeline_core.errors import (
    FileRefused,
    InvalidRequest,
    ModelNotFound,
    PipelineError,
)
from multilingual_diffusion.pipeline_core.graft.files import grafted_plan
from multilingual_diffusion.pipeline_core.graft.network import graft_network, graft_tensors
from multilingual_diffusion.pipeline_core.graft.parents import open_parents
from multilingual_diffusion.pipeline_core.graft.recipe import MODES, GraftRecipe, Strengths
from multilingual_diffusion.pipeline_core.graft.write import write_graft
from multilingual_diffusion.pipeline_core.loading.parts import GRAFT_NOTE
from multilingual_diffusion.pipeline_core.models.detect import detect
from multilingual_diffusion.pipeline_core.models.headers import read_safetensors_header
from multilingual_diffusion.pipeline_core.sources import LoadOptions
from safetensors.torch import load_file, save_file

OPTIONS = LoadOptions()
FULL = GraftRecipe("delta-all")


@pytest.fixture(scope="module", params=["sd1", "sd2"])
def family(request: pytest.FixtureRequest) -> Family:
    return request.param


@pytest.fixture(scope="module")
def root(family: Family, sd1: Path, sd2: Path) -> Path:
    return sd1 if family == "sd1" else sd2


@pytest.fixture(scope="module")
def sd1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_family(tmp_path_factory.mktemp("only-sd1"), "sd1")


@pytest.fixture(scope="module")
def sd2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_family(tmp_path_factory.mktemp("only-sd2"), "sd2")


def test_strength_0_is_the_community_bit_for_bit(
    family: Family, root: Path, tmp_path: Path
) -> None:
    recipe = GraftRecipe("delta-all", Strengths.of(0.0))
    write_graft(parents_of(root), recipe, tmp_path / "folder")
    assert_bits(unet_of(tmp_path / "folder"), unet_tensors(family, "community"))
    write_graft(parents_of(root, "community.safetensors"), recipe, tmp_path / "x.safetensors")
    assert_bits(load_file(tmp_path / "x.safetensors"), load_file(root / "community.safetensors"))
    parents = parents_of(root)
    for mode in MODES:
        source = grafted_plan(parents, GraftRecipe(mode, Strengths.of(0.0))).source
        assert_bits(dict(source.stream([*source.tensors])), unet_tensors(family, "community"))


def test_the_base_with_the_full_delta_is_the_multilingual_model_bit_for_bit(
    family: Family, root: Path, tmp_path: Path
) -> None:
    write_graft(parents_of(root, "base"), FULL, tmp_path / "folder")
    assert_bits(unet_of(tmp_path / "folder"), unet_tensors(family, "multilingual"))
    write_checkpoint(tmp_path / "base.safetensors", family, unet_tensors(family, "base"))
    parents = open_parents(
        tmp_path / "base.safetensors", root / "multilingual", root / "base", OPTIONS, "epsilon"
    )
    write_graft(parents, FULL, tmp_path / "x.safetensors")
    wanted = load_file(tmp_path / "base.safetensors")
    for name, value in ldm_unet(unet_tensors(family, "multilingual")).items():
        wanted[f"model.diffusion_model.{name}"] = value
    assert_bits(load_file(tmp_path / "x.safetensors"), wanted)


def test_replaced_and_untouched_tensors(family: Family, root: Path, tmp_path: Path) -> None:
    community, multilingual = (unet_tensors(family, role) for role in ("community", "multilingual"))
    for mode, mark in (
        ("replace-kv", (".attn2.to_k.", ".attn2.to_v.")),
        ("replace-attn2", (".attn2.",)),
    ):
        report = write_graft(parents_of(root, base=None), GraftRecipe(mode), tmp_path / mode)
        chosen = [name for name in community if any(each in name for each in mark)]
        assert (report.grafted, report.kept) == (len(chosen), len(community) - len(chosen))
        assert_bits(
            unet_of(tmp_path / mode), community | {name: multilingual[name] for name in chosen}
        )


def test_strengths_by_side_of_the_unet(family: Family, root: Path) -> None:
    """The formula, in numpy's long double, rounded once."""
    recipe = GraftRecipe("delta-attn2", Strengths.of(0.8, down=0.5, mid=1.0, up=0.0))
    plan = grafted_plan(parents_of(root), recipe)
    c, m, b = (unet_tensors(family, role) for role in ("community", "multilingual", "base"))
    for name, strength in (("down_blocks.1", 0.4), ("mid_block", 0.8), ("up_blocks.1", 0.0)):
        name = f"{name}.attentions.0.transformer_blocks.0.attn2.to_q.weight"
        c_, m_, b_ = (each[name].double() for each in (c, m, b))
        wanted = (c_ + strength * (m_ - b_)).float()
        assert torch.equal(plan.source.read(name), wanted)
    assert not torch.equal(
        plan.source.read(name.replace("up_", "down_")), c[name.replace("up_", "down_")]
    )
    assert torch.equal(plan.source.read(graft_models.TRAINED), c[graft_models.TRAINED])


def test_precision_of_the_community_stays(sd1: Path, tmp_path: Path) -> None:
    halves = {name: value.half() for name, value in unet_tensors("sd1", "community").items()}
    write_checkpoint(tmp_path / "half.safetensors", "sd1", halves)
    parents = open_parents(
        tmp_path / "half.safetensors", sd1 / "multilingual", sd1 / "base", OPTIONS
    )
    source = grafted_plan(parents, GraftRecipe("delta-all", Strengths.of(0.5))).source
    found = dict(source.stream([*source.tensors]))
    m, b = (ldm_unet(unet_tensors("sd1", role)) for role in ("multilingual", "base"))
    for name, value in ldm_unet(halves).items():
        exact = value.double() + 0.5 * (m[name].double() - b[name].double())
        wanted = torch.from_numpy(exact.numpy().astype("float16"))  # numpy rounds once
        assert torch.equal(found[f"model.diffusion_model.{name}"], wanted), name


def test_a_folder_loads_as_a_model_and_equals_the_graft_of_loaded_networks(
    family: Family, root: Path, tmp_path: Path
) -> None:
    recipe = GraftRecipe("delta-all", Strengths.of(0.7))
    write_graft(parents_of(root), recipe, tmp_path / "grafted")
    found = detect(tmp_path / "grafted")
    assert found.spec is not None and found.spec.name.endswith(graft_models.MULTILINGUAL[family])
    pipeline = load_pipeline(tmp_path / "grafted", device="cpu")
    loaded = [
        load_pipeline(root / role, parts=("unet",), device="cpu").parts.unet.network
        for role in ("community", "multilingual", "base")
    ]
    ours = graft_network(*loaded, recipe)
    assert_bits(dict(pipeline.parts.unet.network.state_dict()), dict(ours.state_dict()))
    request = ImageRequest(prompts=["a dog"], width=64, height=64, steps=2, safety="pass")
    assert pipeline(request).pixels.std() > 0


def test_chinese_stable_diffusion_lends_too(sd2: Path, tmp_path: Path) -> None:
    lender = layouts.write_modelscope_folder(tmp_path / "chinese", weights="safetensors")
    save_file(
        dict(unet_tensors("sd2", "multilingual")),
        lender / "unet" / "diffusion_pytorch_model.safetensors",
    )
    parents = open_parents(sd2 / "community", lender, sd2 / "base", OPTIONS)
    write_graft(parents, GraftRecipe("replace-attn2"), tmp_path / "grafted")
    found = detect(tmp_path / "grafted")
    assert found.spec is not None and found.spec.name == "chinese-stable-diffusion"
    assert not found.missing and "tokenizer" in found.parts
    name = "mid_block.attentions.0.transformer_blocks.0.attn2.to_q.weight"
    written = unet_of(tmp_path / "grafted")
    assert torch.equal(written[name], unet_tensors("sd2", "multilingual")[name])


def test_a_file_lends_its_unet_and_vae(root: Path, tmp_path: Path) -> None:
    target = tmp_path / "grafted.safetensors"
    write_graft(parents_of(root), FULL, target)  # of a folder: names of the original code
    write_graft(parents_of(root), FULL, tmp_path / "folder")
    pipeline = load_pipeline(root / "multilingual", parts={"unet": target, "vae": target})
    wanted = unet_of(tmp_path / "folder")
    assert_bits(dict(pipeline.parts.unet.network.state_dict()), wanted)


def test_loaded_networks_share_what_is_not_grafted() -> None:
    community, multilingual = tiny.unet(seed=1), tiny.unet(seed=2)
    before = {name: value.clone() for name, value in community.state_dict().items()}
    grafted = graft_network(community, multilingual, None, GraftRecipe("replace-kv"))
    assert_bits(dict(community.state_dict()), before)
    own = {value.data_ptr() for value in community.state_dict().values()}
    new = [name for name, value in grafted.state_dict().items() if value.data_ptr() not in own]
    assert new and all(".attn2.to_k" in name or ".attn2.to_v" in name for name in new)
    assert set(new) == set(graft_tensors(community, multilingual, None, GraftRecipe("replace-kv")))
    assert not any(p.requires_grad for p in grafted.parameters()) and not grafted.training


def test_metadata_licences_and_nothing_of_this_machine(root: Path, tmp_path: Path) -> None:
    (root / "base" / "LICENSE.txt").write_text("be good", encoding="utf-8")
    target = tmp_path / "out" / "x.safetensors"
    report = write_graft(parents_of(root, "community.safetensors"), FULL, target)
    notes = read_safetensors_header(target).metadata
    record = json.loads(notes[GRAFT_NOTE])
    assert record == report.record and record["mode"] == "delta-all"
    assert record["strengths"] == {"down": 1.0, "mid": 1.0, "up": 1.0}
    by_role = {parent["role"]: parent for parent in record["parents"]}
    data = (root / "community.safetensors").read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    assert by_role["community"]["sha256"] == {"community.safetensors": digest}
    assert by_role["community"]["licence"] == "MIT" and by_role["base"]["licence"] is None
    assert by_role["multilingual"]["licence"] == "CreativeML OpenRAIL-M"
    assert "modelspec.hash_sha256" not in notes and notes["modelspec.license"] == "MIT"
    assert str(tmp_path.parent) not in json.dumps(notes)
    beside = {path.name for path in target.parent.iterdir()}
    assert beside == {
        "x.safetensors", "base-LICENSE.txt", "LICENSE-CreativeML-OpenRAIL-M.txt",
        "NOTICE-xlm-roberta-vocabulary.txt",
    }  # fmt: skip
    assert [note for note in report.notes if "licence text of community.safetensors" in note]
    (root / "base" / "LICENSE.txt").unlink()


def test_what_the_other_family_says(sd1: Path, sd2: Path) -> None:
    with pytest.raises(InvalidRequest, match="ones AltDiffusion-m18 or Chinese Stable"):
        open_parents(sd1 / "community", sd2 / "multilingual", None, OPTIONS)
    with pytest.raises(InvalidRequest, match="24 numbers a token"):
        open_parents(sd1 / "community", sd1 / "multilingual", sd2 / "base", OPTIONS)


def test_equal_width_but_another_network(sd1: Path, tmp_path: Path) -> None:
    config = {**tiny.UNET_M9, "block_out_channels": [32, 32, 64, 64]}
    write_folder(tmp_path / "community", "sd1", dict(tiny.unet(config).state_dict()))
    tiny.write_json(tmp_path / "community" / "unet" / "config.json", config)
    with pytest.raises(InvalidRequest, match=r"differ in \d+ tensors, such as"):
        open_parents(tmp_path / "community", sd1 / "multilingual", None, OPTIONS)
    config = {**tiny.UNET_M9, "attention_head_dim": 4}
    write_folder(tmp_path / "heads", "sd1", unet_tensors("sd1", "community"))
    tiny.write_json(tmp_path / "heads" / "unet" / "config.json", config)
    with pytest.raises(InvalidRequest, match="attention heads"):
        open_parents(tmp_path / "heads", sd1 / "multilingual", None, OPTIONS)


def test_eps_and_v_do_not_mix(root: Path, family: Family, tmp_path: Path) -> None:
    scheduler = {**tiny.SCHEDULER, "prediction_type": "v_prediction"}
    write_folder(tmp_path / "v", family, unet_tensors(family, "community"), scheduler=scheduler)
    with pytest.raises(InvalidRequest, match="predicts v_prediction and that of multilingual"):
        open_parents(tmp_path / "v", root / "multilingual", None, OPTIONS)
    with pytest.raises(InvalidRequest, match="predicts epsilon and that of v"):
        open_parents(root / "community", root / "multilingual", tmp_path / "v", OPTIONS)


def test_a_plain_sd2_checkpoint_has_to_be_told(sd2: Path) -> None:
    places = (sd2 / "community.safetensors", sd2 / "multilingual", None)
    with pytest.raises(InvalidRequest, match="give the prediction type"):
        open_parents(*places, OPTIONS)
    with pytest.raises(InvalidRequest, match="predicts v_prediction"):
        open_parents(*places, OPTIONS, "v_prediction")


def test_other_kinds_are_refused_with_the_reason(sd1: Path, tmp_path: Path) -> None:
    def inpainting(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        name = "model.diffusion_model.input_blocks.0.0.weight"
        return tensors | {name: torch.zeros(32, 9, 3, 3)}

    def sdxl(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return tensors | {"model.diffusion_model.label_emb.0.0.weight": torch.zeros(4, 4)}

    for name, change, reason in (("inpaint", inpainting, "9 channels"), ("xl", sdxl, "SDXL")):
        path = tmp_path / f"{name}.safetensors"
        write_checkpoint(path, "sd1", unet_tensors("sd1", "community"), change)
        with pytest.raises(FileRefused, match=reason):
            open_parents(path, sd1 / "multilingual", None, OPTIONS)


def test_misuse(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="no language to lend"):
        open_parents(root / "multilingual", root / "community", None, OPTIONS)
    with pytest.raises(InvalidRequest, match=r"needs the base .*2.1-base"):
        write_graft(parents_of(root, base=None), FULL, tmp_path / "x")
    with pytest.raises(InvalidRequest, match="did you mean 'delta-all'"):
        GraftRecipe("delta_all")
    for strength in (-0.1, 1.5, float("nan"), True):
        with pytest.raises(InvalidRequest, match="strength"):
            Strengths.of(strength)
    with pytest.raises(InvalidRequest, match="exists"):
        write_graft(parents_of(root), FULL, root / "base")
    with pytest.raises(InvalidRequest, match="lies inside"):
        write_graft(parents_of(root), FULL, root / "base" / "new")
    assert not (tmp_path / "x").exists() and not [*root.glob(".*")]


def test_nothing_stays_of_a_graft_that_fails(tmp_path: Path) -> None:
    unet = unet_tensors("sd1", "community")
    write_folder(tmp_path / "community", "sd1", {n: v.half() for n, v in unet.items()})
    write_folder(tmp_path / "base", "sd1", unet_tensors("sd1", "base"))
    huge = {n: v * 1e7 for n, v in unet_tensors("sd1", "multilingual").items()}
    write_folder(tmp_path / "multilingual", "m9", huge)
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(PipelineError, match="overflows float16"):
        write_graft(parents_of(tmp_path), FULL, tmp_path / "new" / "x")
    assert sorted(path.name for path in tmp_path.iterdir()) == before
