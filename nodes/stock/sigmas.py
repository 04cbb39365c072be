"""Stand-ins for the stock nodes that make and cut SIGMAS [steps + 1], and need no MODEL.

Formulas: Karras et al. arXiv 2206.00364 (eq. 5), k-diffusion (MIT).
"""

from __future__ import annotations

import math

import torch

from .definition import StockNode, number, whole

SIGMAS = ("SIGMAS",)

_STEPS = whole(20, 1, 10000)
_LIMITS = {
    "sigma_max": number(14.614642, 0.0, 5000.0, advanced=True, round=False),
    "sigma_min": number(0.0291675, 0.0, 5000.0, advanced=True, round=False),
}
_ABOVE_ZERO = 0.0001  # where reversed levels begin, as noise levels can be divided by


def _ending_in_zero(sigmas: torch.Tensor) -> tuple[torch.Tensor]:
    return (torch.cat([sigmas, sigmas.new_zeros(1)]),)


class KarrasScheduler(StockNode):
    """Make noise levels whose `rho`-th roots are evenly spaced."""

    DISPLAY_NAME = "KarrasScheduler"
    REQUIRED = {
        "steps": _STEPS,
        **_LIMITS,
        "rho": number(7.0, 0.0, 100.0, advanced=True, round=False),
    }
    RETURN_TYPES = ("SIGMAS",)

    def execute(
        self, steps: int, sigma_max: float, sigma_min: float, rho: float
    ) -> tuple[torch.Tensor]:
        high, low = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
        return _ending_in_zero((high + torch.linspace(0, 1, steps) * (low - high)) ** rho)


class ExponentialScheduler(StockNode):
    """Make noise levels whose logarithms are evenly spaced."""

    DISPLAY_NAME = "ExponentialScheduler"
    REQUIRED = {"steps": _STEPS, **_LIMITS}
    RETURN_TYPES = ("SIGMAS",)

    def execute(self, steps: int, sigma_max: float, sigma_min: float) -> tuple[torch.Tensor]:
        return _ending_in_zero(
            torch.linspace(math.log(sigma_max), math.log(sigma_min), steps).exp()
        )


class PolyexponentialScheduler(StockNode):
    """Make noise levels whose logarithms fall as a power of the step."""

    DISPLAY_NAME = "PolyexponentialScheduler"
    REQUIRED = {
        "steps": _STEPS,
        **_LIMITS,
        "rho": number(1.0, 0.0, 100.0, advanced=True, round=False),
    }
    RETURN_TYPES = ("SIGMAS",)

    def execute(
        self, steps: int, sigma_max: float, sigma_min: float, rho: float
    ) -> tuple[torch.Tensor]:
        high, low = math.log(sigma_max), math.log(sigma_min)
        ramp = torch.linspace(1, 0, steps) ** rho
        return _ending_in_zero((ramp * (high - low) + low).exp())


class SplitSigmas(StockNode):
    """Cut noise levels at a step, which both parts hold."""

    DISPLAY_NAME = "SplitSigmas"
    REQUIRED = {"sigmas": SIGMAS, "step": whole(0, 0, 10000)}
    RETURN_TYPES = ("SIGMAS", "SIGMAS")
    RETURN_NAMES = ("high_sigmas", "low_sigmas")

    def execute(self, sigmas: torch.Tensor, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        return sigmas[: step + 1], sigmas[step:]


class SplitSigmasDenoise(StockNode):
    """Cut noise levels so that `denoise` of the steps come after the cut."""

    DISPLAY_NAME = "SplitSigmasDenoise"
    REQUIRED = {"sigmas": SIGMAS, "denoise": number(1.0, 0.0, 1.0)}
    RETURN_TYPES = ("SIGMAS", "SIGMAS")
    RETURN_NAMES = ("high_sigmas", "low_sigmas")

    def execute(self, sigmas: torch.Tensor, denoise: float) -> tuple[torch.Tensor, torch.Tensor]:
        after = round(max(len(sigmas) - 1, 0) * denoise)
        # Without steps after the cut the host's first part is empty.
        return sigmas[:-after] if after else sigmas[:0], sigmas[-(after + 1) :]


class FlipSigmas(StockNode):
    """Turn noise levels round, to add noise step by step."""

    DISPLAY_NAME = "FlipSigmas"
    REQUIRED = {"sigmas": SIGMAS}
    RETURN_TYPES = ("SIGMAS",)

    def execute(self, sigmas: torch.Tensor) -> tuple[torch.Tensor]:
        rising = sigmas.flip(0)
        rising[:1] = torch.where(rising[:1] == 0, _ABOVE_ZERO, rising[:1])
        return (rising,)


class SetFirstSigma(StockNode):
    """Replace the first noise level."""

    DISPLAY_NAME = "SetFirstSigma"
    REQUIRED = {"sigmas": SIGMAS, "sigma": number(136.0, 0.0, 20000.0, step=0.001, round=False)}
    RETURN_TYPES = ("SIGMAS",)

    def execute(self, sigmas: torch.Tensor, sigma: float) -> tuple[torch.Tensor]:
        return (torch.cat([sigmas.new_full((1,), sigma), sigmas[1:]]),)


NODES = [
    KarrasScheduler,
    ExponentialScheduler,
    PolyexponentialScheduler,
    SplitSigmas,
    SplitSigmasDenoise,
    FlipSigmas,
    SetFirstSigma,
]
