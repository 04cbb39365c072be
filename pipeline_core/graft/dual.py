"""Dual conditioning: one UNet listens to CLIP and to a multilingual text encoder, and blends both.

CLIP's tokens go through the original cross-attention, the others through the grafted one, so that
trigger words of LoRAs and embeddings live on in the CLIP prompt while the other is Thai. Method:
decoupled cross-attention (IP-Adapter, arXiv 2308.06721), here over two texts. Both conditionings
travel as one, side by side in each token: [B, T, D] twice becomes [B, T, 2 D].
"""

from __future__ import annotations

import math
from typing import Any

import torch

from ..errors import InvalidRequest
from ..loading.sharing import share_weights
from ..ranges import check_number
from .parents import Structure, check_structures

MAX_TOKENS = 8192


def join_conditioning(multilingual: torch.Tensor, clip: torch.Tensor) -> torch.Tensor:
    """Return both conditionings, [B, T, D] and [B or 1, S, D], as one of [B, lcm(T, S), 2 D].

    Of two lengths, both are repeated to the least common one: attention over repeated tokens is
    attention over the tokens themselves.

    Raises:
        InvalidRequest: they do not fit each other.
    """
    if multilingual.ndim != 3 or clip.ndim != 3 or multilingual.shape[2] != clip.shape[2]:
        raise InvalidRequest(
            f"the multilingual conditioning is {list(multilingual.shape)} and CLIP's "
            f"{list(clip.shape)}; both must be [B, T, D] with one D, of models of one family"
        )
    rows = max(multilingual.shape[0], clip.shape[0])
    tokens = math.lcm(multilingual.shape[1], clip.shape[1])
    if {multilingual.shape[0], clip.shape[0]} - {1, rows} or tokens > MAX_TOKENS:
        raise InvalidRequest(
            f"conditionings of {list(multilingual.shape)} and {list(clip.shape)} would make {rows} "
            f"rows of {tokens} tokens; give both one number of rows (or 1) and like lengths"
        )
    sides = [
        side.repeat(1, tokens // side.shape[1], 1).expand(rows, -1, -1)
        for side in (multilingual, clip.to(multilingual))
    ]
    return torch.cat(sides, dim=2)


def make_dual_unet(
    grafted: Any, original: Any, clip_weight: float, *, device: torch.device | None = None
) -> Any:
    """Return a UNet that takes joined conditioning [B, T, 2 D]; weights are shared, not copied.

    Args:
        grafted: UNet2DConditionModel after the graft.
        original: the one before it, with its LoRAs.
        clip_weight: 0 is the grafted UNet alone, 1 the original's cross-attention alone.

    Raises:
        InvalidRequest: the networks are not of one family, or the weight is out of range.
    """
    check_number("clip_weight", clip_weight, 0.0, 1.0)
    first = Structure.of("the grafted UNet", grafted, grafted.config)
    check_structures(first, Structure.of("the original UNet", original, original.config))
    dual, donor = (share_weights(each, {}, device) for each in (grafted, original))
    for name, attention in donor.named_modules():
        if name.endswith(".attn2"):
            own = dual.get_submodule(name)
            own.set_processor(DualAttention(attention, own.processor, clip_weight))
    dual.register_to_config(cross_attention_dim=2 * first.context_width)
    return dual


class DualAttention(torch.nn.Module):
    """The attention processor (diffusers) of one cross-attention of a dual UNet."""

    def __init__(self, original: torch.nn.Module, inner: Any, clip_weight: float) -> None:
        super().__init__()
        self.original = original
        self.inner = inner  # what computes the grafted side
        self.clip_weight = clip_weight

    def forward(
        self,
        attention: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        temb: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Map [B, N, C] to [B, N, C]; the encoder's states are joined, [B, T, 2 D]."""
        multilingual, clip = encoder_hidden_states.chunk(2, dim=2)
        ours = self.inner(attention, hidden_states, multilingual, attention_mask, temb)
        return torch.lerp(ours, self.original(hidden_states, clip), self.clip_weight)
