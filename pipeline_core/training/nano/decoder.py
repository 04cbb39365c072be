"""Stage `decoder`: the VAE's decoder learns to draw what the UNet makes of latents.

A sampled latent is never quite one of the encoder's, and a small decoder turns the difference into
odd colours. So the latents of true pictures are noised a little, the UNet guesses them back under
guidance, and the decoder learns the true picture from the guess: noise-augmented decoding (Zheng
et al., arXiv 2510.11690) with the UNet's own errors. Encoder and UNet stay as they are,
so the latents that were learned keep their meaning.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from ..autoencoding import pixel_loss
from ..loop import Position
from ..losses import NoiseLevels
from ..world.drawing import draw
from .configs import SCHEDULER, VAE
from .scenes import WorldSource

TIMESTEPS = 250  # the noise goes up to here, of 1000
GUIDANCE = (1.0, 4.0)  # range of the guidance scale


class DecodingBatch(NamedTuple):
    """Pictures of one size, their latents, and what they show."""

    pixels: torch.Tensor  # (B, 3, H, W) in -1..1
    latents: torch.Tensor  # (B, 4, H / 8, W / 8), times the scaling factor
    states: torch.Tensor  # (B, T, D)


class Decoding(torch.nn.Module):
    """A VAE of which the decoder trains; takes latents in the UNet's space."""

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.vae = vae
        for part in (vae.encoder, vae.quant_conv):
            part.requires_grad_(False)

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        """Return pictures [B, 3, H, W], about -1..1, of latents [B, 4, H / 8, W / 8]."""
        return self.vae.decode(latents / VAE["scaling_factor"]).sample


class DecodingTask:
    """Draw true pictures from latents that the UNet guessed."""

    def __init__(
        self, vae: Any, unet: torch.nn.Module, source: WorldSource, *, absolute_weight: float
    ) -> None:
        self.network = Decoding(vae)
        self.unet = unet.train(False).requires_grad_(False)
        self.source, self.absolute_weight = source, absolute_weight
        self.levels = NoiseLevels(SCHEDULER)
        self.unconditional = source.states([""])

    def batch(self, position: Position, size: int) -> DecodingBatch:
        picked = self.source.pick(position, size)
        pixels = draw(picked.scenes, picked.rows, picked.size) * 2 - 1
        return DecodingBatch(pixels, picked.latents, self.source.states(picked.texts))

    def loss(self, network: torch.nn.Module, batch: DecodingBatch) -> dict[str, torch.Tensor]:
        device = next(network.parameters()).device
        self.unet.to(device)
        here = DecodingBatch(*(tensor.to(device) for tensor in batch))
        return pixel_loss(network(self.guess(here)), here.pixels, self.absolute_weight)

    @torch.no_grad()
    def guess(self, batch: DecodingBatch) -> torch.Tensor:
        """Return what the UNet takes the latents for, after one look at them under noise.

        The batch lies on the UNet's device; the random numbers are the CPU's, as everywhere.
        """
        count, device = len(batch.latents), batch.latents.device
        timesteps = torch.randint(TIMESTEPS, (count,)).to(device)
        alpha, sigma = self.levels.alpha_sigma(timesteps)
        noised = alpha * batch.latents + sigma * torch.randn(batch.latents.shape).to(device)
        empty = self.unconditional.to(device).expand(count, -1, -1)
        output = self.unet(
            torch.cat([noised, noised]),
            torch.cat([timesteps, timesteps]),
            torch.cat([empty, batch.states]),
            return_dict=False,
        )[0]
        without, within = output.chunk(2)
        low, high = GUIDANCE
        scale = low + (high - low) * torch.rand(count, 1, 1, 1).to(device)
        return (noised - sigma * (without + scale * (within - without))) / alpha
