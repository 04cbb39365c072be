"""Exponential moving average of the trained parameters.

Decay with the ramp min(decay, (1 + n) / (10 + n)), as in the authors' training code (ema.py).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch


class Average:
    """Averages of named parameters, kept in float32."""

    def __init__(self, parameters: Mapping[str, torch.nn.Parameter], decay: float) -> None:
        self.decay = decay
        self.values = {name: value.detach().float().clone() for name, value in parameters.items()}

    def to(self, device: torch.device) -> None:
        """Move the averages to a device."""
        self.values = {name: value.to(device) for name, value in self.values.items()}

    @torch.no_grad()
    def update(self, parameters: Mapping[str, torch.nn.Parameter], step: int) -> None:
        """Take in the parameters after step `step` (from 0)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, value in self.values.items():
            value.lerp_(parameters[name].detach().float(), 1 - decay)

    @torch.no_grad()
    def write_to(self, parameters: Mapping[str, torch.nn.Parameter]) -> None:
        """Copy the averages into the parameters."""
        for name, value in self.values.items():
            parameters[name].copy_(value)

    @contextlib.contextmanager
    def applied(self, parameters: Mapping[str, torch.nn.Parameter]) -> Iterator[None]:
        """Hold the averages in the parameters for a while."""
        kept = {name: parameters[name].detach().clone() for name in self.values}
        self.write_to(parameters)
        try:
            yield
        finally:
            with torch.no_grad():
                for name, value in kept.items():
                    parameters[name].copy_(value)
