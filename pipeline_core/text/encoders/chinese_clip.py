"""ModelScope Chinese Stable Diffusion: the raw last states of Chinese-CLIP's BERT text tower.

No projection, no pooling, no further LayerNorm. Source: modelscope ChineseStableDiffusionPipeline;
transformers ChineseCLIPTextModel.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ...models.configs import CHINESE_CLIP_TEXT
from .tower import TextNetwork, keep_words_on_cpu, known_config


class ChineseClipEncoder(TextNetwork):
    """`last_hidden_state`: ids [B, T] to [B, T, hidden_size]."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        from transformers import ChineseCLIPTextConfig, ChineseCLIPTextModel

        super().__init__()
        model = ChineseCLIPTextModel(ChineseCLIPTextConfig(**config), add_pooling_layer=False)
        keep_words_on_cpu(model.embeddings)
        # The published keys have no prefix.
        self.embeddings = model.embeddings
        self.encoder = model.encoder

    @property
    def tower(self) -> Any:
        return self

    @property
    def width(self) -> int:
        return self.embeddings.word_embeddings.weight.shape[1]

    def forward(
        self, ids: torch.Tensor, mask: torch.Tensor, learned: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Encode windows; positions count from 0, pads included, as in BERT."""
        positions = torch.arange(ids.shape[1]).expand_as(ids)
        return self.states(ids, mask, positions, learned)


def build(config: Mapping[str, Any], *, operations: Any = torch.nn) -> TextNetwork:
    """Build the network; absent config keys take the published values.

    `operations` is taken for the sake of the table: this rule adds no layer to transformers' tower.
    """
    return ChineseClipEncoder(known_config(config, CHINESE_CLIP_TEXT)).train(False)


def unused(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return patterns of keys that published files hold and this rule does not use."""
    return (r"pooler\..*", r"embeddings\.position_ids", r"logit_scale")
