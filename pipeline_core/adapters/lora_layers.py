"""From the header of a LoRA file to the layers of a UNet it changes, and the rest by reason.

Nothing but names, dtypes and shapes is looked at; a tensor is never guessed to fit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..errors import FileRefused
from ..loading.dtypes import TORCH_DTYPES
from ..loading.matching import Shape, fits
from ..models.headers import TensorInfo
from .lora_names import Side, is_of_text_encoder, read_name, read_relative

TEXT_REASON = "for CLIP's text encoder, in whose place this model has XLM-R or BERT"
_CONV = 4  # dimensions of a convolution's weight

Skipped = dict[str, list[str]]  # what they are or lack, to names in the file


@dataclass(frozen=True)
class LoraLayer:
    """What a file has for one weight of the UNet: the names of its tensors."""

    target: str  # the weight's name, diffusers'
    shape: Shape  # of the weight
    rank: int
    up: str
    down: str
    mid: str | None
    alpha: str | None


@dataclass
class _Entry:
    """What a file holds under one layer's name; `method` is set where it is no plain LoRA."""

    names: list[str] = field(default_factory=list[str])
    sides: dict[Side, str] = field(default_factory=dict["Side", str])
    method: str | None = None


def find_layers(
    tensors: Mapping[str, TensorInfo],
    known: Mapping[str, str],
    unet: Mapping[str, Shape],
    where: str,
) -> tuple[list[LoraLayer], Skipped]:
    """Return the layers that fit, and the names of the tensors that do not, by reason.

    Args:
        tensors: of the file.
        known: every way a layer may be called, to its weight in the UNet; see `layer_names`.
        unet: shapes of the UNet's tensors.
        where: the file, for messages.

    Raises:
        FileRefused: a layer has two changes, or two tensors for one side of it.
    """
    skipped: Skipped = {}
    layers: dict[str, LoraLayer] = {}
    for alias, entry in _gather(tensors, skipped, where).items():
        target = known.get(alias)
        found = _fit(tensors, entry, target, unet)
        if isinstance(found, str):
            skipped.setdefault(found, []).extend(entry.names)
        elif found.target in layers:
            raise FileRefused(f"{where}: it holds two changes of {found.target}; get it again")
        else:
            layers[found.target] = found
    return list(layers.values()), skipped


def _gather(tensors: Mapping[str, TensorInfo], skipped: Skipped, where: str) -> dict[str, _Entry]:
    """Return what the file holds by layer; names that are of no layer go to `skipped`."""
    entries: dict[str, _Entry] = {}
    for name in tensors:
        if is_of_text_encoder(name):
            skipped.setdefault(TEXT_REASON, []).append(name)
        elif role := read_name(name):
            entry = entries.setdefault(role.layer, _Entry())
            if role.side in entry.sides:
                raise FileRefused(f"{where}: {name} and {entry.sides[role.side]} mean the same")
            entry.names.append(name)
            entry.sides[role.side] = name
        elif relative := read_relative(name):
            layer, method = relative
            entry = entries.setdefault(layer, _Entry())
            entry.names.append(name)
            entry.method = method
        else:
            skipped.setdefault("names that no LoRA has", []).append(name)
    return entries


def _fit(
    tensors: Mapping[str, TensorInfo],
    entry: _Entry,
    target: str | None,
    unet: Mapping[str, Shape],
) -> LoraLayer | str:
    """Return the layer, or the reason why it is left out."""
    if target is None:
        return "layers that this UNet has not"
    if entry.method is not None:
        return f"{entry.method}, which is not supported"
    up, down, mid, alpha = (entry.sides.get(side) for side in ("up", "down", "mid", "alpha"))
    if up is None or down is None:
        return f"the {'up' if up is None else 'down'} side is missing"
    matrices = [name for name in (up, down, mid) if name is not None]
    if not all(TORCH_DTYPES[tensors[name].dtype].is_floating_point for name in matrices):
        return "no floating-point numbers"
    if alpha is not None and tensors[alpha].numel != 1:
        return "an alpha that is not one number"
    shapes: dict[Side, Shape] = {side: tensors[name].shape for side, name in entry.sides.items()}
    fault = _shape_fault(shapes, unet[target])
    if fault:
        return fault
    return LoraLayer(target, unet[target], shapes["down"][0], up, down, mid, alpha)


def _shape_fault(shapes: Mapping[Side, Shape], weight: Shape) -> str | None:
    """Say which side does not fit a weight [out, in] or [out, in, kh, kw]; None where all do."""
    up, down, mid = shapes["up"], shapes["down"], shapes.get("mid")
    if len(weight) < 2 or len(up) < 2 or len(down) < 2:
        return f"no pair of matrices: up {list(up)}, down {list(down)}, weight {list(weight)}"
    if not fits(up, (weight[0], up[1])):
        return f"the up side gives {list(up)} where the layer gives {weight[0]}"
    takes = weight[1:] if mid is None else weight[1:2]
    if not fits(down, (down[0], *takes)):
        return f"the down side takes {list(down)} where the layer takes {list(takes)}"
    if mid is None:
        return None if up[1] == down[0] else f"sides of ranks {up[1]} and {down[0]}"
    if len(weight) != _CONV or mid != (up[1], down[0], *weight[2:]):
        return f"a middle of {list(mid)} between ranks {up[1]} and {down[0]}"
    return None
