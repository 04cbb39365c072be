"""AltDiffusion (m2) and -m9: XLM-R's last states through `transformation`, no LayerNorm.

The `pre_LN` in single-file checkpoints only feeds the pooled CLIP branch and is not part of this
rule. Source: FlagAI modeling_berts.py; diffusers modeling_roberta_series.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ...models.configs import ALT_TEXT, XLMR_LARGE
from .tower import TextNetwork, keep_words_on_cpu, known_config


class AltDiffusionEncoder(TextNetwork):
    """`transformation(last_hidden_state)`: ids [B, T], T <= 512, to [B, T, project_dim]."""

    def __init__(self, config: Mapping[str, Any], operations: Any) -> None:
        super().__init__()
        self.roberta = build_roberta(known_config(config, XLMR_LARGE))
        self.pad_id = self.roberta.config.pad_token_id
        width, project_dim = self.roberta.config.hidden_size, config["project_dim"]
        self.transformation = operations.Linear(width, project_dim)

    @property
    def tower(self) -> Any:
        return self.roberta

    @property
    def width(self) -> int:
        return self.transformation.out_features

    def forward(
        self, ids: torch.Tensor, mask: torch.Tensor, learned: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Encode windows; pads are masked for the tokens but have states of their own."""
        return self.transformation(
            self.states(ids, mask, roberta_positions(ids, self.pad_id), learned)
        )


def build(config: Mapping[str, Any], *, operations: Any = torch.nn) -> TextNetwork:
    """Build the network of m2 or m9; absent config keys take the published values."""
    return AltDiffusionEncoder(known_config(config, ALT_TEXT), operations).train(False)


def unused(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return patterns of keys that published files hold and this rule does not use."""
    return (
        r"roberta\.pooler\..*",
        r"roberta\.embeddings\.position_ids",
        r"pre_LN\..*",
        r"logit_scale",
    )


def build_roberta(config: Mapping[str, Any]) -> Any:
    """Build transformers' XLM-R without pooler, its word table kept on the CPU."""
    from transformers import XLMRobertaConfig, XLMRobertaModel

    roberta = XLMRobertaModel(XLMRobertaConfig(**config), add_pooling_layer=False)
    keep_words_on_cpu(roberta.embeddings)
    return roberta


def roberta_positions(ids: torch.Tensor, pad_id: int) -> torch.Tensor:
    """Count tokens from `pad_id + 1`; pads stay at `pad_id` (fairseq's rule). [B, T] to [B, T]."""
    real = ids.ne(pad_id).long()
    return real.cumsum(dim=1) * real + pad_id
