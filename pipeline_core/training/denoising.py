"""The UNet stages: `base`, `concept-alignment`, `quality`, `guidance`, `details` are one task.

They differ in what trains (`selection`), in which encoder gave the states, in the share of captions
dropped and in how noisy the latents are. Encoder and VAE are frozen: latents and states come ready
from a source.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import torch

from ..models.specs import PredictionType
from .loop import Position
from .losses import LossWeighting, NoiseLevels, diffusion_loss


class DenoisingBatch(NamedTuple):
    """What a UNet learns from; all pictures of a batch have one size (aspect-ratio buckets)."""

    latents: torch.Tensor  # (B, 4, h, w), times the scaling factor
    states: torch.Tensor  # (B, T, D)
    weights: torch.Tensor | None = None  # (B,): of the samples, such as DreamBooth's class pictures


class LatentSource(Protocol):
    """Gives batches; a pure function of the position."""

    def batch(self, position: Position, size: int) -> DenoisingBatch: ...


class DenoisingTask:
    """Predict the noise, or v, of noised latents."""

    def __init__(
        self,
        unet: torch.nn.Module,
        source: LatentSource,
        scheduler_config: Mapping[str, Any],
        *,
        prediction_type: PredictionType = "epsilon",
        weighting: LossWeighting = "uniform",
        timestep_power: float = 1.0,
    ) -> None:
        self.network, self.source = unet, source
        self.levels = NoiseLevels(scheduler_config)
        self.prediction_type: PredictionType = prediction_type
        self.weighting: LossWeighting = weighting
        self.timestep_power = timestep_power  # see NoiseLevels.draw_timesteps

    def batch(self, position: Position, size: int) -> DenoisingBatch:
        return self.source.batch(position, size)

    def loss(self, network: torch.nn.Module, batch: DenoisingBatch) -> dict[str, torch.Tensor]:
        device = next(network.parameters()).device
        latents, states = batch.latents.to(device), batch.states.to(device)
        timesteps = self.levels.draw_timesteps(len(latents), device, self.timestep_power)
        alpha, sigma = self.levels.alpha_sigma(timesteps)
        noise = torch.randn(latents.shape).to(device)
        noised = alpha * latents + sigma * noise
        output = network(noised, timesteps, states, return_dict=False)[0]
        weights = None if batch.weights is None else batch.weights.to(device)
        loss = diffusion_loss(
            output, latents, noise, alpha, sigma, self.prediction_type, self.weighting, weights
        )
        return {"loss": loss}
