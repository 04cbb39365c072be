"""`detect` on every published layout, and one clear error for everything that is not one."""

from __future__ import annotations

import json
import os
import shutil

import layouts
import pytest
import tiny
import torch
from multilingual_diffusion.pipeline_core.errors import FileRefused, ModelNotFound
from multilingual_diffusion.pipeline_core.models.detect import detect
from multilingual_diffusion.pipeline_core.models.evidence import (
    find_text_prefix,
    nearest_spec,
)
from multilingual_diffusion.pipeline_core.models.headers import TensorInfo

CORE = ("text_encoder", "tokenizer", "unet", "vae")


def list_tensors(path) -> dict[str, TensorInfo]:
    """Stand for the pickle reader of the loading room, which has the permission."""
    content = torch.load(path, weights_only=True)
    tensors = dict(content.get("state_dict", content))
    second = content.get("state_dict_ema", {})
    tensors |= {f"state_dict_ema.{name}": value for name, value in second.items()}
    return {name: TensorInfo("F32", tuple(value.shape)) for name, value in tensors.items()}


@pytest.mark.parametrize("weights", ["bin", "safetensors"])
@pytest.mark.parametrize(
    ("model", "spec", "encoder", "family"),
    [
        ("m9", "altdiffusion-m9", "altdiffusion", "sd1"),
        ("m18", "altdiffusion-m18", "altdiffusion-m18", "sd2"),
        ("chinese", "chinese-stable-diffusion", "chinese-clip", "sd2"),
    ],
)
def test_folders(tmp_path, model, spec, encoder, family, weights):
    found = detect(layouts.write_diffusers_folder(tmp_path / "x", model, weights=weights))
    assert (found.layout, found.spec.name) == ("diffusers", spec)
    assert (found.encoder, found.unet_family) == (encoder, family)
    assert set(found.parts) == {*CORE, "safety_checker", "scheduler"}
    assert found.needs_pickle == (weights == "bin") and not found.has_ema
    assert found.parts["unet"].weights[0].name == f"diffusion_pytorch_model.{weights}"
    assert found.parts["safety_checker"].extra["preprocessor"].is_file()
    assert any("encoder" in reason for reason in found.reasons)


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("AltDiffusion-m9", "altdiffusion-m9"),
        ("alt_diffusion_M9-fp16", "altdiffusion-m9"),
        ("AltDiffusion", "altdiffusion"),
        ("altdiffusion-m2", "altdiffusion"),
        ("models--BAAI--AltDiffusion/snapshots/0a1b2c", "altdiffusion"),
        ("other", "altdiffusion-m9"),
        ("am9x", "altdiffusion-m9"),
    ],
)
def test_m2_and_m9_differ_by_name_only(tmp_path, folder, name):
    found = detect(layouts.write_diffusers_folder(tmp_path / folder, "m2"))
    assert found.spec.name == name
    guessed = any("taken as m9" in reason for reason in found.reasons)
    assert guessed == (folder in ("other", "am9x"))


def test_name_or_path_tells_m2(tmp_path):
    folder = layouts.write_diffusers_folder(tmp_path / "x", "m2")
    index = json.loads((folder / "model_index.json").read_text())
    tiny.write_json(folder / "model_index.json", {**index, "_name_or_path": "BAAI/AltDiffusion"})
    assert detect(folder).spec.name == "altdiffusion"


def test_m18_keys_beat_a_config_that_does_not_say_so(tmp_path):
    folder = layouts.write_diffusers_folder(tmp_path / "x", "m18", weights="safetensors")
    config = {**layouts.text_config("m18"), "has_pre_transformation": False, "project_dim": 7}
    tiny.write_json(folder / "text_encoder" / "config.json", config)
    found = detect(folder)
    assert found.encoder == "altdiffusion-m18"
    assert any("transformation_pre present" in reason for reason in found.reasons)


def test_m18_pickle_without_the_flag_is_known_by_its_square_projection(tmp_path):
    folder = layouts.write_diffusers_folder(tmp_path / "x", "m18", weights="bin")
    config = layouts.text_config("m18")
    del config["has_pre_transformation"]
    tiny.write_json(folder / "text_encoder" / "config.json", config)
    assert detect(folder).encoder == "altdiffusion-m18"


def test_a_pickled_encoder_without_its_config_is_refused(tmp_path):
    folder = layouts.write_diffusers_folder(tmp_path)
    (folder / "text_encoder" / "config.json").unlink()
    with pytest.raises(FileRefused, match=r"text_encoder has no config\.json"):
        detect(folder)
    layouts.write_diffusers_folder(folder, weights="safetensors")
    (folder / "text_encoder" / "config.json").unlink()
    assert detect(folder).encoder == "altdiffusion"  # by its tensors


