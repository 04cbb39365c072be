"""Every published layout, loaded: the same tiny weights must give the same picture, bit for bit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import layouts
import pytest
import tiny
import torch
from multilingual_diffusion.pipeline_core import ImageRequest, detect, load_pipeline
from multilingual_diffusion.pipeline_core.errors import FileRefused, ModelNotFound
from multilingual_diffusion.pipeline_core.loading.convert import convert

REQUEST = ImageRequest(
    prompts=("a red circle", "\u9ed1\u6697"), width=64, height=64, steps=2, safety="off"
)
Writer = Callable[[Path], Path]


def folder(model: Any, **options: Any) -> Writer:
    return lambda path: layouts.write_diffusers_folder(path, model, **options)


def single(model: Any, suffix: str = ".safetensors", **options: Any) -> Writer:
    def write(path: Path) -> Path:
        path.mkdir()
        layouts.write_sentencepiece(path)
        return layouts.write_single_file(path / f"model{suffix}", model, **options)

    return write


def tokenizer_json_only(path: Path) -> Path:
    """Write m9 with what transformers' fast tokenizer saves, and no sentencepiece model."""
    from transformers import XLMRobertaTokenizerFast

    layouts.write_diffusers_folder(path, "m9", weights="safetensors")
    tokenizer: Any = XLMRobertaTokenizerFast.from_pretrained(path / "tokenizer")
    shutil.rmtree(path / "tokenizer")
    tokenizer.save_pretrained(path / "tokenizer")
    (path / "tokenizer" / "sentencepiece.bpe.model").unlink(missing_ok=True)
    assert (path / "tokenizer" / "tokenizer.json").is_file()
    return path


LAYOUTS: dict[str, tuple[str, Writer]] = {
    "m9 published: .bin": ("m9", folder("m9")),
    "m9 safetensors": ("m9", folder("m9", weights="safetensors")),
    "m9 old VAE names": ("m9", folder("m9", old_vae_names=True)),
    "m9 null checkers": ("m9", folder("m9", null_checkers=True)),
    "m9 sharded": ("m9", folder("m9", weights="safetensors", sharded=True)),
    "m9 position ids, no pooler": ("m9", folder("m9", position_ids=True, pooler=False)),
    "m9 tokenizer.json only": ("m9", tokenizer_json_only),
    "m9 single safetensors": ("m9", single("m9")),
    "m9 single ckpt": ("m9", single("m9", ".ckpt")),
    "m9 FlagAI": ("m9", lambda path: layouts.write_flagai_folder(path, "m9")),
    "m18 published: .bin": ("m18", folder("m18")),
    "m18 safetensors": ("m18", folder("m18", weights="safetensors", position_ids=True)),
    "m18 FlagAI": ("m18", lambda path: layouts.write_flagai_folder(path, "m18")),
    **{
        f"m18 single, prefix {prefix or 'none'!r}": ("m18", single("m18", prefixes=(prefix,)))
        for prefix in layouts.TEXT_PREFIXES
    },
    "chinese ModelScope": ("chinese", lambda path: layouts.write_modelscope_folder(path)),
    "chinese safetensors": (
        "chinese",
        lambda path: layouts.write_modelscope_folder(path, weights="safetensors"),
    ),
}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """The picture of each model from one plain folder: what all other layouts must give."""
    root = tmp_path_factory.mktemp("plain")
    return {
        model: load_pipeline(folder(model, weights="safetensors")(root / model))(REQUEST).pixels
        for model in ("m9", "m18", "chinese")
    }


@pytest.mark.parametrize("name", LAYOUTS)
def test_layout_gives_the_same_picture(
    name: str, tmp_path: Path, pictures: dict[str, torch.Tensor]
) -> None:
    model, write = LAYOUTS[name]
    path = write(tmp_path / "model")
    pickled = name.endswith((".bin", "ckpt", "FlagAI", "ModelScope")) or "old VAE" in name
    if pickled:
        with pytest.raises(FileRefused, match="convert"):
            load_pipeline(path)
    pipeline = load_pipeline(path, allow_pickle=True)
    assert torch.equal(pipeline(REQUEST).pixels, pictures[model])


