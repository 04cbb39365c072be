"""Stage `vae`: a KL autoencoder learns to compress pictures eightfold (arXiv 2112.10752).

Squared and absolute error of the pixels and a KL term; no discriminator. Crops grow with the steps:
small ones teach edges and colours cheaply, whole pictures at the end the norms' statistics.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .loop import Position

LOG_VARIANCE_RANGE = (-12.0, 4.0)


@dataclass(frozen=True)
class CropPhase:
    """From `since` (a share of the steps) on, crops of `side` pixels, `count` a step."""

    since: float
    side: int | None  # None: whole pictures
    count: int


# (B, 3, H, W) in -1..1 for a position, a crop side and a count
CropSource = Callable[[Position, "int | None", int], torch.Tensor]


class AutoencodingTask:
    """Reconstruct pictures through a sampled latent. The batch size follows from the phase."""

    def __init__(
        self,
        vae: torch.nn.Module,
        source: CropSource,
        phases: Sequence[CropPhase],
        steps: int,
        *,
        absolute_weight: float = 0.05,
        kl_weight: float = 2e-4,
    ) -> None:
        self.network = Reconstruction(vae)
        self.source, self.phases, self.steps = source, tuple(phases), steps
        self.absolute_weight, self.kl_weight = absolute_weight, kl_weight

    def batch(self, position: Position, size: int) -> torch.Tensor:
        progress = position.step / self.steps
        phase = [phase for phase in self.phases if phase.since <= progress][-1]
        return self.source(position, phase.side, min(size, phase.count))

    def loss(self, network: torch.nn.Module, batch: torch.Tensor) -> dict[str, torch.Tensor]:
        pixels = batch.to(next(network.parameters()).device)
        made, kl = network(pixels)
        losses = pixel_loss(made, pixels, self.absolute_weight)
        return {**losses, "loss": losses["loss"] + self.kl_weight * kl, "kl": kl}


def pixel_loss(
    made: torch.Tensor, pixels: torch.Tensor, absolute_weight: float
) -> dict[str, torch.Tensor]:
    """Return "loss", the squared and the weighted absolute error of pictures, and "squared"."""
    error = made.float() - pixels
    squared = error.square().mean()
    return {"loss": squared + absolute_weight * error.abs().mean(), "squared": squared}


class Reconstruction(torch.nn.Module):
    """Encode, sample, decode; returns the pictures and the mean KL divergence of a latent value."""

    def __init__(self, vae: torch.nn.Module) -> None:
        super().__init__()
        self.vae: Any = vae

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        posterior = self.vae.encode(pixels).latent_dist
        mean = posterior.mean.float()
        log_variance = posterior.logvar.float().clamp(*LOG_VARIANCE_RANGE)
        latents = mean + torch.randn_like(mean) * (log_variance / 2).exp()
        kl = (mean.square() + log_variance.exp() - 1 - log_variance).mean() / 2
        return self.vae.decode(latents).sample, kl


@torch.no_grad()
def scale_latents(vae: Any, deviation: float) -> None:
    """Fold a factor into the two 1x1 convolutions so that latents spread by 1 / scaling factor.

    `deviation` is the spread of the latents now; what the autoencoder computes stays the same.
    """
    factor = 1 / (vae.config.scaling_factor * deviation)
    mean, log_variance = vae.quant_conv.weight.chunk(2), vae.quant_conv.bias.chunk(2)
    mean[0].mul_(factor)
    log_variance[0].mul_(factor)
    log_variance[1].add_(2 * math.log(factor))
    vae.post_quant_conv.weight.div_(factor)


def psnr(made: torch.Tensor, pixels: torch.Tensor) -> float:
    """Return the peak signal-to-noise ratio in dB of pictures in -1..1."""
    return -10 * math.log10(float(((made.clamp(-1, 1) - pixels) / 2).square().mean()))


def build_vae(config: Mapping[str, Any]) -> Any:
    """Build diffusers' AutoencoderKL from its config file's values."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    return AutoencoderKL.from_config(dict(config))