@pytest.mark.parametrize(
    ("width", "name"), [(192, "nano"), (1024, "altdiffusion-m18"), (32, "altdiffusion-m18")]
)
def test_the_m18_encoder_belongs_to_the_model_of_its_width(width, name):
    assert nearest_spec("altdiffusion-m18", width, [], []).name == name


def test_variants_and_shards(tmp_path):
    folder = tmp_path / "x"
    options = {"weights": "safetensors", "fp16_variant": True}
    layouts.write_diffusers_folder(folder, **options)
    part = detect(folder).parts["unet"]
    assert part.weights[0].name == "diffusion_pytorch_model.fp16.safetensors"
    layouts.write_diffusers_folder(folder, weights="bin")
    assert detect(folder).parts["unet"].weights[0].suffix == ".safetensors"  # before .bin
    layouts.write_diffusers_folder(folder, weights="safetensors")
    assert ".fp16." not in detect(folder).parts["unet"].weights[0].name  # full before variant
    sharded = layouts.write_diffusers_folder(tmp_path / "y", sharded=True, **options)
    names = [path.name for path in detect(sharded).parts["text_encoder"].weights]
    assert names == [f"model.fp16-0000{n}-of-00002.safetensors" for n in (1, 2)]


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/passwd", 3, "x.safetensors"])
def test_an_index_cannot_name_files_elsewhere(tmp_path, name):
    folder = layouts.write_diffusers_folder(tmp_path, weights="safetensors", sharded=True)
    index = folder / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    tiny.write_json(index, {"weight_map": {"conv_in.weight": name}})
    with pytest.raises(FileRefused, match="not a shard"):
        detect(folder)


def test_a_missing_shard_is_named(tmp_path):
    folder = layouts.write_diffusers_folder(tmp_path, weights="safetensors", sharded=True)
    (folder / "vae" / "diffusion_pytorch_model-00002-of-00002.safetensors").unlink()
    with pytest.raises(FileRefused, match="00002-of-00002"):
        detect(folder)


def test_null_checkers_are_declared_absent(tmp_path):
    found = detect(layouts.write_diffusers_folder(tmp_path, null_checkers=True))
    assert found.absent == ("safety_checker",) and "safety_checker" not in found.parts
    quiet = detect(layouts.write_diffusers_folder(tmp_path / "q", safety_checker=False))
    assert quiet.absent == () and "safety_checker" not in quiet.parts


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_modelscope_folder(tmp_path, prediction_type):
    folder = layouts.write_modelscope_folder(tmp_path, prediction_type=prediction_type)
    found = detect(folder)
    assert (found.layout, found.spec.name) == ("modelscope", "chinese-stable-diffusion")
    assert found.parts["tokenizer"].extra["vocabulary"].name == "vocab.txt"
    (folder / "configuration.json").unlink()
    assert detect(folder).layout == "modelscope"  # by the class name


@pytest.mark.parametrize("prefix", layouts.TEXT_PREFIXES)
@pytest.mark.parametrize("model", ["m9", "m18"])
def test_single_files_under_every_prefix(tmp_path, model, prefix):
    path = layouts.write_single_file(tmp_path / "x.safetensors", model, prefixes=(prefix,))
    found = detect(path)
    assert (found.layout, found.spec.name) == ("checkpoint", f"altdiffusion-{model}")
    assert set(found.parts) == {"text_encoder", "unet", "vae"}
    assert not found.needs_pickle and not found.has_ema


def test_duplicates_take_the_first_prefix_that_is_whole():
    names = layouts.single_file_tensors("m18", prefixes=layouts.TEXT_PREFIXES[1:])
    tensors = {name: TensorInfo("F32", tuple(value.shape)) for name, value in names.items()}
    assert find_text_prefix(tensors) == "cond_stage_model.text_encoder."


@pytest.mark.parametrize("ema", ["model_ema", "state_dict_ema"])
def test_pickled_zoo_with_permission(tmp_path, ema):
    path = layouts.write_single_file(
        tmp_path / "m18.ckpt", "m18", ema=ema, prefixes=layouts.TEXT_PREFIXES, vision=True
    )
    found = detect(path, list_tensors=list_tensors)
    assert found.spec.name == "altdiffusion-m18" and found.has_ema and found.needs_pickle


@pytest.mark.parametrize("model", ["m9", "m18"])
def test_flagai_folder(tmp_path, model):
    folder = layouts.write_flagai_folder(tmp_path / "FlagAI", model)
    found = detect(folder, list_tensors=list_tensors)
    assert (found.layout, found.spec.name) == ("flagai", f"altdiffusion-{model}")
    assert found.parts["tokenizer"].extra["sentencepiece"].is_file()
    assert found.parts["unet"].config == folder / "config.yaml"


