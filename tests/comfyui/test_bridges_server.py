"""Examples on bridged models in the running server, with files that their notes ask for."""

from __future__ import annotations

import copy
import io
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import workflow_examples as examples
from comfyui.server import Server, executed_nodes
from multilingual_diffusion.pipeline_core.loading.keys_unet import ldm_name
from multilingual_diffusion.pipeline_core.workflow import (
    definitions_from_object_info,
    parse_workflow,
    to_api,
)
from PIL import Image
from safetensors.torch import save_file

BYPASSED = 4  # a node's mode


@pytest.fixture(scope="module")
def server(comfyui: Server) -> Server:
    shutil.copytree(examples.FOLDER / "input", comfyui.base / "input", dirs_exist_ok=True)
    for folder in ("loras", "controlnet"):
        (comfyui.base / "models" / folder).mkdir(exist_ok=True)
    network = nano_unet()
    write_lora(comfyui.base / "models" / "loras" / "tiny.safetensors", network)
    write_controlnet(comfyui.base / "models" / "controlnet" / "tiny.safetensors", network)
    return comfyui


def nano_unet() -> Any:
    from multilingual_diffusion.pipeline_core import load_pipeline

    return load_pipeline("nano").parts.unet.network


def write_lora(path: Path, network: Any) -> None:
    """Write a LoRA of the cross-attentions, in kohya's names."""
    generator = torch.Generator().manual_seed(8)
    tensors: dict[str, torch.Tensor] = {}
    for name, weight in network.state_dict().items():
        if ".attn2.to_" in name and weight.ndim == 2:
            layer = "lora_unet_" + name.removesuffix(".weight").replace(".", "_")
            for side, shape in (("up", (weight.shape[0], 2)), ("down", (2, weight.shape[1]))):
                tensors[f"{layer}.lora_{side}.weight"] = torch.randn(shape, generator=generator)
    save_file(tensors, path)


def write_controlnet(path: Path, network: Any) -> None:
    """Write a ControlNet over nano's own encoder in LDM's names, which the host takes in any size.

    Its last layers are small and random instead of zero.
    """
    from diffusers import ControlNetModel

    control = ControlNetModel.from_unet(network)
    generator = torch.Generator().manual_seed(9)
    tensors: dict[str, torch.Tensor] = {}
    for name, weight in control.state_dict().items():
        if "controlnet" in name:
            weight = torch.randn(weight.shape, generator=generator) * 0.1
        tensors["control_model." + control_name(name, network.config)] = weight.contiguous()
    save_file(tensors, path)


def control_name(name: str, config: Mapping[str, Any]) -> str:
    """Return the LDM name of a diffusers ControlNet's tensor."""
    stem, _, leaf = name.rpartition(".")
    if stem.startswith("controlnet_down_blocks."):
        return f"zero_convs.{stem.rpartition('.')[2]}.0.{leaf}"
    if stem == "controlnet_mid_block":
        return f"middle_block_out.0.{leaf}"
    if stem.startswith("controlnet_cond_embedding."):
        layer = stem.removeprefix("controlnet_cond_embedding.")
        places = {"conv_in": 0, "conv_out": 7}
        index = places[layer] if layer in places else int(layer.rpartition(".")[2]) + 1
        return f"input_hint_block.{2 * index}.{leaf}"
    return ldm_name(name, config)


def example(name: str) -> dict[str, Any]:
    return json.loads((examples.FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def with_files(workflow: dict[str, Any], types: set[str]) -> dict[str, Any]:
    """Do what the note says: choose files, wake the nodes."""
    awake = copy.deepcopy(workflow)
    for node in awake["nodes"]:
        if node["type"] in types:
            assert node["mode"] == BYPASSED
            node["mode"] = 0
        if node["type"] in ("LoraLoader", "ControlNetLoader"):
            node["widgets_values"][0] = "tiny.safetensors"
    return awake


def prompt_of(server: Server, workflow: dict[str, Any]) -> dict[str, Any]:
    definitions = definitions_from_object_info(server.fetch_json("/object_info"))
    return to_api(parse_workflow(workflow, definitions))


def picture(server: Server, prompt: dict[str, Any]) -> np.ndarray:
    ((_, (png,)),) = server.pictures(server.run(prompt)).items()
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image).astype(int)


@pytest.mark.parametrize("name", examples.need_comfyui())
def test_widgets_of_an_example_fit_the_hosts_tables(server: Server, name: str) -> None:
    tables = server.fetch_json("/object_info")
    for node in example(name)["nodes"]:
        if node["type"] == "MarkdownNote":
            continue
        declared = tables[node["type"]]["input"]
        offered = {**declared["required"], **declared.get("optional", {})}
        widgets = [each["name"] for each in node["inputs"] if "widget" in each]
        names = [each for each in offered if each in widgets]
        assert names == [each for each in widgets if each != "upload"]
        sockets = {each["name"] for each in node["inputs"]} - set(widgets)
        assert sockets <= set(offered) and set(declared["required"]) <= sockets | set(widgets)


def test_the_swapped_in_example_runs_again_the_same_after_free(server: Server) -> None:
    prompt = prompt_of(server, example("swap_in"))
    first = picture(server, prompt)
    assert first.std() > 5  # not a plain surface
    server.free()
    entry = server.run(prompt)
    assert executed_nodes(entry, prompt) == set(prompt)
    assert np.array_equal(picture(server, prompt), first)


def test_lora_and_controlnet_of_the_example_change_the_picture(server: Server) -> None:
    workflow = example("lora_and_controlnet")
    control = {"ControlNetLoader", "ControlNetApplyAdvanced", "LoadImage"}
    plain, with_lora, with_both = (
        picture(server, prompt_of(server, with_files(workflow, types)))
        for types in (set[str](), {"LoraLoader"}, {"LoraLoader", *control})
    )
    assert abs(plain - with_lora).mean() > 1
    assert abs(with_lora - with_both).mean() > 1
    for complaint in ("lora key not loaded", "NOT LOADED", "ERROR lora", "SHAPE MISMATCH"):
        assert complaint not in server.log()
