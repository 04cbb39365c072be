"""Stand-ins for the stock nodes that combine, blend and place CONDITIONING.

Each entry is [tensor [B, T, D], dict]; what the sampler does with area, mask and range is its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..conversions import log_warnings
from .definition import CONDITIONING, MASK, MAX_SIDE, StockNode, number, whole

Entries = Sequence[Sequence[Any]]
Result = tuple[list[list[Any]]]

_STRENGTH = number(1.0, 0.0, 10.0)


def _set(conditioning: Entries, **values: Any) -> Result:
    """Return the entries with these values in their dicts."""
    return ([[embeddings, {**more, **values}] for embeddings, more in conditioning],)


def _only_entry(conditioning: Entries, node: str) -> Sequence[Any]:
    if len(conditioning) > 1:
        log_warnings([f"{node}: conditioning_from has {len(conditioning)} entries; only the first "
                      "is used"])  # fmt: skip
    return conditioning[0]


class ConditioningCombine(StockNode):
    """Let two prompts both guide the picture."""

    DISPLAY_NAME = "Conditioning (Combine)"
    REQUIRED = {"conditioning_1": CONDITIONING, "conditioning_2": CONDITIONING}
    RETURN_TYPES = ("CONDITIONING",)

    def execute(self, conditioning_1: Entries, conditioning_2: Entries) -> Result:
        return ([*map(list, conditioning_1), *map(list, conditioning_2)],)


class ConditioningConcat(StockNode):
    """Put the tokens of one prompt after those of another."""

    DISPLAY_NAME = "Conditioning (Concat)"
    REQUIRED = {"conditioning_to": CONDITIONING, "conditioning_from": CONDITIONING}
    RETURN_TYPES = ("CONDITIONING",)

    def execute(self, conditioning_to: Entries, conditioning_from: Entries) -> Result:
        added = _only_entry(conditioning_from, "ConditioningConcat")[0]
        return ([[torch.cat([own, added], 1), dict(more)] for own, more in conditioning_to],)


class ConditioningAverage(StockNode):
    """Blend one prompt into another, token by token."""

    DISPLAY_NAME = "Conditioning (Average)"
    REQUIRED = {
        "conditioning_to": CONDITIONING,
        "conditioning_from": CONDITIONING,
        "conditioning_to_strength": number(1.0, 0.0, 1.0),
    }
    RETURN_TYPES = ("CONDITIONING",)

    def execute(
        self, conditioning_to: Entries, conditioning_from: Entries, conditioning_to_strength: float
    ) -> Result:
        source, more_source = _only_entry(conditioning_from, "ConditioningAverage")
        pooled_source = more_source.get("pooled_output")
        blended: list[list[Any]] = []
        for own, more in conditioning_to:
            pooled = more.get("pooled_output")
            if pooled_source is not None:
                pooled = (
                    pooled_source
                    if pooled is None
                    else _blend(pooled, pooled_source, conditioning_to_strength)
                )
            embeddings = _blend(own, _at_length(source, own), conditioning_to_strength)
            blended.append([embeddings, {**more, "pooled_output": pooled}])
        return (blended,)


def _at_length(source: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    """Return the source [B, T, D] cut, or filled up with zeros, to the length of `own`."""
    source = source[:, : own.shape[1]]
    return torch.nn.functional.pad(source, (0, 0, 0, own.shape[1] - source.shape[1]))


def _blend(own: torch.Tensor, source: torch.Tensor, strength: float) -> torch.Tensor:
    return own * strength + source * (1.0 - strength)


class ConditioningSetArea(StockNode):
    """Keep a prompt to an area, in pixels."""

    DISPLAY_NAME = "Conditioning (Set Area)"
    REQUIRED = {
        "conditioning": CONDITIONING,
        "width": whole(64, 64, MAX_SIDE, step=8),
        "height": whole(64, 64, MAX_SIDE, step=8),
        "x": whole(0, 0, MAX_SIDE, step=8),
        "y": whole(0, 0, MAX_SIDE, step=8),
        "strength": _STRENGTH,
    }
    RETURN_TYPES = ("CONDITIONING",)

    def execute(
        self, conditioning: Entries, width: int, height: int, x: int, y: int, strength: float
    ) -> Result:
        area = tuple(side // 8 for side in (height, width, y, x))
        return _set(conditioning, area=area, strength=strength, set_area_to_bounds=False)


class ConditioningSetAreaPercentage(StockNode):
    """Keep a prompt to an area, in shares of the picture."""

    DISPLAY_NAME = "Conditioning (Set Area with Percentage)"
    REQUIRED = {
        "conditioning": CONDITIONING,
        "width": number(1.0, 0, 1.0),
        "height": number(1.0, 0, 1.0),
        "x": number(0, 0, 1.0),
        "y": number(0, 0, 1.0),
        "strength": _STRENGTH,
    }
    RETURN_TYPES = ("CONDITIONING",)

    def execute(
        self,
        conditioning: Entries,
        width: float,
        height: float,
        x: float,
        y: float,
        strength: float,
    ) -> Result:
        area = ("percentage", height, width, y, x)
        return _set(conditioning, area=area, strength=strength, set_area_to_bounds=False)


class ConditioningSetAreaStrength(StockNode):
    """Set how much a prompt's area counts."""

    DISPLAY_NAME = "Conditioning (Set Area Strength)"
    REQUIRED = {"conditioning": CONDITIONING, "strength": _STRENGTH}
    RETURN_TYPES = ("CONDITIONING",)

    def execute(self, conditioning: Entries, strength: float) -> Result:
        return _set(conditioning, strength=strength)