@pytest.mark.parametrize("version", ["sd1", "sd2"])
def test_plain_stable_diffusion_is_unet_and_vae(tmp_path, version):
    found = detect(layouts.write_sd_checkpoint(tmp_path / "x.safetensors", version))
    assert (found.spec, found.encoder, found.unet_family) == (None, None, version)
    assert set(found.parts) == {"unet", "vae"}
    assert any("not a part this pack loads" in reason for reason in found.reasons)
    folder = detect(layouts.write_diffusers_folder(tmp_path / "f", version))
    assert (folder.spec, folder.unet_family) == (None, version)
    assert set(folder.parts) == {"unet", "vae", "safety_checker", "scheduler"}
    assert any("not an encoder this pack loads" in reason for reason in folder.reasons)


def test_inpainting_unet_is_another_family(tmp_path):
    tensors = layouts.single_file_tensors("m9")
    tensors["model.diffusion_model.input_blocks.0.0.weight"] = torch.ones(32, 9, 3, 3)
    layouts.save_tensors(tmp_path / "x.safetensors", tensors)
    assert detect(tmp_path / "x.safetensors").unet_family == "other"


@pytest.mark.parametrize("suffix", ["ckpt", "pt", "bin", "safetensors"])
def test_pickles_are_refused_with_the_command_that_converts(tmp_path, suffix):
    path = layouts.write_sd_checkpoint(tmp_path / "model.ckpt").rename(tmp_path / f"m.{suffix}")
    with pytest.raises(FileRefused) as error:
        detect(path)
    command = f'models convert "{path}" "{tmp_path / "m-safetensors"}" --allow-pickle'
    assert command in str(error.value) and "\n" not in str(error.value)


def test_legacy_pickles_and_flagai_folders_are_refused_too(tmp_path):
    torch.save({}, tmp_path / "old.ckpt", _use_new_zipfile_serialization=False)
    with pytest.raises(FileRefused, match="--allow-pickle"):
        detect(tmp_path / "old.ckpt")
    with pytest.raises(FileRefused, match=r"FlagAI checkpoint.*--allow-pickle"):
        detect(layouts.write_flagai_folder(tmp_path / "folder"))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"\n<html><head>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
        (b"just some text that is longer than a header", "neither"),
        (b"GIF89a", "neither"),
    ],
)
def test_wrong_kinds_say_what_they_are(tmp_path, content, words):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(FileRefused, match=words):
        detect(path)


def test_missing_and_empty(tmp_path):
    with pytest.raises(ModelNotFound, match="nothing lies at"):
        detect(tmp_path / "none")
    with pytest.raises(ModelNotFound, match="is empty"):
        detect(tmp_path)
    for path in ("a\0b", "x" * 5000):
        with pytest.raises(ModelNotFound, match="nothing lies at '"):
            detect(path)
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(ModelNotFound, match="holds no model"):
        detect(tmp_path)


def test_a_folder_with_several_checkpoints_asks_for_one(tmp_path):
    first = layouts.write_sd_checkpoint(tmp_path / "a.safetensors")
    assert detect(tmp_path).layout == "checkpoint"
    shutil.copy(first, tmp_path / "b.safetensors")
    with pytest.raises(ModelNotFound, match=r"a\.safetensors, b\.safetensors"):
        detect(tmp_path)


def test_parts_alone(tmp_path):
    folder = layouts.write_diffusers_folder(tmp_path / "x", weights="safetensors")
    assert list(detect(folder / "unet").parts) == ["unet"]  # its config says what it is
    shutil.rmtree(folder / "unet")
    found = detect(folder)
    assert "unet: not in the folder" in found.reasons and found.unet_family is None
    (folder / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(FileRefused, match="holds no weights"):
        detect(folder)


def test_links_are_followed_and_broken_ones_named(tmp_path):
    folder = layouts.write_diffusers_folder(tmp_path / "x", weights="safetensors")
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    blob = file.rename(tmp_path / "blob")  # as the hub's cache keeps it
    file.symlink_to(blob)
    assert detect(folder).unet_family == "sd1"
    blob.unlink()
    with pytest.raises(FileRefused, match="link to nothing"):
        detect(folder)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises((FileRefused, ModelNotFound), match="loop"):
        detect(tmp_path / "loop")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "pipe.ckpt")
    with pytest.raises(FileRefused, match="not a regular file"):
        detect(tmp_path / "pipe.ckpt")


@pytest.mark.parametrize("file", ["model_index.json", "text_encoder/config.json"])
def test_hostile_configs_are_refused(tmp_path, file):
    folder = layouts.write_diffusers_folder(tmp_path)
    (folder / file).write_text('{"a": 1e999}')
    with pytest.raises(FileRefused, match="too large for a number"):
        detect(folder)
    (folder / file).write_text("[" * 100_000)
    with pytest.raises(FileRefused, match="nested"):
        detect(folder)
