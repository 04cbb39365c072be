"""How LoRA files name their tensors: which layer of a UNet, and which side of the low-rank pair.

`read_name` takes a name apart, `layer_names` lists every way a layer is called: kohya's trainer
(flattened, diffusers' or LDM's names), diffusers' attention processors, PEFT, LyCORIS, ComfyUI.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple

from ..loading.keys_unet import ldm_name

Side = Literal["up", "down", "mid", "alpha"]

_ENDINGS: dict[str, Side] = {
    ".lora_up.weight": "up",
    ".lora_down.weight": "down",
    ".lora_mid.weight": "mid",  # LoCon: a small convolution between the two
    ".alpha": "alpha",
    ".lora_B.weight": "up",
    ".lora_A.weight": "down",
    ".lora_B.default.weight": "up",
    ".lora_A.default.weight": "down",
    "_lora.up.weight": "up",
    "_lora.down.weight": "down",
    ".lora.up.weight": "up",
    ".lora.down.weight": "down",
    ".lora_linear_layer.up.weight": "up",
    ".lora_linear_layer.down.weight": "down",
}
# How names of relatives of LoRA end, which this room does not compute
_RELATIVES = {
    "DoRA": r"dora_scale|lora_magnitude_vector(\.\w+)*",
    "LoHa": r"hada_\w+",
    "LoKr": r"lokr_\w+",
    "OFT": r"b?oft_\w+(\.weight)?",
    "GLoRA": r"[ab][12]\.weight",
    "IA3": r"on_input",
    "a full difference of weights": r"diff(_b)?",
    "a change of norms": r"[bw]_norm",
    "a change of biases": r"lora_B\.bias",
}
_RELATIVE_NAMES = {
    method: re.compile(rf"(?P<layer>.+?)\.({ending})") for method, ending in _RELATIVES.items()
}
_TEXT_PREFIXES = ("lora_te", "text_encoder", "cond_stage_model.", "te_", "te1_", "te2_")


class TensorRole(NamedTuple):
    """The layer as the file calls it, and what the tensor is to it."""

    layer: str
    side: Side


def read_name(name: str) -> TensorRole | None:
    """Take the name of a tensor apart; None where it ends as no low-rank tensor does."""
    for ending, side in _ENDINGS.items():
        if name.endswith(ending):
            return TensorRole(name.removesuffix(ending), side)
    return None


def is_of_text_encoder(name: str) -> bool:
    """Tell whether a tensor belongs to the text half of a file."""
    return name.startswith(_TEXT_PREFIXES)


def read_relative(name: str) -> tuple[str, str] | None:
    """Return layer and method of a tensor that belongs to a relative of LoRA, else None."""
    for method, pattern in _RELATIVE_NAMES.items():
        if match := pattern.fullmatch(name):
            return match["layer"], method
    return None


def layer_names(tensors: Iterable[str], config: Mapping[str, Any]) -> dict[str, str]:
    """Return, for every way a file may call a layer, the weight of the UNet it means.

    `tensors` are the UNet's own names (diffusers'), `config` is its config.
    """
    names: dict[str, str] = {}
    for weight in tensors:
        if not weight.endswith(".weight"):
            continue
        layer = weight.removesuffix(".weight")
        ldm_layer = ldm_name(weight, config).removesuffix(".weight")
        flat, ldm_flat = layer.replace(".", "_"), ldm_layer.replace(".", "_")
        names |= dict.fromkeys((f"lora_unet_{flat}", f"lycoris_{flat}"), weight)
        names[f"lora_unet_{ldm_flat}"] = weight
        names[f"diffusion_model.{ldm_layer}"] = weight
        processor = layer.replace(".to_", ".processor.to_")
        if processor.endswith(".processor.to_out.0"):
            processor = processor.removesuffix(".0")
        for prefix in ("", "unet.", "base_model.model.", "unet.base_model.model."):
            names[prefix + layer] = names[prefix + processor] = weight
    return names
