"""A second network with some weights of its own; all others are the first one's, not copies."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch


def share_weights(
    network: Any, changes: Mapping[str, torch.Tensor], device: torch.device | None = None
) -> Any:
    """Return a network of the same structure that shares all weights but those in `changes`.

    The first stays as it is; layers that were exchanged in it are in the second too. With a device,
    all of it lies there, and what lies elsewhere is copied.
    """
    ours: dict[int, Any] = {}  # what a deep copy takes instead of an object, by its id
    for name, weight in network.named_parameters():
        value = changes.get(name, weight.detach())
        ours[id(weight)] = torch.nn.Parameter(value if device is None else value.to(device), False)
    return copy.deepcopy(network, ours).train(False)
