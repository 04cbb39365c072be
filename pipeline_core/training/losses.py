"""Diffusion losses: noising, targets of both prediction types, and weights over the noise levels.

DDPM (arXiv 2006.11239), v-prediction (arXiv 2202.00512), min-SNR (arXiv 2303.09556).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch

from ..errors import UnknownName
from ..models.specs import PredictionType

LossWeighting = Literal["uniform", "min-snr", "balanced"]
_WEIGHTINGS = ("uniform", "min-snr", "balanced")
MIN_SNR_GAMMA = 5.0
_BALANCED_RANGE = (0.2, 5.0)


class NoiseLevels:
    """The training noise of a scheduler config: timesteps to alpha and sigma."""

    def __init__(self, scheduler_config: Mapping[str, Any]) -> None:
        from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

        scheduler: Any = DDPMScheduler.from_config(dict(scheduler_config))
        self.alphas_cumprod: torch.Tensor = scheduler.alphas_cumprod

    def draw_timesteps(self, count: int, device: torch.device, power: float = 1.0) -> torch.Tensor:
        """Draw [B] timesteps, spread evenly over a batch (arXiv 2107.00630, app. I).

        They are uniform shares of the schedule to a `power`: below 1, more of the noisy ones.
        """
        shift = torch.rand(())
        shares = ((torch.arange(count) / count + shift) % 1.0) ** power
        return (shares * len(self.alphas_cumprod)).long()[torch.randperm(count)].to(device)

    def alpha_sigma(self, timesteps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the shares of signal and noise, each [B, 1, 1, 1]."""
        squared = self.alphas_cumprod.to(timesteps.device)[timesteps][:, None, None, None]
        return squared.sqrt(), (1 - squared).sqrt()


def diffusion_loss(
    output: torch.Tensor,
    latents: torch.Tensor,
    noise: torch.Tensor,
    alpha: torch.Tensor,
    sigma: torch.Tensor,
    prediction_type: PredictionType,
    weighting: LossWeighting,
    sample_weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the weighted mean squared error of a network output [B, 4, h, w]."""
    target = noise if prediction_type == "epsilon" else alpha * noise - sigma * latents
    errors = (output.float() - target).square().mean((1, 2, 3))
    snr = ((alpha / sigma) ** 2).flatten()
    errors = errors * loss_weights(snr, prediction_type, weighting)
    return errors.mean() if sample_weights is None else (errors * sample_weights).mean()


def loss_weights(
    snr: torch.Tensor, prediction_type: PredictionType, weighting: LossWeighting
) -> torch.Tensor:
    """Return the weight of each sample [B] by its signal-to-noise ratio.

    "uniform" is 1; "min-snr" caps what clean samples weigh; "balanced" is snr ** -0.5 within
    limits (on the noise), which tells a small network more of layout and less of texture.

    Raises:
        UnknownName: the weighting is unknown.
    """
    if weighting not in _WEIGHTINGS:
        raise UnknownName("loss weighting", weighting, _WEIGHTINGS)
    if weighting == "uniform":
        return torch.ones_like(snr)
    if weighting == "min-snr":
        on_noise = snr.clamp(max=MIN_SNR_GAMMA) / snr
    else:
        on_noise = snr.rsqrt().clamp(*_BALANCED_RANGE)
    # an error e of the noise is an error e / alpha of v, and alpha^2 = snr / (snr + 1)
    return on_noise if prediction_type == "epsilon" else on_noise * snr / (snr + 1)
