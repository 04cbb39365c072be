"""Models are found by name inside their folders, and a name never leads anywhere else."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import layouts
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from multilingual_diffusion.pipeline_core.errors import FileRefused, InvalidRequest, ModelNotFound
from multilingual_diffusion.pipeline_core.models import folders
from multilingual_diffusion.pipeline_core.models.detect import detect
from multilingual_diffusion.pipeline_core.models.detect_part import detect_part
from multilingual_diffusion.pipeline_core.models.folders import ModelFolders, safe_join

HOSTILE = [
    "", ".", "..", "/", "//", "./x", "../x", "x/../../y", "x/..", "x/.", "x//y", "x/",
    "/etc/passwd", "//server/share", "\\\\server\\share", "..\\x", "x\\..\\y", "\\x", "C:", "C:x",
    "C:\\x", "c:/x", "x\0y", "\0", "x\ny", "x\ry", "x\r\ny", "x\ty", "x\x1by", "x\x7fy", "x\u2028y",
    "x\u202ey", "\ufeffx", "x\ud800y", "CON", "con", "con.txt", "NUL", "nul.safetensors", "COM1",
    "lpt9.x", "a/aux", "PRN/x", "x.", "x..", "x ", " x", "x /y", "x./y", "...", "....//x",
    ".hidden", ".git/config", "~", "~root", "~/x", "x/~", "x*", "x?", 'x"y', "x<y", "x>y", "x|y",
    "x:stream", "a" * 256, "a/" * 400 + "a" * 300, "\u6c34" * 90, "http://x/y", "file:///x",
    "%2e%2e/..",
]  # fmt: skip
FINE = [
    "altdiffusion-m9", "sub/folder/model.safetensors", "$HOME", "%2e%2e", "a b", "a.b.c",
    "\u4e2d\u6587\u6a21\u578b", "\u0646\u0645\u0648\u0630\u062c", "\U0001f98a",
    "\U0001f468\u200d\U0001f469",
    "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645", "console", "nullable", "com10", "a" * 255,
]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_names_are_refused(tmp_path, name):
    with pytest.raises(InvalidRequest) as error:
        safe_join(tmp_path, name)
    assert str(error.value).isprintable() and len(str(error.value)) < 500
    with pytest.raises(InvalidRequest):
        ModelFolders([tmp_path]).find_name(name)


@pytest.mark.parametrize("name", FINE, ids=range(len(FINE)))
def test_names_in_any_language_work(tmp_path, name):
    path = safe_join(tmp_path, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("x")
    assert ModelFolders([tmp_path]).find_name(name) == path


@settings(max_examples=2000, deadline=None)
@given(name=st.text() | st.text(st.sampled_from("./\\ab~: ")))
@example(name="a/../../b")
def test_any_text_stays_inside_or_is_refused(tmp_path_factory, name):
    root = Path(os.path.realpath(tmp_path_factory.getbasetemp()))
    try:
        path = safe_join(root, name)
    except ValueError:
        return
    assert os.path.realpath(path).startswith(f"{root}{os.sep}")


def test_links_out_of_the_folder_are_refused(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in_evil").mkdir()
    (tmp_path / "in" / "link").symlink_to(tmp_path / "in_evil")
    (tmp_path / "in" / "same").symlink_to(tmp_path / "in")
    for name in ("link", "link/x"):
        with pytest.raises(InvalidRequest, match="through a link"):
            safe_join(tmp_path / "in", name)
    assert safe_join(tmp_path / "in", "same/x").name == "x"
    (tmp_path / "alias").symlink_to(tmp_path / "in")  # a linked root is the user's choice
    assert safe_join(tmp_path / "alias", "x").parent == tmp_path / "alias"


def test_a_link_to_another_drive_is_refused(tmp_path, monkeypatch):
    """Windows' drives share no path; neither do an absolute and a relative one here."""
    real = {str(tmp_path): "/models", str(tmp_path / "link"): "D:models"}
    monkeypatch.setattr(folders.os.path, "realpath", lambda path: real[str(path)])
    with pytest.raises(InvalidRequest, match="through a link"):
        safe_join(tmp_path, "link")


