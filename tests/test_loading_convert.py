"""Conversion: every layout to both layouts and back, bit for bit; failures leave nothing behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import layouts
import pytest
import torch
from multilingual_diffusion.pipeline_core.errors import (
    Cancelled,
    FileRefused,
    InvalidRequest,
    PipelineError,
    UnknownName,
    WeightsMismatch,
)
from multilingual_diffusion.pipeline_core.loading.convert import convert
from multilingual_diffusion.pipeline_core.loading.parts import (
    load_safety_network,
    load_scheduler_config,
    load_text_network,
    load_unet_network,
    load_vae_network,
)
from multilingual_diffusion.pipeline_core.models.detect import detect
from safetensors.torch import load_file

LOADERS = {
    "text_encoder": load_text_network,
    "unet": load_unet_network,
    "vae": load_vae_network,
    "safety_checker": load_safety_network,
}


def assert_holds(path: Path, model: layouts.Model, *, ema: bool = False) -> None:
    """The converted model loads without pickles, to the tensors that `layouts` writes."""
    found = detect(path)
    assert not found.needs_pickle
    for part in ("text_encoder", "unet", "vae"):
        if part not in found.parts:
            assert part == "text_encoder" and model.startswith("sd")
            continue
        network = LOADERS[part](found, device="cpu").network
        averaged = ema and part == "unet"
        expected = (
            layouts.ema_unet(model) if averaged else layouts.modules(model)[part]
        ).state_dict()
        for name, value in network.state_dict().items():
            assert torch.equal(value, expected[name]), name


def test_published_folder_to_folder(tmp_path: Path) -> None:
    source = layouts.write_diffusers_folder(tmp_path / "AltDiffusion", "m2", old_vae_names=True)
    report = convert(source, tmp_path / "new", allow_pickle=True)
    assert report.parts == ("text_encoder", "unet", "vae", "safety_checker")
    assert_holds(report.path, "m2")
    found = detect(report.path)
    assert found.spec is not None and found.spec.name == "altdiffusion"  # not taken for m9
    assert set(found.parts) == set(detect(source).parts)
    for name in ("scheduler/scheduler_config.json", "tokenizer/sentencepiece.bpe.model"):
        assert (report.path / name).read_bytes() == (source / name).read_bytes()
    assert (report.path / "LICENSE-CreativeML-OpenRAIL-M.txt").stat().st_size > 10_000
    safety = load_safety_network(found, device="cpu").network.state_dict()
    expected = load_safety_network(detect(source), device="cpu", allow_pickle=True).network
    for name, value in expected.state_dict().items():
        assert torch.equal(safety[name], value), name


@pytest.mark.parametrize("model", ["m9", "m18", "chinese"])
def test_folder_to_single_and_back(model: layouts.Model, tmp_path: Path) -> None:
    source = layouts.write_diffusers_folder(tmp_path / "source", model, weights="safetensors")
    (tmp_path / "single").mkdir()
    single = convert(source, tmp_path / "single" / "model.safetensors", layout="single")
    assert_holds(single.path, model)
    found = detect(single.path)
    assert set(found.parts) == {"text_encoder", "tokenizer", "unet", "vae"}
    back = convert(single.path, tmp_path / "back")
    assert_holds(back.path, model)


@pytest.mark.parametrize("model", ["m9", "m18"])
def test_single_file_has_the_names_of_the_original_code(
    model: layouts.Model, tmp_path: Path
) -> None:
    """Compared with the test suite's own account of the names, which is written the other way."""
    source = layouts.write_diffusers_folder(tmp_path / "source", model, weights="safetensors")
    single = convert(source, tmp_path / "model.safetensors", layout="single")
    expected = layouts.single_file_tensors(model, buffers=False)
    written = load_file(single.path)
    assert written.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(written[name], value), name


def test_checkpoint_to_folder_with_averaged_weights(tmp_path: Path) -> None:
    source = layouts.write_single_file(
        tmp_path / "m18.ckpt",
        "m18",
        prefixes=("text_encoder.", "ch_clip_model.text_model."),
        ema="state_dict_ema",
    )
    plain = convert(source, tmp_path / "plain", allow_pickle=True)
    assert_holds(plain.path, "m18")
    assert any("--ema" in note for note in plain.notes)
    averaged = convert(source, tmp_path / "averaged", allow_pickle=True, ema=True)
    assert_holds(averaged.path, "m18", ema=True)


def test_what_the_encoder_does_not_use_is_kept(tmp_path: Path) -> None:
    source = layouts.write_diffusers_folder(
        tmp_path / "m18", "m18", weights="safetensors", position_ids=True
    )
    report = convert(source, tmp_path / "new")
    before = load_file(source / "text_encoder" / "model.safetensors")
    after = load_file(report.path / "text_encoder" / "model.safetensors")
    assert before.keys() - after.keys() == {"roberta.embeddings.position_ids"}
    assert after.keys() >= {"transformation.weight", "roberta.encoder.layer.2.output.dense.weight"}


@pytest.mark.parametrize("layout", ["folder", "single"])
def test_dtype_is_cast(layout: Any, tmp_path: Path) -> None:
    source = layouts.write_diffusers_folder(tmp_path / "m9", weights="safetensors")
    target = tmp_path / ("new" if layout == "folder" else "new.safetensors")
    report = convert(source, target, layout=layout, dtype="bf16")
    unet = load_unet_network(detect(report.path), device="cpu", dtype="keep").network.state_dict()
    expected = layouts.modules("m9")["unet"].state_dict()
    for name, value in unet.items():
        assert value.dtype == torch.bfloat16
        assert torch.equal(value, expected[name].bfloat16()), name


