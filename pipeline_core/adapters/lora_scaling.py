"""What a LoRA's change is multiplied by: alpha / rank, or what PEFT's notes in the file say.

diffusers writes PEFT's config into the header (`lora_adapter_metadata`) instead of alpha tensors.
Rank-stabilised LoRA: arXiv 2312.03732.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import FileRefused
from ..models.strict_json import parse_json

NOTE = "lora_adapter_metadata"


@dataclass(frozen=True)
class Scaling:
    """`alpha` is that of layers without a tensor of their own; None: the rank, a factor of 1."""

    alpha: float | None = None
    alphas: Mapping[str, float] = field(default_factory=dict[str, float])  # ends of layer names
    rank_stabilised: bool = False

    def of(self, target: str, rank: int, alpha: float | None) -> float:
        """Return the factor of a weight; `alpha` is what its own tensor says, None without one."""
        if alpha is None:
            layer = "." + target.removesuffix(".weight")
            ends = (value for end, value in self.alphas.items() if layer.endswith("." + end))
            alpha = next(ends, self.alpha)
        if alpha is None:
            return 1.0
        return alpha / (rank**0.5 if self.rank_stabilised else rank)


def read_scaling(path: Path, metadata: Mapping[str, str]) -> Scaling:
    """Read PEFT's notes in a file's header, those of the UNet where there are several.

    Raises:
        FileRefused: they are broken.
    """
    if NOTE not in metadata:
        return Scaling()
    notes = parse_json(metadata[NOTE].encode(), f"{path}: {NOTE}")

    def read(key: str, usual: Any) -> Any:
        return notes.get(f"unet.{key}", notes.get(key, usual))

    alpha, alphas, stabilised = (
        read("lora_alpha", None),
        read("alpha_pattern", {}),
        read("use_rslora", False),
    )
    numbers = [alpha or 0, *alphas.values()] if isinstance(alphas, dict) else [None]
    if not isinstance(stabilised, bool) or not all(type(each) in (int, float) for each in numbers):
        raise FileRefused(f"{path}: its {NOTE} says no numbers for alpha; get the file again")
    return Scaling(alpha, alphas, stabilised)
