"""LoRAs and embeddings in `load_pipeline` and `generate`: pictures, replay, refusals."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import layouts
import pytest
import tiny
import torch
from multilingual_diffusion.pipeline_core import ImageRequest, load_pipeline
from multilingual_diffusion.pipeline_core.adapters.lora import LoraDenoiser
from multilingual_diffusion.pipeline_core.cli import main
from multilingual_diffusion.pipeline_core.commands.options import _lora
from multilingual_diffusion.pipeline_core.errors import (
    InvalidRequest,
    ModelNotFound,
    WeightsMismatch,
)
from multilingual_diffusion.pipeline_core.models.folders import ModelFolders
from multilingual_diffusion.pipeline_core.training.lora import add_lora, write_lora
from PIL import Image
from safetensors.torch import save_file

REQUEST = ImageRequest(prompts=["a dog"], width=64, height=64, steps=2, seed=4)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a models folder with m9, an embedding, and two LoRAs as our trainer writes them."""
    root = tmp_path_factory.mktemp("models")
    layouts.write_diffusers_folder(root / "tiny", "m9", weights="safetensors", null_checkers=True)
    for seed, name in enumerate(("style.safetensors", "sub/other.safetensors")):
        trained = tiny.unet()
        torch.manual_seed(seed)
        add_lora(trained, rank=2)
        for key, value in trained.named_parameters():
            if ".up." in key:
                torch.nn.init.normal_(value, std=0.3)
        write_lora(trained, root / "loras" / name)
    (root / "embeddings").mkdir()
    save_file({"emb_params": torch.randn(3, tiny.WIDTH)}, root / "embeddings" / "cat.safetensors")
    return root


def latents(models: Path, **options) -> torch.Tensor:
    return load_pipeline("tiny", models_dir=models, **options).sample(REQUEST).samples


def test_load_pipeline_takes_names_and_paths_with_strengths(models: Path) -> None:
    plain = latents(models)
    style = models / "loras" / "style.safetensors"
    changed = latents(models, loras=[("style", 0.5)])
    assert not torch.allclose(changed, plain, atol=1e-2)
    assert torch.equal(latents(models, loras=[(style, 0.5)]), changed)
    assert torch.equal(latents(models, loras=[("style", 0.0)]), plain)
    both = [("style", 0.5), ("sub/other.safetensors", -1.0)]
    pipeline = load_pipeline("tiny", models_dir=models, loras=both)
    assert isinstance(pipeline.parts.unet, LoraDenoiser)
    assert not torch.allclose(pipeline.sample(REQUEST).samples, changed, atol=1e-2)
    assert pipeline.origin["loras"] == [
        {"name": "style.safetensors", "strength": 0.5},
        {"name": "sub/other.safetensors", "strength": -1.0},
    ]


def test_what_cannot_be_is_said_before_weights_are_read(models: Path, tmp_path: Path) -> None:
    def never(outline: object) -> None:
        raise AssertionError("the weights would be read next")

    with pytest.raises(ModelNotFound, match="did you mean 'style'"):
        latents(models, loras=[("stile", 1.0)], before_loading=never)
    with pytest.raises(InvalidRequest, match="strength is 1000"):
        latents(models, loras=[("style", 1000)], before_loading=never)
    with pytest.raises(InvalidRequest, match="no UNet is loaded"):
        load_pipeline("tiny", models_dir=models, parts=["vae"], loras=[("style", 1.0)])
    to_k = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"
    sides = {"lora_up": torch.ones(64, 1), "lora_down": torch.ones(1, 1024)}
    wide = {f"{to_k}.{side}.weight": value for side, value in sides.items()}
    save_file(wide, tmp_path / "wide.safetensors")
    with pytest.raises(WeightsMismatch, match=r"the down side takes \[1, 1024\] .* \[24\]"):
        latents(models, loras=[(tmp_path / "wide.safetensors", 1.0)], before_loading=never)