class ConditioningSetMask(StockNode):
    """Keep a prompt to a mask; with "mask bounds" only the mask's rectangle is computed."""

    DISPLAY_NAME = "Conditioning (Set Mask)"
    REQUIRED = {
        "conditioning": CONDITIONING,
        "mask": MASK,
        "strength": _STRENGTH,
        "set_cond_area": (["default", "mask bounds"],),
    }
    RETURN_TYPES = ("CONDITIONING",)

    def execute(
        self, conditioning: Entries, mask: torch.Tensor, strength: float, set_cond_area: str
    ) -> Result:
        return _set(
            conditioning,
            mask=mask[None] if mask.ndim < 3 else mask,
            set_area_to_bounds=set_cond_area != "default",
            mask_strength=strength,
        )


class ConditioningSetTimestepRange(StockNode):
    """Let a prompt act only in a part of the steps."""

    DISPLAY_NAME = "ConditioningSetTimestepRange"
    REQUIRED = {
        "conditioning": CONDITIONING,
        "start": number(0.0, 0.0, 1.0, step=0.001),
        "end": number(1.0, 0.0, 1.0, step=0.001),
    }
    RETURN_TYPES = ("CONDITIONING",)

    def execute(self, conditioning: Entries, start: float, end: float) -> Result:
        return _set(conditioning, start_percent=start, end_percent=end)


class ConditioningZeroOut(StockNode):
    """Replace a prompt by zeros of its shape."""

    DISPLAY_NAME = "Conditioning Zero Out"
    REQUIRED = {"conditioning": CONDITIONING}
    RETURN_TYPES = ("CONDITIONING",)

    def execute(self, conditioning: Entries) -> Result:
        zeros: list[list[Any]] = []
        for embeddings, more in conditioning:
            pooled = more.get("pooled_output")
            emptied = {} if pooled is None else {"pooled_output": torch.zeros_like(pooled)}
            zeros.append([torch.zeros_like(embeddings), {**more, **emptied}])
        return (zeros,)


NODES = [
    ConditioningCombine,
    ConditioningConcat,
    ConditioningAverage,
    ConditioningSetArea,
    ConditioningSetAreaPercentage,
    ConditioningSetAreaStrength,
    ConditioningSetMask,
    ConditioningSetTimestepRange,
    ConditioningZeroOut,
]