def test_pictures_of_the_models_differ(pictures: dict[str, torch.Tensor]) -> None:
    assert (pictures["m9"] - pictures["m18"]).abs().max() > 1e-2
    assert (pictures["m18"] - pictures["chinese"]).abs().max() > 1e-2


@pytest.mark.parametrize("layout", ["folder", "single"])
@pytest.mark.parametrize("model", ["m9", "m18", "chinese"])
def test_converted_gives_the_same_picture(
    model: Any, layout: Any, tmp_path: Path, pictures: dict[str, torch.Tensor]
) -> None:
    source = folder(model)(tmp_path / "source")
    target = tmp_path / ("out" if layout == "folder" else "out.safetensors")
    convert(source, target, layout=layout, allow_pickle=True)
    assert torch.equal(load_pipeline(target)(REQUEST).pixels, pictures[model])


def test_a_converted_file_remembers_which_model_it_is(tmp_path: Path) -> None:
    source = folder("m2")(tmp_path / "AltDiffusion")
    convert(source, tmp_path / "my.safetensors", layout="single", allow_pickle=True)
    found = detect(tmp_path / "my.safetensors")
    assert found.spec is not None and found.spec.name == "altdiffusion"


def test_half_precision_variant_is_its_own_values(
    tmp_path: Path, pictures: dict[str, torch.Tensor]
) -> None:
    variant = folder("m9", weights="safetensors", fp16_variant=True)(tmp_path / "variant")
    plain = folder("m9", weights="safetensors", dtype=torch.float16)(tmp_path / "plain")
    found = load_pipeline(variant, dtype="fp32")(REQUEST).pixels
    assert torch.equal(found, load_pipeline(plain, dtype="fp32")(REQUEST).pixels)
    assert 0 < (found - pictures["m9"]).abs().max() < 5e-2


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
@pytest.mark.parametrize(("version", "model"), [("sd1", "m9"), ("sd2", "m18")])
def test_a_plain_checkpoint_lends_its_unet_and_vae(
    version: Any, model: Any, suffix: str, tmp_path: Path, pictures: dict[str, torch.Tensor]
) -> None:
    language = folder(model, weights="safetensors")(tmp_path / "language")
    for part in ("unet", "vae"):
        shutil.rmtree(language / part)
    checkpoint = layouts.write_sd_checkpoint(tmp_path / f"sd{suffix}", version)
    pipeline = load_pipeline(
        language,
        parts={"unet": checkpoint, "vae": checkpoint},
        allow_pickle=True,
        prediction_type="epsilon",  # what a plain SD2 checkpoint does not say
    )
    assert torch.equal(pipeline(REQUEST).pixels, pictures[model])


@pytest.mark.parametrize(("version", "size"), [("0.8.0.dev0", 512), ("0.9.0", 256)])
def test_native_size_where_early_configs_say_32(version: str, size: int, tmp_path: Path) -> None:
    path = folder("m9", weights="safetensors", sample_size=32)(tmp_path / "m9")
    config = json.loads((path / "unet" / "config.json").read_text(encoding="utf-8"))
    tiny.write_json(path / "unet" / "config.json", {**config, "_diffusers_version": version})
    assert load_pipeline(path).native_size == size


def test_averaged_weights(tmp_path: Path, pictures: dict[str, torch.Tensor]) -> None:
    path = single("m9", ema="model_ema")(tmp_path / "ema")
    assert torch.equal(load_pipeline(path)(REQUEST).pixels, pictures["m9"])
    assert not torch.equal(load_pipeline(path, ema=True)(REQUEST).pixels, pictures["m9"])


def test_modelscope_prediction_type_is_read(tmp_path: Path) -> None:
    v = layouts.write_modelscope_folder(
        tmp_path / "v", prediction_type="v_prediction", weights="safetensors"
    )
    assert load_pipeline(v).parts.prediction_type == "v_prediction"
    (v / "scheduler" / "scheduler_config.json").unlink()
    with pytest.raises(ModelNotFound, match="scheduler"):
        load_pipeline(v)


def test_detection_says_why(tmp_path: Path) -> None:
    found = detect(folder("m18")(tmp_path / "AltDiffusion-m18"))
    assert found.spec is not None and found.spec.name == "altdiffusion-m18"
    assert found.needs_pickle and len(found.reasons) >= 3
