"""The examples of the graft in the running server, with files that their notes ask for."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from comfyui import shallow_checkpoints
from comfyui.graphs import Prompt
from comfyui.server import Refused, Server
from comfyui.test_bridges_server import BYPASSED, example, prompt_of
from PIL import Image

CHECKPOINT, LORA = "community.safetensors", "triggered.safetensors"
CHOICES: dict[str, dict[str, Any]] = {
    "CheckpointLoaderSimple": {"ckpt_name": CHECKPOINT},
    "MultilingualModelLoader": {"model": "multilingual"},
    "MultilingualUNetLoader": {"model": "base"},
    "LoraLoader": {"lora_name": LORA},
    "LoraLoaderModelOnly": {"lora_name": LORA},
    "EmptyLatentImage": {"width": 64, "height": 48},
    "KSampler": {"steps": 2},
}
# Our nodes between the host's, and what goes through each where there is no graft
PASSES = {
    "MultilingualGraftToModel": "model",
    "MultilingualDualModel": "original",
    "MultilingualDualConditioning": "clip_conditioning",
}
both = pytest.mark.parametrize("name", ["graft", "dual_conditioning"])


@pytest.fixture(scope="module")
def server(comfyui: Server) -> Iterator[Server]:
    """The server with these files; they go when the tests are through."""
    models = comfyui.base / "models"
    for folder in ("checkpoints", "loras"):
        (models / folder).mkdir(exist_ok=True)
    checkpoint = shallow_checkpoints.write_checkpoint(models / "checkpoints" / CHECKPOINT)
    folders = [models / "multilingual" / name for name in ("base", "multilingual")]
    for folder, seed in zip(folders, (5, 6), strict=True):
        shallow_checkpoints.write_multilingual(folder, unet_seed=seed)
    lora = models / "loras" / LORA
    shallow_checkpoints.write_lora(lora)
    yield comfyui
    comfyui.free()
    for file in (checkpoint, lora):
        file.unlink()
    for folder in folders:
        shutil.rmtree(folder)


def prompt(server: Server, name: str, *awake: str, **inputs: Any) -> Prompt:
    """Do what the note says: choose files, wake the nodes of these types, set these widgets."""
    workflow = example(name)
    for node in workflow["nodes"]:
        if node["type"] in awake:
            assert node["mode"] == BYPASSED
            node["mode"] = 0
    graph = prompt_of(server, workflow)
    for node in graph.values():
        node["inputs"] |= CHOICES.get(node["class_type"], {})
        node["inputs"] |= {key: inputs[key] for key in inputs.keys() & node["inputs"].keys()}
    return graph


def ungrafted(graph: Prompt) -> Prompt:
    """Return the graph as it was before our nodes came between the host's."""

    def source(link: Any) -> Any:
        if not isinstance(link, list):
            return link
        node = graph[link[0]]
        passes = PASSES.get(node["class_type"])
        return source(node["inputs"][passes]) if passes else link

    return {
        key: {**node, "inputs": {name: source(link) for name, link in node["inputs"].items()}}
        for key, node in graph.items()
        if node["class_type"] not in (*PASSES, "PreviewAny")
    }


def picture(server: Server, graph: Prompt) -> np.ndarray:
    entry = server.run(graph)
    ((png,),) = (files for files in server.pictures(entry).values() if files)
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image).astype(int)


def report(server: Server, graph: Prompt) -> str:
    (text,) = (each["text"] for each in server.run(graph)["outputs"].values() if "text" in each)
    return text[0]


def test_the_checkpoint_is_one_for_the_host(server: Server) -> None:
    """A stock graph of it draws something, and no weight is missing."""
    drawn = picture(server, ungrafted(prompt(server, "dual_conditioning")))
    assert drawn.std() > 5  # not a plain surface
    for complaint in ("clip missing", "Missing VAE keys", "unet missing", "unet unexpected"):
        assert complaint not in server.log()


@both
def test_the_host_says_which_files_are_missing(server: Server, name: str) -> None:
    """The names in the file are proposals: a choice to make, and nothing else is wrong."""
    with pytest.raises(Refused) as refused:
        server.submit(prompt_of(server, example(name)))
    errors = [
        each for node in refused.value.answer["node_errors"].values() for each in node["errors"]
    ]
    assert {error["type"] for error in errors} == {"value_not_in_list"}
    missing = {error["extra_info"]["received_value"] for error in errors}
    assert missing == {"v1-5-pruned-emaonly-fp16.safetensors", "altdiffusion-m9"}


@both
def test_strength_goes_from_the_checkpoint_to_the_graft(server: Server, name: str) -> None:
    """CLIP's side alone is what a dual model at strength 0 has in common with a stock graph."""
    none, half, full = (
        prompt(server, name, strength=strength, clip_weight=weight)
        for strength, weight in ((0.0, 1.0), (0.5, 0.4), (1.0, 0.4))
    )
    own = picture(server, ungrafted(none))
    assert np.array_equal(picture(server, none), own)
    grafted = picture(server, full)
    assert abs(grafted - own).mean() > 1
    assert abs(grafted - picture(server, half)).mean() > 1
    assert grafted.std() > 5


@both
def test_the_base_serves_the_delta_modes(server: Server, name: str) -> None:
    replaced = picture(server, prompt(server, name))
    graph = prompt(server, name, "MultilingualUNetLoader", mode="delta-attn2")
    assert abs(picture(server, graph) - replaced).mean() > 1
    assert report(server, graph).startswith("delta-attn2: ")
    assert report(server, prompt(server, name)).startswith("replace-attn2: ")


@pytest.mark.parametrize(
    ("name", "loader"), [("graft", "LoraLoaderModelOnly"), ("dual_conditioning", "LoraLoader")]
)
def test_the_lora_lives_beside_the_graft(server: Server, name: str, loader: str) -> None:
    graph = prompt(server, name, loader)
    assert "keys and values are left out" in report(server, graph)
    changed = abs(picture(server, graph) - picture(server, prompt(server, name))).mean()
    assert changed > 1


def test_a_dual_model_hears_both_prompts(server: Server) -> None:
    graph = prompt(server, "dual_conditioning")
    first = picture(server, graph)
    for class_type in ("MultilingualTextEncode", "CLIPTextEncode"):
        other = prompt(server, "dual_conditioning")
        encoder = next(node for node in other.values() if node["class_type"] == class_type)
        encoder["inputs"]["text"] = "a red circle"
        assert abs(picture(server, other) - first).mean() > 0.1
