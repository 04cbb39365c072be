"""Noise from CPU generators, so that a seed means the same picture on every device.

`per-image`: one generator an image, so image i of a batch equals the image alone.
`batch`: ComfyUI's `prepare_noise`, one generator and one draw of the whole batch.
`flagai`: one stream that goes on from iteration to iteration and through every step.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch

from ..values import NoiseConvention

Generators = list[torch.Generator] | torch.Generator
Shape = tuple[int, int, int, int]  # B, 4, h, w

LATENT_CHANNELS = 4
LATENT_FACTOR = 8  # pixels of one latent, each way


def make_generators(seeds: Sequence[int], convention: NoiseConvention) -> Generators:
    """Return one CPU generator an image, or the one that draws whole batches."""
    if convention == "per-image":
        return [torch.Generator("cpu").manual_seed(_spread(seed)) for seed in seeds]
    return torch.Generator("cpu").manual_seed(seeds[0])


def _spread(seed: int) -> int:
    """Fold 64 bits into the 32 that torch's CPU generator looks at (it drops the upper half, so
    0 and 2**32 would be one picture). Seeds below 2**32 stay as they are."""
    if seed < 2**32:
        return seed
    digest = hashlib.blake2b(seed.to_bytes(8, "little"), digest_size=4).digest()
    return int.from_bytes(digest, "little")


def draw_noise(generators: Generators, shape: Sequence[int]) -> torch.Tensor:
    """Draw float32 noise of a batch shape [B, 4, h, w] on the CPU."""
    if isinstance(generators, torch.Generator):
        return torch.randn(tuple(shape), generator=generators, device="cpu")
    rows = [torch.randn((1, *shape[1:]), generator=one, device="cpu") for one in generators]
    return torch.cat(rows)


def latent_shape(count: int, width: int, height: int) -> Shape:
    """Return [B, 4, H/8, W/8]."""
    return (count, LATENT_CHANNELS, height // LATENT_FACTOR, width // LATENT_FACTOR)


def make_noise(
    seeds: Sequence[int], width: int, height: int, convention: NoiseConvention = "per-image"
) -> torch.Tensor:
    """Return the start noise [B, 4, H/8, W/8], float32 on the CPU; one seed an image."""
    return draw_noise(make_generators(seeds, convention), latent_shape(len(seeds), width, height))
