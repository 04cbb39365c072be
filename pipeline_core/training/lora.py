"""LoRA (arXiv 2106.09685): low-rank changes of the attention projections, and their file.

Keys as kohya's trainer writes them (`lora_unet_..._to_q.lora_down.weight`), which ComfyUI,
AUTOMATIC1111 and diffusers read.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

from ..adapters.lora_files import OWN_NOTE
from ..errors import InvalidRequest

TARGETS = re.compile(r".*\.attn[12]\.to_(q|k|v|out\.0)")
WORD_TARGETS = re.compile(r".*\.attn2\.to_[kv]")  # what reads the prompt, and nothing else


class LoraLinear(torch.nn.Module):
    """A frozen linear layer plus `scale * up(down(x))`; starts as the layer alone."""

    def __init__(self, base: torch.nn.Module, rank: int, alpha: float, operations: Any) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = operations.Linear(base.in_features, rank, bias=False)
        self.up = operations.Linear(rank, base.out_features, bias=False)
        self.scale = alpha / rank
        torch.nn.init.normal_(self.down.weight, std=1 / rank)
        torch.nn.init.zeros_(self.up.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base(x) + self.scale * self.up(self.down(x))


def add_lora(
    unet: torch.nn.Module,
    *,
    rank: int = 4,
    alpha: float | None = None,
    targets: re.Pattern[str] = TARGETS,
    operations: Any = torch.nn,
) -> list[str]:
    """Freeze a UNet and put low-rank layers on its attention; return the names of the layers.

    `targets` says by name which layers get one.

    Raises:
        InvalidRequest: the rank is not positive, or the UNet has no such layers.
    """
    if rank < 1:
        raise InvalidRequest(f"rank is {rank}; it must be 1 or more")
    unet.requires_grad_(False)
    names = [name for name, _ in unet.named_modules() if targets.fullmatch(name)]
    if not names:
        raise InvalidRequest("the UNet has no attention layers to put LoRA on")
    for name in names:
        parent = unet.get_submodule(name.rpartition(".")[0])
        layer = LoraLinear(unet.get_submodule(name), rank, alpha or rank, operations)
        setattr(parent, name.rpartition(".")[2], layer)
    return names


def lora_tensors(unet: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return the low-rank weights under their common keys."""
    tensors: dict[str, torch.Tensor] = {}
    for name, layer in unet.named_modules():
        if isinstance(layer, LoraLinear):
            key = "lora_unet_" + name.replace(".", "_")
            tensors[f"{key}.lora_down.weight"] = layer.down.weight.detach().clone()
            tensors[f"{key}.lora_up.weight"] = layer.up.weight.detach().clone()
            rank = layer.down.out_features
            tensors[f"{key}.alpha"] = torch.tensor(float(layer.scale * rank))
    return tensors


def write_lora(unet: torch.nn.Module, path: Path, *, multilingual: bool = True) -> None:
    """Write the low-rank weights as safetensors.

    `multilingual` says that they learned on a multilingual text encoder: they apply whole to a
    grafted UNet, see `Lora.on_graft`.

    Raises:
        InvalidRequest: the UNet has none.
    """
    from safetensors.torch import save_file

    tensors = lora_tensors(unet)
    if not tensors:
        raise InvalidRequest("the UNet has no LoRA layers; call add_lora before training")
    path.parent.mkdir(parents=True, exist_ok=True)
    notes = {"format": "pt", "ss_network_module": "networks.lora"}
    if multilingual:
        notes[OWN_NOTE] = "multilingual tokens"
    save_file(tensors, path, metadata=notes)


@torch.no_grad()
def merge_lora(unet: torch.nn.Module) -> None:
    """Fold the low-rank changes into the layers and take the wrappers off."""
    for name, layer in list(unet.named_modules()):
        if isinstance(layer, LoraLinear):
            base: Any = layer.base
            base.weight.add_(layer.scale * layer.up.weight @ layer.down.weight)
            parent = unet.get_submodule(name.rpartition(".")[0])
            setattr(parent, name.rpartition(".")[2], base)
