"""What the stand-ins for ComfyUI's stock nodes share: how their inputs are written down.

A stand-in has the id, the inputs in their order, the defaults, limits and outputs of the host's
node, and does what it does; none is ever registered inside ComfyUI.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

MAX_SIDE = 16384  # the host's largest side, in pixels

LATENT = ("LATENT",)
IMAGE = ("IMAGE",)
MASK = ("MASK",)
CONDITIONING = ("CONDITIONING",)

Latent = Mapping[str, Any]
Input = tuple[Any, ...]


def whole(default: int, low: int, high: int, **more: Any) -> Input:
    """Return an INT input."""
    return "INT", {"default": default, "min": low, "max": high, **more}


def number(default: float, low: float, high: float, step: float = 0.01, **more: Any) -> Input:
    """Return a FLOAT input."""
    return "FLOAT", {"default": default, "min": low, "max": high, "step": step, **more}


def combo(choices: Sequence[str], **more: Any) -> Input:
    """Return a choice as the host's newer nodes write it; older ones give the bare list."""
    return "COMBO", {"multiselect": False, "options": list(choices), **more}


class StockNode:
    """Base of the stand-ins: inputs are a table, the work is `execute`."""

    DISPLAY_NAME = ""
    REQUIRED: Mapping[str, Input]
    OPTIONAL: Mapping[str, Input] = {}
    HIDDEN: Mapping[str, str] = {}
    RETURN_TYPES: tuple[str, ...]
    FUNCTION = "execute"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, dict[str, Any]]:
        sections = {"required": cls.REQUIRED, "optional": cls.OPTIONAL, "hidden": cls.HIDDEN}
        return {name: dict(inputs) for name, inputs in sections.items() if inputs}
