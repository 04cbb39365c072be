"""A LoRA file (arXiv 2106.09685) opened for a UNet: what it changes, by how much, what it leaves.

A layer's change is scale * up @ down (LoCon: up . mid . down), computed in float64.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..errors import FileRefused, WeightsMismatch
from ..loading.keys_unet import reads_text
from ..loading.matching import Shape
from ..loading.tensors import TensorSource
from .files import open_adapter
from .lora_layers import LoraLayer, find_layers
from .lora_names import layer_names
from .lora_scaling import Scaling, read_scaling

OWN_NOTE = "multilingual_diffusion.lora"  # in the metadata of what `train lora` writes
CLIP_REASON = "keys and values learned on CLIP's tokens, which a graft does not read"
_SHOWN = 2  # names of each kind that a report lists


@dataclass(frozen=True, eq=False)
class Lora:
    """An opened LoRA; `name` is no path: it goes into pictures.

    `skipped` maps a reason to names in the file.
    """

    name: str
    layers: tuple[LoraLayer, ...] = field(repr=False)
    skipped: Mapping[str, tuple[str, ...]] = field(repr=False)
    scaling: Scaling = field(repr=False)
    source: TensorSource = field(repr=False)

    def change(self, layer: LoraLayer) -> torch.Tensor:
        """Return what a strength of 1 adds to the weight: float64 on the CPU, in its shape.

        Raises:
            FileRefused: a number in the file is not finite.
        """
        up, down = self._read(layer.up).flatten(1), self._read(layer.down).flatten(1)
        if layer.mid is None:
            product = up @ down
        else:  # [out, p], [p, q, kh, kw], [q, in]
            product = torch.einsum("op,pqhw,qi->oihw", up, self._read(layer.mid), down)
        alpha = None if layer.alpha is None else float(self._read(layer.alpha))
        change = product.reshape(layer.shape) * self.scaling.of(layer.target, layer.rank, alpha)
        if not bool(torch.isfinite(change).all()):
            raise FileRefused(f"{self.name}: the change of {layer.target} is not finite")
        return change

    @property
    def left_out(self) -> list[str]:
        """What does not apply and why, a line each."""
        return [
            f"{reason}: {', '.join(names[:_SHOWN])}"
            + f" and {len(names) - _SHOWN} more" * (len(names) > _SHOWN)
            for reason, names in self.skipped.items()
        ]

    def on_graft(self, grafted: Callable[[str], bool] = reads_text) -> Lora:
        """Return what of it means something on a UNet with a grafted cross-attention.

        Keys and values that were learned on CLIP's tokens are left out, or those of them that are
        `grafted`; those of our own trainer learned on a multilingual text encoder's.
        """
        lost = [item for item in self.layers if reads_text(item.target) and grafted(item.target)]
        if OWN_NOTE in self.source.metadata or not lost:
            return self
        names = [name for layer in lost for name in (layer.up, layer.down, layer.mid) if name]
        rest = tuple(layer for layer in self.layers if layer not in lost)
        return dataclasses.replace(
            self, layers=rest, skipped={**self.skipped, CLIP_REASON: tuple(names)}
        )

    def _read(self, name: str) -> torch.Tensor:
        return self.source.read(name).to(torch.float64)


def open_lora(
    path: Path,
    unet: Mapping[str, Shape],
    config: Mapping[str, Any],
    *,
    name: str | None = None,
    allow_pickle: bool = False,
) -> Lora:
    """Open a LoRA for a UNet, which is known by the shapes of its tensors and its config.

    `name` is what reports and pictures call it; None: the file's name.

    Raises:
        FileRefused: the file is broken, ambiguous, or a pickle that was not allowed.
        WeightsMismatch: no layer of it fits; the text says why.
    """
    source = open_adapter(path, allow_pickle=allow_pickle)
    known = layer_names(unet, config)
    layers, skipped = find_layers(source.tensors, known, unet, source.where)
    lora = Lora(
        name or path.name,
        tuple(layers),
        {reason: tuple(names) for reason, names in skipped.items()},
        read_scaling(path, source.metadata),
        source,
    )
    if not layers:
        why = "; ".join(lora.left_out) or "it is empty"
        raise WeightsMismatch(f"{path}: no layer of this LoRA fits the UNet: {why}")
    return lora
