"""Which parameters a stage trains, by exact name.

Concept alignment trains the key and value projections of cross-attention and nothing else. (In the
published trainer the filter `'to_k' or 'to_v' in name` is always true: models.md, section 0.9.)
"""

from __future__ import annotations

import re
from typing import Literal

import torch

from ..errors import InvalidRequest, UnknownName

Selection = Literal["all", "cross-attention-kv"]
_PATTERNS: dict[str, re.Pattern[str]] = {
    "all": re.compile(r".*"),
    "cross-attention-kv": re.compile(r".*\.attn2\.to_[kv]\.(weight|bias)"),
}


def train_only(network: torch.nn.Module, selection: Selection) -> list[str]:
    """Let just the selected parameters require gradients; return their names.

    Raises:
        UnknownName: the selection is unknown.
        InvalidRequest: the network has no such parameter.
    """
    if selection not in _PATTERNS:
        raise UnknownName("selection", selection, _PATTERNS)
    names: list[str] = []
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(_PATTERNS[selection].fullmatch(name) is not None)
        if parameter.requires_grad:
            names.append(name)
    if not names:
        raise InvalidRequest(f"the network has no parameter of the selection {selection!r}")
    return names
