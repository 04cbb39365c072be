"""`check` says what lies there and what is wrong with it."""

from __future__ import annotations

import shutil
from pathlib import Path

import layouts
import pytest
import torch
from multilingual_diffusion.pipeline_core.errors import FileRefused, ModelNotFound
from multilingual_diffusion.pipeline_core.loading.checking import check
from multilingual_diffusion.pipeline_core.loading.parts import SCHEDULER_NOTE
from safetensors.torch import save_file


def test_a_whole_folder_is_ok(tmp_path: Path) -> None:
    path = layouts.write_diffusers_folder(tmp_path / "AltDiffusion-m9", old_vae_names=True)
    report = check(path, allow_pickle=True)
    assert report.ok
    assert report.model == "altdiffusion-m9"
    parts = {part.part: part for part in report.parts}
    assert list(parts) == [
        "text_encoder", "tokenizer", "unet", "vae", "safety_checker", "scheduler",
    ]  # fmt: skip
    unet = layouts.modules("m9")["unet"]
    assert parts["unet"].parameters == sum(value.numel() for value in unet.parameters())
    assert parts["unet"].dtypes == {"F32": len(unet.state_dict())}
    assert "roberta.pooler.dense.weight" in parts["text_encoder"].unused
    assert parts["vae"].spelling == "diffusers, old attention names"
    assert "vae: ok, diffusion_pytorch_model.bin" in str(report)


def test_faults_are_found_and_named(tmp_path: Path) -> None:
    tensors = layouts.single_file_tensors("m9")
    unet, vae = "model.diffusion_model.", "first_stage_model."
    del tensors[f"{unet}out.2.bias"]
    tensors[f"{unet}extra"] = torch.ones(1)
    tensors[f"{vae}quant_conv.bias"] = torch.ones(9)
    tensors[f"{vae}decoder.conv_out.bias"] = torch.tensor([0.0, torch.nan, 0.0])
    layouts.save_tensors(tmp_path / "m9.safetensors", tensors)
    report = check(tmp_path / "m9.safetensors")
    assert not report.ok
    parts = {part.part: part for part in report.parts}
    assert parts["text_encoder"].ok
    assert parts["unet"].missing == (f"{unet}out.2.bias",)
    assert parts["unet"].extra == (f"{unet}extra",)
    assert parts["vae"].misshaped == (f"{vae}quant_conv.bias [9], not [8]",)
    assert parts["vae"].non_finite == (f"{vae}decoder.conv_out.bias",)
    for text in ("1 missing: ", "1 extra: ", "1 misshaped: ", "1 not finite: "):
        assert text in str(report)


def test_a_broken_part_is_a_line_not_an_error(tmp_path: Path) -> None:
    path = layouts.write_diffusers_folder(tmp_path / "m9", weights="safetensors")
    (path / "vae" / "config.json").write_text('{"latent_channels": 1e400}', encoding="utf-8")
    report = check(path)
    assert not report.ok
    broken = next(part for part in report.parts if part.part == "vae")
    assert broken.problem and "too large" in broken.problem
    assert "vae: NOT OK" in str(report)


BROKEN: dict[str, tuple[str, str, str]] = {
    "junk for a tokenizer": (
        "tokenizer/sentencepiece.bpe.model", "junk", "is not a sentencepiece model"
    ),
    "a scheduler value": (
        "scheduler/scheduler_config.json", '{"beta_start": "x"}', "beta_start is 'x'"
    ),
    "a preprocessor value": (
        "feature_extractor/preprocessor_config.json", '{"image_std": [0, 0, 0]}', "image_std is 0"
    ),
    "another network's preprocessor": (
        "feature_extractor/preprocessor_config.json", '{"crop_size": 224}', "takes 32 x 32"
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN)
def test_small_files_are_opened_as_a_run_opens_them(what: str, tmp_path: Path) -> None:
    name, text, problem = BROKEN[what]
    path = layouts.write_diffusers_folder(tmp_path / "m9", weights="safetensors")
    (path / name).write_text(text, encoding="utf-8")
    report = check(path)
    assert not report.ok
    faulty = [part for part in report.parts if not part.ok]
    assert len(faulty) == 1 and problem in str(faulty[0].problem)
    assert Path(name).name in faulty[0].files and problem in str(report)


def test_a_text_encoder_without_tokenizer_is_not_whole(tmp_path: Path) -> None:
    folder = layouts.write_diffusers_folder(tmp_path / "m9", weights="safetensors")
    shutil.rmtree(folder / "tokenizer")
    (folder / "model_index.json").unlink()  # which would name it
    for path in (folder, layouts.write_single_file(tmp_path / "single" / "m9.safetensors")):
        report = check(path)
        assert not report.ok and report.missing == ("tokenizer",)
        assert all(part.ok for part in report.parts)
        assert "tokenizer: MISSING" in str(report)


def test_a_single_files_noted_scheduler_is_read(tmp_path: Path) -> None:
    tensors = layouts.single_file_tensors("sd1", prefixes=())
    for note, ok in (('{"prediction_type": "epsilon"}', True), ('{"beta_end": 7}', False)):
        file = tmp_path / "sd1.safetensors"
        values = {name: value.contiguous().clone() for name, value in tensors.items()}
        save_file(values, file, {SCHEDULER_NOTE: note})
        assert check(file).ok == ok


def test_pickles_need_permission(tmp_path: Path) -> None:
    path = layouts.write_diffusers_folder(tmp_path / "m9")
    report = check(path)
    assert not report.ok
    refused = [part.part for part in report.parts if "--allow-pickle" in str(part.problem)]
    assert refused == ["text_encoder", "unet", "vae", "safety_checker"]
    with pytest.raises(FileRefused, match="--allow-pickle"):
        check(layouts.write_single_file(tmp_path / "m9.ckpt"))


def test_averages_and_absent_parts_are_told(tmp_path: Path) -> None:
    file = layouts.write_single_file(tmp_path / "m9.safetensors", ema="model_ema")
    assert "--ema" in str(check(file))
    folder = layouts.write_diffusers_folder(
        tmp_path / "m9", weights="safetensors", null_checkers=True
    )
    assert "safety_checker: declared absent" in str(check(folder))


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound):
        check(tmp_path / "nothing")
