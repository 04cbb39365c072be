"""LoRAs on a UNet: merged into copies of the weights they change, all else shared.

The UNet that comes in stays as it is, so taking a LoRA off is taking the other UNet: bit for bit.
However many are stacked, each weight is the original plus the sum of all changes, computed in
float64 and rounded once.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..errors import InvalidRequest
from ..loading.matching import Shape
from ..loading.sharing import share_weights
from ..ranges import check_number
from ..sampling import UNetDenoiser
from .folders import AdapterFolders
from .lora_files import Lora, open_lora

MAX_STRENGTH = 100.0  # as the host's own loader

logger = logging.getLogger("multilingual_diffusion")


@dataclass(frozen=True)
class AppliedLora:
    """A LoRA and its strength: 1 as trained, below 0 away from what it learned."""

    lora: Lora
    strength: float = 1.0

    def __post_init__(self) -> None:
        check_number("strength", self.strength, -MAX_STRENGTH, MAX_STRENGTH)

    @property
    def report(self) -> str:
        """What a user should know, a line each: what changes, what does not and why."""
        layers = len(self.lora.layers) if self.strength else 0
        changed = f"{layers} layers changed" if layers else "nothing changed"
        left_out = [f"not used: {line}" for line in self.lora.left_out]
        return "\n".join([f"{self.lora.name} at {self.strength:g}: {changed}", *left_out])


class LoraDenoiser(UNetDenoiser):
    """A UNet with LoRAs merged; `base` is the one without any."""

    def __init__(self, base: UNetDenoiser, loras: Sequence[AppliedLora], network: Any) -> None:
        super().__init__(network)
        self.base = base
        self.loras = tuple(loras)


def open_loras(
    choices: Iterable[tuple[Path, float]],
    unet: Mapping[str, Shape],
    config: Mapping[str, Any],
    *,
    folders: AdapterFolders,
    allow_pickle: bool = False,
    grafted: bool = False,
) -> list[AppliedLora]:
    """Open LoRAs with their strengths for a UNet; what of them does not apply is logged.

    `folders` say what they are called, see `AdapterFolders.name_of`; of a `grafted` UNet's, only
    what means something there is taken, see `Lora.on_graft`.

    Raises:
        FileRefused, WeightsMismatch: see `open_lora`.
        InvalidRequest: a strength is out of range.
    """
    opened: list[AppliedLora] = []
    for path, strength in choices:
        name = folders.name_of(path)
        lora = open_lora(path, unet, config, name=name, allow_pickle=allow_pickle)
        lora = lora.on_graft() if grafted else lora
        opened.append(AppliedLora(lora, strength))
        for line in lora.left_out:
            logger.warning("%s: not used: %s", lora.name, line)
    return opened


def apply_loras(
    unet: UNetDenoiser, loras: Iterable[AppliedLora], *, device: torch.device | None = None
) -> UNetDenoiser:
    """Return the UNet with LoRAs added to those it may have; at strength 0 nothing is added.

    Weights that no LoRA changes are shared with `unet` where they lie on `device` (None: where
    they lie).

    Raises:
        InvalidRequest: a weight leaves the range of its dtype at this strength.
        FileRefused: a number in a LoRA is not finite.
    """
    added = [applied for applied in loras if applied.strength and applied.lora.layers]
    if not added:
        return unet
    base, before = (unet.base, unet.loras) if isinstance(unet, LoraDenoiser) else (unet, ())
    stack = (*before, *added)
    changed = {layer.target for applied in stack for layer in applied.lora.layers}
    merged = {
        name: _merge_weight(name, weight, stack)
        for name, weight in base.network.named_parameters()
        if name in changed
    }
    return LoraDenoiser(base, stack, share_weights(base.network, merged, device))


def _merge_weight(
    name: str, weight: torch.nn.Parameter, stack: Sequence[AppliedLora]
) -> torch.Tensor:
    changes = (
        applied.lora.change(layer) * applied.strength
        for applied in stack
        for layer in applied.lora.layers
        if layer.target == name
    )
    # on the CPU wherever the weight lies: the same weights everywhere, and MPS has no float64
    exact = weight.detach().to("cpu", torch.float64)
    merged = (exact + functools.reduce(torch.add, changes)).to(weight.dtype)
    if not bool(torch.isfinite(merged).all()):
        names = ", ".join(f"{applied.lora.name} at {applied.strength:g}" for applied in stack)
        raise InvalidRequest(f"{names}: {name} leaves the range of {weight.dtype}; take less")
    return merged.to(weight.device)
