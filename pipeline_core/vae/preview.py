"""A cheap look at latents: a least-squares linear map from four channels to RGB, no network.

Factors for SD 1.x latents as published in InvokeAI (`v1_5_latent_rgb_factors`, by torridgristle),
method: discuss.huggingface.co/t/decoding-latents-to-rgb-without-upscaling/23204.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image

from ..models.configs import SCALING_FACTOR

# One row a latent channel (UNet space, that is times the scaling factor); columns R, G, B in -1..1.
SD_RGB_FACTORS = (
    (0.3444, 0.1385, 0.0670),
    (0.1247, 0.4027, 0.1494),
    (-0.3192, 0.2513, 0.2103),
    (-0.1307, -0.1874, -0.7445),
)


def preview(
    latents: torch.Tensor,
    *,
    scaling_factor: float = SCALING_FACTOR,
    factors: Sequence[Sequence[float]] = SD_RGB_FACTORS,
) -> list[Image.Image]:
    """Return one RGB picture of w x h pixels for each of the latents [B, 4, h, w] in VAE space."""
    samples = latents.detach().float() * scaling_factor
    table = torch.tensor(factors, device=samples.device)
    rgb = torch.einsum("bchw,cr->bhwr", samples, table) / 2 + 0.5
    array = torch.nan_to_num(rgb * 255.0).clamp(0.0, 255.0).round().to(torch.uint8).cpu().numpy()
    return [Image.fromarray(row) for row in array]
