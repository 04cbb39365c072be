"""What of a LoRA file applies to a MODEL and a CLIP of ComfyUI, and why the rest does not.

The host's own reader decides: its names for the layers of this MODEL, its adapters. Shapes are
compared beforehand, since the host finds a misfit only while it samples, in the log.
"""

# pyright: reportMissingImports=false

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .. import host

if TYPE_CHECKING:
    import torch

SHOWN = 3  # names that a line of the report gives as examples


class MultilingualLoraReport:
    """Say which layers of a LoRA would change a MODEL, which would not, and why."""

    DISPLAY_NAME = "Multilingual LoRA Report"
    CATEGORY = "multilingual/comfyui"
    DESCRIPTION = __doc__
    SEARCH_ALIASES = ["LoRA", "lora keys", "not loaded", "check LoRA"]
    RETURN_TYPES = ("STRING", "INT", "INT")
    RETURN_NAMES = ("report", "applied", "skipped")
    OUTPUT_TOOLTIPS = (
        "What applies and what does not, a reason a line.",
        "Layers that the LoRA changes.",
        "Layers of the file that change nothing here.",
    )
    FUNCTION = "execute"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "model": ("MODEL", {"tooltip": "Bridged, or of a stock loader to compare with."}),
                "lora_name": (
                    host.adapter_folders("loras").list_names(),
                    {"tooltip": "A file in ComfyUI's models/loras; it is only looked at."},
                ),
            },
            "optional": {
                "clip": ("CLIP", {"tooltip": "Looks for the LoRA's text-encoder half in it too."}),
            },
        }

    def execute(self, model: Any, lora_name: str, clip: Any = None) -> dict[str, Any]:
        from comfy.utils import load_torch_file

        path = host.adapter_folders("loras").find(lora_name)
        found = read_lora(load_torch_file(str(path), safe_load=True), model, clip)
        report = found.describe(lora_name)
        return {"ui": {"text": [report]}, "result": (report, len(found.applied), found.skipped)}


@dataclass
class LoraReport:
    """Layers by their names in the file: those that apply, and the others by the reason."""

    applied: list[str] = field(default_factory=list[str])
    left_out: dict[str, list[str]] = field(default_factory=dict[str, list[str]])

    @property
    def skipped(self) -> int:
        """Layers that change nothing."""
        return sum(len(layers) for layers in self.left_out.values())

    def describe(self, name: str) -> str:
        """Return the report in words."""
        lines = [f"{name}: {len(self.applied)} layers apply, {self.skipped} do not"]
        for reason, layers in self.left_out.items():
            more = ", ..." * (len(layers) > SHOWN)
            lines.append(f"{len(layers)} {reason} ({', '.join(layers[:SHOWN])}{more})")
        return "\n".join(lines)


def read_lora(tensors: Mapping[str, torch.Tensor], model: Any, clip: Any = None) -> LoraReport:
    """Sort the layers of a LoRA by what the host would do with them."""
    from comfy import lora, lora_convert

    places: dict[str, Any] = lora.model_lora_keys_unet(model.model, {})
    weights: dict[str, Any] = dict(model.model.state_dict())
    if clip is not None:
        lora.model_lora_keys_clip(clip.cond_stage_model, places)
        weights |= clip.cond_stage_model.state_dict()
    tensors = lora_convert.convert_lora(dict(tensors))
    patches = lora.load_lora(tensors, places, log_missing=False)
    report = LoraReport()
    for layer in _layers(tensors, places):
        reason = _reason(layer, places, patches, weights, clip is not None)
        if reason is None:
            report.applied.append(layer)
        else:
            report.left_out.setdefault(reason, []).append(layer)
    return report


def _layers(names: Iterable[str], places: Mapping[str, Any]) -> list[str]:
    """Return the layers of a file: the host's name where it has one, else all before the ending."""
    layers: dict[str, None] = {}
    for name in names:
        parts = name.replace("_lora.", ".lora.").split(".")
        stems = [".".join(parts[:end]) for end in range(len(parts), 0, -1)]
        known = (stem for stem in stems if stem in places)
        layers[next(known, name.split(".lora")[0].removesuffix(".alpha"))] = None
    return sorted(layers)


def _reason(
    layer: str,
    places: Mapping[str, Any],
    patches: Mapping[str, Any],
    weights: Mapping[str, torch.Tensor],
    with_clip: bool,
) -> str | None:
    """Return why a layer changes nothing; None where it applies."""
    from ...pipeline_core.adapters.lora_names import is_of_text_encoder

    if layer in places:
        target = places[layer]
        if target not in patches:
            return "hold nothing the host can read: the pair of tensors is not complete"
        if target in weights and not _fits(patches[target], tuple(weights[target].shape)):
            return "have another shape than the MODEL's: made for a model of another family"
        return None
    if not is_of_text_encoder(layer):
        return "are layers that this MODEL's UNet does not have: made for another architecture"
    if with_clip:
        return "belong to a text encoder with other layers: CLIP's, where this one reads languages"
    return "belong to a text encoder, no part of a MODEL; a multilingual CLIP has no such layers"


def _fits(patch: Any, shape: tuple[int, ...]) -> bool:
    """Tell whether a low-rank pair makes a weight of that shape; other kinds count as fitting."""
    if getattr(patch, "name", "") != "lora":
        return True
    up, down, _, middle, *_ = patch.weights
    return middle is not None or (
        up.shape[0] == shape[0] and math.prod(down.shape[1:]) == math.prod(shape[1:])
    )


NODES = [MultilingualLoraReport]