def test_a_prompt_that_names_an_embedding(models: Path, tmp_path: Path, capsys) -> None:
    def never(outline) -> None:
        outline.complete(dataclasses.replace(REQUEST, prompts=["a embedding:kat"]))
        raise AssertionError("the weights would be read next")

    with pytest.raises(ModelNotFound, match="did you mean 'cat'"):
        load_pipeline("tiny", models_dir=models, before_loading=never)
    pipeline = load_pipeline("tiny", models_dir=models)
    named = dataclasses.replace(REQUEST, prompts=["a (embedding:cat:1.2)"])
    assert not torch.allclose(pipeline.sample(named).samples, latents(models), atol=1e-2)
    elsewhere = load_pipeline("tiny", models_dir=models, embedding_dirs=[tmp_path])
    with pytest.raises(ModelNotFound, match=re.escape(str(tmp_path))):
        elsewhere.sample(named)
    run = ["generate", "--model", "tiny", "--models-dir", str(models), "--out", str(tmp_path / "x")]
    assert main([*run, "--prompt", "a embedding:kat"]) == 4
    assert capsys.readouterr().err.startswith("error: no embedding 'kat'")


def test_loras_and_embeddings_are_no_models(models: Path) -> None:
    names = [model.name for model in ModelFolders([models]).list_models()]
    assert names == ["nano", "tiny"]


def test_generate_with_loras_and_again_from_the_picture(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["--models-dir", str(models), "--out", str(tmp_path / "out"), "--json"]
    size = ["--model", "tiny", "--width", "64", "--height", "64", "--steps", "2"]
    run = ["generate", *common, *size, "--prompt", "a dog"]
    style = str(models / "loras" / "style.safetensors")
    assert main(run) == 0
    assert main([*run, "--lora", f"{style}:0.5", "--lora", "sub/other"]) == 0
    plain, changed = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert "loras" not in plain["model"]
    assert changed["model"]["loras"] == [
        {"name": "style.safetensors", "strength": 0.5},
        {"name": "sub/other.safetensors", "strength": 1.0},
    ]
    assert str(models) not in Path(changed["path"]).read_bytes().decode("latin-1")
    assert main(["generate", *common, "--from", changed["path"]]) == 0
    assert main(["generate", *common, "--from", changed["path"], "--lora", "style:0"]) == 0
    again, without = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert pixels(again) == pixels(changed) != pixels(plain)
    assert pixels(without) == pixels(plain)  # what is given replaces what the picture says


def pixels(row: dict) -> bytes:
    with Image.open(row["path"]) as picture:
        return picture.tobytes()


@pytest.mark.parametrize(
    "loras",
    [
        [{"name": "../../secret"}], [{"name": "/etc/passwd"}], [{"name": 5}], ["x"], [{}],
        [{"name": "style", "strength": "much"}], [{"name": "absent"}], "style",
    ],
)  # fmt: skip
def test_a_hostile_picture_opens_no_lora(models: Path, tmp_path: Path, capsys, loras) -> None:
    from multilingual_diffusion.pipeline_core.images.metadata import METADATA_KEY
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    recipe = {
        "request": REQUEST.to_metadata(),
        "model": {"source": "tiny", "loras": loras},
    }
    info.add_itxt(METADATA_KEY, json.dumps(recipe))
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png", pnginfo=info)
    out = ["--out", str(tmp_path / "out"), "--models-dir", str(models)]
    assert main(["generate", "--from", str(tmp_path / "x.png"), *out]) in (2, 4)
    error = capsys.readouterr().err.strip()
    assert error.startswith("error:") and "\n" not in error
    assert not (tmp_path / "out").exists()


def test_reading_the_option() -> None:
    assert _lora("x.safetensors") == ("x.safetensors", 1.0)
    assert _lora("a/x.safetensors:-0.25") == ("a/x.safetensors", -0.25)
    assert _lora("C:\\loras\\x.safetensors") == ("C:\\loras\\x.safetensors", 1.0)
    assert _lora("C:/loras/x.safetensors:2") == ("C:/loras/x.safetensors", 2.0)
    with pytest.raises(SystemExit):
        main(["generate", "--prompt", "x", "--lora", "x:y"])
