"""LoRAs and grafts: what of a LoRA still means something when the cross-attention was grafted.

Its changes of keys and values were learned on CLIP's tokens; the grafted projections read another
text encoder. Convolutions, self-attention, feed-forward and queries stay as they are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import torch

from ..adapters.lora import AppliedLora, LoraDenoiser, apply_loras
from ..sampling import UNetDenoiser
from .network import graft_network
from .recipe import GraftRecipe, kind_of


def graft_denoiser(
    community: UNetDenoiser,
    multilingual: Any,
    base: Any | None,
    recipe: GraftRecipe,
    *,
    keep_lora: bool = False,
    device: torch.device | None = None,
) -> tuple[UNetDenoiser, list[str]]:
    """Graft under the LoRAs that the community's UNet may have, and put them on again.

    Their changes of keys and values are left out unless `keep_lora`. Returns the UNet, and a line
    for each LoRA that lost something.

    Raises:
        InvalidRequest, NonFiniteResult: see `graft_network`.
    """
    plain, loras = community, ()
    if isinstance(community, LoraDenoiser):
        plain, loras = community.base, community.loras
    network = graft_network(plain.network, multilingual, base, recipe, device=device)
    kept, lines = (list(loras), []) if keep_lora else without_keys_values(loras)
    return apply_loras(UNetDenoiser(network), kept, device=device), lines


def without_keys_values(loras: Iterable[AppliedLora]) -> tuple[list[AppliedLora], list[str]]:
    """Return LoRAs without their changes of cross-attention keys and values, and what was lost."""
    kept: list[AppliedLora] = []
    lines: list[str] = []
    for applied in loras:
        layers = applied.lora.layers
        rest = tuple(layer for layer in layers if kind_of(layer.target) != "kv")
        if len(rest) < len(layers):
            lines.append(
                f"LoRA {applied.lora.name}: {len(layers) - len(rest)} of {len(layers)} layers left "
                "out (keys and values learned on CLIP's tokens)"
            )
        if rest:
            kept.append(
                dataclasses.replace(applied, lora=dataclasses.replace(applied.lora, layers=rest))
            )
    return kept, lines
