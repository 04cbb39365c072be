"""LoRAs and grafts: what of a LoRA still means something when the cross-attention was grafted.

Its changes of keys and values were learned on CLIP's tokens; the grafted projections read another
text encoder. Convolutions, self-attention, feed-forward and queries stay as they are.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from ..adapters.lora import AppliedLora, LoraDenoiser, apply_loras
from ..sampling import UNetDenoiser
from .network import graft_network
from .recipe import GraftRecipe


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

    Their changes of the keys and values that are grafted are left out unless `keep_lora`.
    Returns the UNet, and a line for each LoRA that lost something.

    Raises:
        InvalidRequest, NonFiniteResult: see `graft_network`.
    """
    plain, loras = community, ()
    if isinstance(community, LoraDenoiser):
        plain, loras = community.base, community.loras
    network = graft_network(plain.network, multilingual, base, recipe, device=device)
    kept = loras if keep_lora else tuple(_on_graft(lora, recipe) for lora in loras)
    lines = [
        f"LoRA {before.lora.name}: {lost} of {len(before.lora.layers)} layers left out "
        "(keys and values learned on CLIP's tokens)"
        for before, after in zip(loras, kept, strict=True)
        if (lost := len(before.lora.layers) - len(after.lora.layers))
    ]
    return apply_loras(UNetDenoiser(network), kept, device=device), lines


def _on_graft(applied: AppliedLora, recipe: GraftRecipe) -> AppliedLora:
    lora = applied.lora.on_graft(lambda name: recipe.strength_of(name) > 0)
    return dataclasses.replace(applied, lora=lora)
