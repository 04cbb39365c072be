"""The text side of AltCLIP (m18 kind) as it trains: XLM-R with both of its outputs.

`pooled` is CLIP's sentence vector, `states` the conditioning of the UNet; state-dict keys are the
published ones. At inference `text.encoders` builds the conditioning half alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

PAD_ID = 1  # XLM-R's


class TextStates(NamedTuple):
    """What the tower says of a batch of prompts."""

    pooled: torch.Tensor  # (B, D)
    states: torch.Tensor  # (B, T, D)


class AltClipText(torch.nn.Module):
    """`transformation(pre_LN(last)[:, 0])` and `transformation_pre(pre_LN(hidden_states[-2]))`.

    Source: FlagAI modeling_berts_m18.py; diffusers modeling_roberta_series.py.
    """

    def __init__(self, config: Mapping[str, Any], operations: Any = torch.nn) -> None:
        from transformers import XLMRobertaConfig, XLMRobertaModel

        super().__init__()
        known = {key: value for key, value in config.items() if key not in _NOT_XLMR}
        self.roberta = XLMRobertaModel(XLMRobertaConfig(**known), add_pooling_layer=False)
        width, project_dim = config["hidden_size"], config["project_dim"]
        self.pre_LN = operations.LayerNorm(width, eps=config["layer_norm_eps"])
        self.transformation = operations.Linear(width, project_dim)
        self.transformation_pre = operations.Linear(width, project_dim)

    def forward(self, ids: torch.Tensor) -> TextStates:
        """Encode windows of ids [B, T]; pads (id 1) are masked, and have states of their own."""
        mask = ids.ne(PAD_ID)
        output = self.roberta(ids, attention_mask=mask.long(), output_hidden_states=True)
        pooled = self.transformation(self.pre_LN(output.last_hidden_state[:, 0]))
        return TextStates(pooled, self.transformation_pre(self.pre_LN(output.hidden_states[-2])))


_NOT_XLMR = ("architectures", "model_type", "project_dim", "has_pre_transformation")


def trim_pads(ids: torch.Tensor) -> torch.Tensor:
    """Cut windows [B, T] to the longest prompt and one pad: all pads have one and the same state.

    A pad's position, word and attention are those of every other pad of its window, so one stands
    for all; `restore_pads` repeats it.
    """
    longest = int(ids.ne(PAD_ID).sum(1).max())
    return ids[:, : min(longest + 1, ids.shape[1])]


def restore_pads(states: torch.Tensor, length: int) -> torch.Tensor:
    """Repeat the last state, a pad's, until [B, length, D]."""
    missing = length - states.shape[1]
    return torch.cat([states, states[:, -1:].expand(-1, missing, -1)], dim=1)
