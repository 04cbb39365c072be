"""Checkpoints that resume exactly: parameters, averages, optimizers and the step.

The random state and the data position need no field: both follow from the step (see `loop`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ..errors import InvalidRequest
from .average import Average


def write_checkpoint(
    path: Path,
    step: int,
    parameters: Mapping[str, torch.nn.Parameter],
    optimizers: Sequence[Any],
    average: Average,
) -> None:
    """Write under a temporary name, then rename: a killed run leaves the last good file."""
    temporary = path.with_suffix(".incomplete")
    state = {
        "step": step,
        "parameters": {name: value.detach() for name, value in parameters.items()},
        "average": average.values,
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
    }
    torch.save(state, temporary)
    os.replace(temporary, path)


def read_checkpoint(
    path: Path,
    parameters: Mapping[str, torch.nn.Parameter],
    optimizers: Sequence[torch.optim.Optimizer],
    average: Average,
) -> int:
    """Restore everything in place and return the step; 0 where there is no checkpoint.

    Raises:
        InvalidRequest: the checkpoint holds other parameters than those that train.
    """
    if not path.is_file():
        return 0
    state = torch.load(path, map_location="cpu", weights_only=True)
    if state["parameters"].keys() != parameters.keys():
        raise InvalidRequest(
            f"{path} holds {len(state['parameters'])} parameters, {len(parameters)} train now: "
            "it is of another stage; choose another folder"
        )
    with torch.no_grad():
        for name, value in state["parameters"].items():
            parameters[name].copy_(value)
    average.values = state["average"]
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    return int(state["step"])
