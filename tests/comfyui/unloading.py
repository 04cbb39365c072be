"""A script for ComfyUI's process: what its own counters say while a picture is made and after."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import comfy.model_management as management
import folder_paths
import node_graphs as graphs
import torch
from multilingual_diffusion.nodes import host


def main(models: str) -> dict[str, Any]:
    """Return what was loaded before and after the host unloads, and what came of the networks."""
    folder_paths.add_model_folder_path(host.OWN_FOLDER, models)
    with torch.inference_mode():  # as nodes run
        parts = graphs.call("MultilingualModelLoader", model="checked")
    loaded = [loaded_names()]
    first = picture(parts)
    loaded.append(loaded_names())
    management.unload_all_models()
    loaded.append(loaded_names())
    again = picture(parts)
    loaded.append(loaded_names())
    networks = [weakref.ref(part.part.network) for part in parts]
    del parts
    gc.collect()
    return {
        "loaded": loaded,
        "equal": torch.equal(first, again),
        "alive": [name for name in (type(each()).__name__ for each in networks)
                  if name != "NoneType"],
        "known": loaded_names(),
        "between nodes": between_nodes(),
    }  # fmt: skip


def picture(parts: Any) -> torch.Tensor:
    with torch.inference_mode():
        latent = graphs.sample(parts)
        image = graphs.call("MultilingualVAEDecode", vae=parts[2], latent=latent)[0]
        checked = graphs.call("MultilingualSafetyCheck", images=image, safety_checker=parts[3])
    return checked[0]


def loaded_names() -> list[str]:
    """Return what the host holds loaded, by the names of its log."""
    alive = [each.model for each in management.current_loaded_models if each.model is not None]
    return sorted(type(patcher.model).__name__ for patcher in alive)


def between_nodes() -> list[str]:
    """Return on which devices nodes leave their results, where the host names another."""
    with torch.inference_mode():
        parts = graphs.call("MultilingualModelLoader", model="checked")
        latent = graphs.sample(parts)
        usual, management.intermediate_device = (
            management.intermediate_device,
            lambda: torch.device("meta"),
        )
        results = [
            graphs.encode(parts[0]),
            graphs.empty_latent(),
            graphs.call("MultilingualVAEDecode", vae=parts[2], latent=latent),
        ]
        management.intermediate_device = usual
    return sorted({tensor.device.type for tensor in graphs.tensors_in(results)})
