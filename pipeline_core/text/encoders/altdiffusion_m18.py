"""AltDiffusion-m18: XLM-R's next-to-last states through `pre_LN` and `transformation_pre`.

The last layer is never needed, so it is not built; `transformation` (without `_pre`) is the pooled
CLIP branch and gives blurred, unrelated pictures if taken instead.
Source: FlagAI modeling_berts_m18.py; diffusers modeling_roberta_series.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ...models.configs import ALT_M18_TEXT, XLMR_LARGE
from .altdiffusion import build_roberta, roberta_positions
from .tower import TextNetwork, known_config


class AltDiffusionM18Encoder(TextNetwork):
    """`transformation_pre(pre_LN(hidden_states[-2]))`: [B, T], T <= 512, to [B, T, project_dim]."""

    def __init__(self, config: Mapping[str, Any], operations: Any) -> None:
        super().__init__()
        layers = config["num_hidden_layers"] - 1
        self.roberta = build_roberta(
            {**known_config(config, XLMR_LARGE), "num_hidden_layers": layers}
        )
        self.pad_id = self.roberta.config.pad_token_id
        width, project_dim = self.roberta.config.hidden_size, config["project_dim"]
        self.pre_LN = operations.LayerNorm(width, eps=config["layer_norm_eps"])
        self.transformation_pre = operations.Linear(width, project_dim)

    @property
    def tower(self) -> Any:
        return self.roberta

    @property
    def width(self) -> int:
        return self.transformation_pre.out_features

    def forward(
        self, ids: torch.Tensor, mask: torch.Tensor, learned: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Encode windows; pads are masked for the tokens but have states of their own."""
        penultimate = self.states(ids, mask, roberta_positions(ids, self.pad_id), learned)
        return self.transformation_pre(self.pre_LN(penultimate))


def build(config: Mapping[str, Any], *, operations: Any = torch.nn) -> TextNetwork:
    """Build the network of m18; absent config keys take the published values."""
    return AltDiffusionM18Encoder(known_config(config, ALT_M18_TEXT), operations).train(False)


def unused(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return patterns of keys that published files hold and this rule does not use.

    `config` is the file's own: its `num_hidden_layers` names the last layer.
    """
    last_layer = known_config(config, ALT_M18_TEXT)["num_hidden_layers"] - 1
    return (
        r"roberta\.pooler\..*",
        r"roberta\.embeddings\.position_ids",
        rf"roberta\.encoder\.layer\.{last_layer}\..*",
        r"transformation\..*",
        r"logit_scale",
    )
