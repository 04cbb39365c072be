"""What the scripts about bridges share: tiny models of every kind, loaded by our nodes in the host.

Imported inside ComfyUI's process, by scripts that `run_in_comfyui` runs.
"""

from __future__ import annotations

import asyncio
import functools
from pathlib import Path
from typing import Any

import layouts
import tiny
import torch
from layout_parts import Model
from multilingual_diffusion.nodes import NODE_CLASS_MAPPINGS, bridges

NODES = {**NODE_CLASS_MAPPINGS, **{node.__name__: node for node in bridges.NODES}}
KINDS: tuple[Model, ...] = ("m9", "m18", "chinese")
PREDICTION_TYPES = ("epsilon", "v_prediction")
PROMPTS = {
    "m9": ("a red circle on a blue background", "blurry"),
    "m18": ("a (red:1.3) circle on a blue background", "blurry"),
    "chinese": ("\u4e00\u4e2a\u7ea2\u8272\u7684\u5706", "\u6a21\u7cca"),
}


def load_host_nodes() -> None:
    """Have the host load its nodes beyond the first ones, such as SamplerCustom."""
    import nodes

    asyncio.run(nodes.init_builtin_extra_nodes())


def make_models(folder: Path) -> None:
    """Write a tiny model of every kind and prediction type, and show them to the host."""
    import folder_paths

    load_host_nodes()
    for kind in KINDS:
        for prediction_type in PREDICTION_TYPES:
            scheduler = {**tiny.SCHEDULER, "prediction_type": prediction_type}
            layouts.write_diffusers_folder(
                folder / f"{kind}-{prediction_type}",
                kind,
                weights="safetensors",
                null_checkers=True,
                scheduler=scheduler,
            )
    folder_paths.add_model_folder_path("multilingual", str(folder))


def call(node: str, **inputs: Any) -> tuple[Any, ...]:
    """Call one of our nodes, with the defaults of what is not given."""
    types = NODES[node].INPUT_TYPES()
    defaults = {
        name: spec[1]["default"]
        for section in ("required", "optional")
        for name, spec in types.get(section, {}).items()
        if "default" in spec[1]
    }
    return NODES[node]().execute(**{**defaults, **inputs})


def stock(node: str, **inputs: Any) -> tuple[Any, ...]:
    """Call one of the host's own nodes, of either kind."""
    import nodes

    node_class = nodes.NODE_CLASS_MAPPINGS[node]
    output = getattr(node_class(), node_class.FUNCTION)(**inputs)
    return getattr(output, "result", output)


@functools.cache
def load(model: str, **options: Any) -> tuple[Any, ...]:
    """Return text encoder, UNet and VAE of a model, fp32."""
    return call("MultilingualModelLoader", model=model, dtype="fp32", **options)[:3]


def encode(model: str, text: str) -> Any:
    return call("MultilingualTextEncode", text_encoder=load(model)[0], text=text)[0]


def empty(width: int = 64, height: int = 48, count: int = 1) -> dict[str, torch.Tensor]:
    return {"samples": torch.zeros(count, 4, height // 8, width // 8)}


def difference(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """Return the largest difference over the largest value."""
    return float((found - wanted).abs().max() / wanted.abs().max())
