"""Folders of one part alone, through the loader nodes and through `load_pipeline`."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import layouts
import node_graphs as graphs
import pytest
import torch
from multilingual_diffusion.nodes import NODE_CLASS_MAPPINGS
from multilingual_diffusion.pipeline_core import ImageRequest, load_pipeline
from multilingual_diffusion.pipeline_core.errors import ModelNotFound

LOADERS = {
    "vae": "MultilingualVAELoader",
    "unet": "MultilingualUNetLoader",
    "text_encoder": "MultilingualTextEncoderLoader",
    "safety_checker": "MultilingualSafetyCheckerLoader",
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    model = layouts.write_diffusers_folder(root / "whole", "m9", weights="safetensors")
    for part in LOADERS:
        shutil.copytree(model / part, root / f"only-{part}")
    shutil.copytree(model / "tokenizer", root / "only-text_encoder", dirs_exist_ok=True)
    return root


@pytest.fixture(autouse=True)
def in_folders(models: Path, tmp_path: Path) -> Iterator[None]:
    with graphs.folders(models, tmp_path):
        yield


def weights(part: Any) -> list[torch.Tensor]:
    return [value for _, value in sorted(part.network.state_dict().items())]


@pytest.mark.parametrize(("part", "node"), LOADERS.items())
def test_a_loader_lists_and_loads_its_part(part: str, node: str, models: Path) -> None:
    node_class: Any = NODE_CLASS_MAPPINGS[node]
    names = node_class.INPUT_TYPES()["required"]["model"][0]
    assert f"only-{part}" in names and "whole" in names
    assert not {f"only-{other}" for other in LOADERS if other != part} & set(names)
    (alone,) = graphs.call(node, model=f"only-{part}")
    (whole,) = graphs.call(node, model="whole")
    pairs = zip(weights(alone.ready()), weights(whole.ready()), strict=True)
    assert all(torch.equal(*pair) for pair in pairs)


def test_the_model_loader_lists_no_parts() -> None:
    node_class: Any = NODE_CLASS_MAPPINGS["MultilingualModelLoader"]
    assert not [name for name in node_class.INPUT_TYPES()["required"]["model"][0] if "only" in name]


def test_parts_alone_make_the_same_picture(models: Path) -> None:
    whole = load_pipeline(models / "whole")
    lent = {part: f"only-{part}" for part in ("vae", "unet", "text_encoder")}
    mixed = load_pipeline("whole", parts=lent, models_dir=models)  # type: ignore[arg-type]
    request = ImageRequest(prompts=("a dog",), width=64, height=64, steps=2, seed=1, safety="off")
    assert torch.equal(mixed(request).pixels, whole(request).pixels)


def test_a_wrong_part_is_told(models: Path) -> None:
    with pytest.raises(ModelNotFound, match="has no unet"):
        graphs.call("MultilingualUNetLoader", model="only-vae")


def test_a_text_encoder_without_a_tokenizer_is_told(models: Path) -> None:
    with pytest.raises(ModelNotFound, match="has no tokenizer: put sentencepiece"):
        load_pipeline(models / "whole" / "text_encoder", parts=["text_encoder", "tokenizer"])