def test_prediction_type_survives_in_a_single_file(tmp_path: Path) -> None:
    for prediction in ("v_prediction", None):
        source = layouts.write_modelscope_folder(
            tmp_path / str(prediction), prediction_type=prediction, weights="safetensors"
        )
        target = tmp_path / f"{prediction}.safetensors"
        single = convert(source, target, layout="single")
        config = load_scheduler_config(detect(single.path))
        assert config["prediction_type"] == (prediction or "epsilon")
        back = convert(single.path, tmp_path / f"back-{prediction}")
        assert load_scheduler_config(detect(back.path)) == config


def test_plain_checkpoint_gives_unet_and_vae(tmp_path: Path) -> None:
    source = layouts.write_sd_checkpoint(tmp_path / "sd1.ckpt", "sd1")
    report = convert(source, tmp_path / "new", allow_pickle=True)
    assert report.parts == ("unet", "vae")
    assert_holds(report.path, "sd1")
    assert any("licence" in note for note in report.notes)


def test_written_data_is_aligned(tmp_path: Path) -> None:
    source = layouts.write_single_file(tmp_path / "m9.safetensors")
    report = convert(source, tmp_path / "new.safetensors", layout="single")
    with report.path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    assert (8 + length) % 64 == 0
    spans = sorted(entry["data_offsets"] for name, entry in header.items() if name[0] != "_")
    odd = [(end - start) % 64 != 0 for start, end in spans]
    assert odd == sorted(odd)  # odd sizes last
    assert any(odd) and not all(odd)


def test_metadata_names_no_path(tmp_path: Path) -> None:
    source = layouts.write_single_file(tmp_path / "m9.safetensors")
    report = convert(source, tmp_path / "new")
    for path in report.path.rglob("*"):
        if path.is_file():
            assert str(tmp_path).encode() not in path.read_bytes(), path


def test_progress_reaches_the_total(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    source = layouts.write_sd_checkpoint(tmp_path / "sd1.safetensors")
    report = convert(source, tmp_path / "new", progress=lambda *call: calls.append(call))
    assert calls[-1] == (report.nbytes, report.nbytes)
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)


def test_wrong_requests_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    source = layouts.write_sd_checkpoint(tmp_path / "sd1.ckpt")
    cases: list[tuple[type[Exception], str, dict[str, Any]]] = [
        (InvalidRequest, "exists", {"dst": source}),
        (InvalidRequest, "notes.txt is not a folder", {"dst": tmp_path / "notes.txt" / "a" / "b"}),
        (InvalidRequest, "inside its source", {"dst": source / "new"}),
        (InvalidRequest, "must be named .safetensors", {"layout": "single"}),
        (UnknownName, "did you mean 'fp16'", {"dtype": "f16"}),
        (UnknownName, "did you mean 'single'", {"layout": "singel"}),
        (FileRefused, "--allow-pickle", {}),
        (InvalidRequest, "no averaged", {"allow_pickle": True, "ema": True}),
    ]
    (tmp_path / "notes.txt").write_text("x", encoding="utf-8")
    for error, text, options in cases:
        with pytest.raises(error, match=text):
            convert(source, options.pop("dst", tmp_path / "new"), **options)
    assert {path.name for path in tmp_path.iterdir()} == {"sd1.ckpt", "notes.txt"}


def test_nothing_is_written_into_the_source(tmp_path: Path) -> None:
    source = layouts.write_diffusers_folder(tmp_path / "m9", weights="safetensors")
    (tmp_path / "link").symlink_to(source)
    for target in (source / "sub", source / "a" / ".." / "b" / "c", tmp_path / "link" / "new"):
        with pytest.raises(InvalidRequest, match="inside its source"):
            convert(source, target)
    beside = convert(source, tmp_path / "m9-new")  # the same beginning of a name is another folder
    assert beside.path.is_dir()


def test_missing_parents_are_made_and_go_again_if_it_fails(tmp_path: Path) -> None:
    source = layouts.write_sd_checkpoint(tmp_path / "sd1.safetensors")
    report = convert(source, tmp_path / "a" / "b" / "new.safetensors", layout="single")
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["new.safetensors"]
    assert report.path.is_file()

    def stop(done: int, total: int) -> None:
        raise Cancelled("stopped by the user")

    for parent in (tmp_path / "a" / "c", tmp_path / "d"):
        with pytest.raises(Cancelled):
            convert(source, parent / "e" / "new", progress=stop)
        assert not parent.exists()
    assert (tmp_path / "a" / "b").is_dir()


def test_an_incomplete_model_is_not_converted(tmp_path: Path) -> None:
    tensors = layouts.single_file_tensors("m9")
    del tensors["first_stage_model.quant_conv.bias"]
    layouts.save_tensors(tmp_path / "m9.safetensors", tensors)
    with pytest.raises(WeightsMismatch, match="quant_conv"):
        convert(tmp_path / "m9.safetensors", tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["m9.safetensors"]


@pytest.mark.parametrize("layout", ["folder", "single"])
@pytest.mark.parametrize("limit", [100_000, 3_000_000])
def test_a_full_disk_leaves_nothing(layout: Any, limit: int, tmp_path: Path) -> None:
    resource = pytest.importorskip("resource", reason="file size limits are POSIX")
    source = layouts.write_sd_checkpoint(tmp_path / "sd1.safetensors")
    target = tmp_path / ("new" if layout == "folder" else "new.safetensors")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with pytest.raises(PipelineError, match="nothing of it stays"):
            convert(source, target, layout=layout)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name for path in tmp_path.iterdir()] == ["sd1.safetensors"]
