"""What the node tests share: tiny models in a models folder, and calls as ComfyUI makes them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import layouts
import torch
from multilingual_diffusion.nodes import NODE_CLASS_MAPPINGS, host

WIDTH, HEIGHT, STEPS = 64, 48, 4
PROMPT = "a red circle on a blue background"
LONG_PROMPT = ", ".join([PROMPT] * 12)  # two windows


def write_models(root: Path) -> Path:
    """Write m9 with a checker as `checked`, and without one as `group/bare`."""
    layouts.write_diffusers_folder(root / "checked", "m9", weights="safetensors")
    bare = root / "group" / "bare"
    layouts.write_diffusers_folder(bare, "m9", weights="safetensors", null_checkers=True)
    return root


def folders(root: Path, output: Path) -> Any:
    """Take these folders while the context lasts."""
    return host.use_folders(host.HeadlessFolders(models=(root,), output=output))


def call(node: str, **inputs: Any) -> Any:
    """Call a node with what INPUT_TYPES says where nothing is given, as the host's page does."""
    node_class = NODE_CLASS_MAPPINGS[node]
    types: Mapping[str, Any] = node_class.INPUT_TYPES()
    defaults = {
        name: spec[1]["default"]
        for section in ("required", "optional")
        for name, spec in types.get(section, {}).items()
        if "default" in spec[1]
    }
    result = getattr(node_class(), node_class.FUNCTION)(**{**defaults, **inputs})
    return result["result"] if isinstance(result, dict) and "result" in result else result


def empty_latent(batch_size: int = 1) -> dict[str, Any]:
    return call(
        "MultilingualEmptyLatent",
        shape="custom", width=WIDTH, height=HEIGHT, batch_size=batch_size,
    )[0]  # fmt: skip


def encode(text_encoder: Any, text: str = PROMPT) -> list[Any]:
    return call("MultilingualTextEncode", text_encoder=text_encoder, text=text)[0]


def sample(parts: Any, positive: str = PROMPT, negative: str = "blue", **inputs: Any) -> Any:
    """Sample with the parts of a model loader; returns the LATENT."""
    text_encoder, unet, *_ = parts
    given = {
        "unet": unet,
        "positive": encode(text_encoder, positive),
        "negative": encode(text_encoder, negative),
        "latent_image": empty_latent(),
        "steps": STEPS,
        **inputs,
    }
    return call("MultilingualSampler", **given)[0]


def tensors_in(value: Any) -> list[torch.Tensor]:
    """Return all tensors in an input, however deep."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return [tensor for item in value for tensor in tensors_in(item)]
    return []