def test_models_are_listed_and_found(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "NANO_FOLDER", tmp_path / "no-nano")
    first, second = tmp_path / "first", tmp_path / "second"
    layouts.write_diffusers_folder(first / "AltDiffusion-m9")
    layouts.write_flagai_folder(first / "flagai" / "m2", "m2")
    layouts.write_sd_checkpoint(second / "sd" / "v1.safetensors")
    layouts.write_sd_checkpoint(second / "a" / "b" / "c" / "too-deep.safetensors")
    layouts.write_sd_checkpoint(second / ".x.incomplete" / "hidden.safetensors")
    (second / "notes.txt").write_text("x")
    found = ModelFolders([first, second])
    names = [model.name for model in found.list_models()]
    assert names == ["AltDiffusion-m9", "flagai/m2", "sd/v1.safetensors"]
    for model in found.list_models():
        assert found.find_name(model.name) == model.path
    assert found.find_model("altdiffusion-m9") == first / "AltDiffusion-m9"  # the clone's name
    assert found.find_model(first / "flagai" / "m2") == first / "flagai" / "m2"  # a path
    assert found.download_folder == first


def test_the_first_root_wins(tmp_path):
    for root in ("a", "b"):
        layouts.write_sd_checkpoint(tmp_path / root / "x.safetensors")
    found = ModelFolders([tmp_path / "a", tmp_path / "b"])
    assert found.find_name("x.safetensors") == tmp_path / "a" / "x.safetensors"


def test_chinese_model_is_found_under_its_hub_name(tmp_path):
    folder = tmp_path / "multi-modal_chinese_stable_diffusion_v1.0"
    layouts.write_modelscope_folder(folder)
    assert ModelFolders([tmp_path]).find_model("chinese-stable-diffusion") == folder


def test_not_found_says_what_is_there_and_what_to_do(tmp_path):
    layouts.write_sd_checkpoint(tmp_path / "x.safetensors")
    found = ModelFolders([tmp_path])
    with pytest.raises(ModelNotFound, match="models download altdiffusion-m18"):
        found.find_model("altdiffusion-m18")
    with pytest.raises(ModelNotFound, match=r"found: .*x\.safetensors.*known models: nano, alt"):
        found.find_model("dreamlike")
    with pytest.raises(InvalidRequest):
        found.find_model("../../nowhere")


def test_folders_that_are_not_there(tmp_path):
    found = ModelFolders([tmp_path / "none"])
    assert [model.name for model in found.list_models()] in ([], ["nano"])
    assert ModelFolders().roots == (folders.default_folder(),)
    assert folders.default_folder().is_absolute()


def test_nano_is_embedded(tmp_path, monkeypatch):
    embedded = layouts.write_diffusers_folder(tmp_path / "assets" / "nano", "m18")
    monkeypatch.setattr(folders, "NANO_FOLDER", embedded)
    found = ModelFolders([tmp_path / "none"])
    assert found.find_model("nano") == embedded
    assert [model.name for model in found.list_models()] == ["nano"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads all")
def test_a_folder_that_cannot_be_listed_is_told(tmp_path, caplog):
    (tmp_path / "secret").mkdir(mode=0)
    ModelFolders([tmp_path]).list_models()
    assert "cannot be listed" in caplog.text


def write_parts(root: Path) -> Path:
    """Write the parts of one model as folders of their own, and the model beside them."""
    model = layouts.write_diffusers_folder(root / "m9", "m9", weights="safetensors")
    for part in ("vae", "unet", "text_encoder", "safety_checker"):
        shutil.copytree(model / part, root / "parts" / f"my-{part}")
    return model


def test_folders_of_one_part_are_listed_for_it(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "NANO_FOLDER", tmp_path / "no-nano")
    write_parts(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text('{"_class_name": "FluxTransformer2DModel"}')
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text("{")
    found = ModelFolders([tmp_path])
    assert [model.name for model in found.list_models()] == ["m9"]
    for part in ("vae", "unet", "text_encoder", "safety_checker"):
        assert [model.name for model in found.list_models(part)] == ["m9", f"parts/my-{part}"]
        detection = detect(found.find_name(f"Parts/MY-{part}", part))
        assert list(detection.parts) == [part]
    with pytest.raises(ModelNotFound, match="found: m9, parts/my-vae;"):
        found.find_name("vae", "vae")
    for folder in (other, broken):
        with pytest.raises((ModelNotFound, FileRefused)):
            detect(folder)


def test_a_part_says_what_it_is_made_for(tmp_path):
    model = write_parts(tmp_path)
    assert detect(tmp_path / "parts" / "my-text_encoder").encoder == "altdiffusion"
    assert detect(tmp_path / "parts" / "my-unet").unet_family == "sd1"
    shutil.copytree(model / "tokenizer", tmp_path / "parts" / "my-text_encoder", dirs_exist_ok=True)
    assert set(detect(tmp_path / "parts" / "my-text_encoder").parts) == {
        "text_encoder",
        "tokenizer",
    }
    assert detect_part(model) is None  # a whole model
    assert list(detect_part(model / "tokenizer", "tokenizer").parts) == ["tokenizer"]
