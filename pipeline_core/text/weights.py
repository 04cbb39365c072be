"""Weights: characters to tokens, and what a weight does to the encoder's projected states.

Ways: toward-empty (ComfyUI: from the empty prompt's state through the word's and beyond) and
mean-restored (A1111: scale, then bring each window back to its mean). A weight of 1 changes no bit.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..values import Weighting
from .syntax import WeightSpan


def token_weights(
    spans: Sequence[WeightSpan], token_spans: Sequence[tuple[int, int]]
) -> list[float]:
    """Give each token the weight that covers most of its characters.

    Of weights that cover equally many, the one furthest from 1 counts; a token that stands for no
    character has weight 1. Both sequences run from left to right.
    """
    weights: list[float] = []
    first = 0
    for start, end in token_spans:
        while first < len(spans) and spans[first].end <= start:
            first += 1
        covered: dict[float, int] = {1.0: 0}
        for row in range(first, len(spans)):
            if spans[row].start >= end:
                break
            shared = min(end, spans[row].end) - max(start, spans[row].start)
            if shared > 0:
                covered[spans[row].weight] = covered.get(spans[row].weight, 0) + shared
        weights.append(max(covered, key=lambda weight: (covered[weight], abs(weight - 1.0))))
    return weights


def apply_weights(
    states: torch.Tensor, weights: torch.Tensor, empty: torch.Tensor, weighting: Weighting
) -> torch.Tensor:
    """Weigh projected states window by window.

    Args:
        states: [N, W, D], N windows.
        weights: [N, W] float32, 1 on special tokens and pads.
        empty: [W, D], the states of the empty prompt.
    """
    if weighting == "none" or bool((weights == 1.0).all()):
        return states
    factors = weights.to(states.device)[..., None]  # [N, W, 1]
    full = states.float()
    if weighting == "toward-empty":
        weighed = empty.float() + (full - empty.float()) * factors
        changed = factors != 1.0
    else:
        weighed = _restore_mean(full, full * factors)
        changed = (factors != 1.0).any(dim=1, keepdim=True)
    return torch.where(changed, weighed.to(states.dtype), states)


def _restore_mean(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    wanted, found = before.mean((1, 2), keepdim=True), after.mean((1, 2), keepdim=True)
    return after * torch.where(found == 0.0, 1.0, wanted / found)
