"""Latents to images and back, one image at a time, around a diffusers AutoencoderKL.

An image is the same alone and in a batch, bit for bit. Memory that runs out means smaller tiles,
a result that is not finite means one retry in float32; both are said in the warnings.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch

from ..errors import InvalidRequest, NonFiniteResult, PipelineError
from ..values import Images, Latents
from .tiled_network import decode_tiled, encode_tiled
from .tiles import TileCallback

TILE = 64  # latent pixels a side: 512 pixels
_SMALLER_TILES = (64, 32, 16)  # tried in turn when memory runs out

_logger = logging.getLogger("multilingual_diffusion")


class VAE:
    """Decode latents and encode pixels with a loaded network, which is never changed.

    Args:
        network: an AutoencoderKL.
        tile: side of a tile in latent pixels.
    """

    def __init__(self, network: Any, *, tile: int = TILE) -> None:
        if tile < 16:
            raise InvalidRequest(f"tile is {tile}; a tile needs at least 16 latent pixels a side")
        self.network = network
        self.tile = tile
        self.scaling_factor: float = network.config.scaling_factor
        self.channels: int = network.config.latent_channels
        self.factor: int = 2 ** (len(network.config.block_out_channels) - 1)

    @torch.no_grad()
    def decode(
        self, latents: Latents, *, tiling: bool = False, on_tile: TileCallback | None = None
    ) -> Images:
        """Return the images of latents [B, C, h, w] in VAE space (no scaling happens here).

        `on_tile(done, total)` is called after each tile of an image, once an image without tiles.

        Raises:
            NonFiniteResult: NaN or infinity in the latents, or in a float32 result.
            PipelineError: not even small tiles fit in memory.
        """
        samples = latents.samples
        if samples.ndim != 4 or samples.shape[1] != self.channels or not samples.numel():
            raise InvalidRequest(
                f"latents have shape {tuple(samples.shape)}; this VAE decodes "
                f"[B, {self.channels}, height/{self.factor}, width/{self.factor}]"
            )
        _check_finite(samples, "latents", "the UNet's result is broken")
        job = _Job(self, _decode, decode_tiled, tiling, on_tile)
        pixels = torch.cat([job.run(sample) for sample in samples.split(1)])
        return Images((pixels / 2 + 0.5).clamp(0.0, 1.0), tuple(job.warnings))

    @torch.no_grad()
    def encode(
        self,
        pixels: torch.Tensor,
        *,
        seeds: Sequence[int] | None = None,
        tiling: bool = False,
        on_tile: TileCallback | None = None,
    ) -> Latents:
        """Return the latents of pixels [B, 3, H, W] in 0..1: the mean, or a sample by `seeds`.

        Sampling draws from one CPU generator an image, so a seed gives the same latents on every
        device. Latents are float32 on the CPU, in VAE space.

        Raises:
            InvalidRequest: sides are no multiples of the VAE's factor, or the seeds do not fit.
            NonFiniteResult: NaN or infinity in the pixels, or in a float32 result.
        """
        self._check_pixels(pixels, seeds)
        job = _Job(self, _encode, encode_tiled, tiling, on_tile)
        moments = torch.cat([job.run(image * 2 - 1) for image in pixels.split(1)])
        for warning in job.warnings:
            _logger.warning("%s", warning)
        mean, log_variance = moments.chunk(2, dim=1)
        if seeds is None:
            return Latents(mean)
        deviation = torch.exp(0.5 * log_variance.clamp(-30.0, 20.0))
        return Latents(mean + deviation * _noise(seeds, mean.shape[1:]))

    def _check_pixels(self, pixels: torch.Tensor, seeds: Sequence[int] | None) -> None:
        shape = tuple(pixels.shape)
        if pixels.ndim != 4 or shape[1] != 3 or not pixels.numel():
            raise InvalidRequest(f"pixels have shape {shape}; the VAE encodes [B, 3, H, W]")
        if shape[2] % self.factor or shape[3] % self.factor:
            raise InvalidRequest(
                f"the image is {shape[3]}x{shape[2]}; both sides must be multiples of {self.factor}"
            )
        if seeds is not None and len(seeds) != shape[0]:
            raise InvalidRequest(f"{len(seeds)} seeds for {shape[0]} images; give one each")
        _check_finite(pixels, "pixels", "the image is broken")


class _Job:
    """One call's worth of work: remembers what helped, so that later images start there."""

    def __init__(
        self,
        vae: VAE,
        whole: Callable[[Any, torch.Tensor], torch.Tensor],
        tiled: Callable[[Any, torch.Tensor, int, TileCallback | None], torch.Tensor],
        tiling: bool,
        on_tile: TileCallback | None,
    ) -> None:
        self.network = vae.network
        self.whole = whole
        self.tiled = tiled
        self.on_tile = on_tile
        self.tile: int | None = vae.tile if tiling else None
        self.warnings: list[str] = []

    def run(self, values: torch.Tensor) -> torch.Tensor:
        """Return the result for one image, float32 on the CPU."""
        result = self._run_in_memory(values)
        if not torch.isfinite(result).all() and _dtype(self.network) != torch.float32:
            self.warnings.append(
                f"the VAE gave NaN or infinity in {_dtype(self.network)}; done again in float32"
            )
            self.network = copy.deepcopy(self.network).float()
            result = self._run_in_memory(values)
        _check_finite(result, "the VAE's result", "its weights or its input are broken")
        return result

    def _run_in_memory(self, values: torch.Tensor) -> torch.Tensor:
        """Run with the present tiles, with smaller ones while memory runs out."""
        smaller = [tile for tile in _SMALLER_TILES if self.tile is None or tile < self.tile]
        while True:
            try:
                return self._run_once(values)
            except RuntimeError as error:
                if not _out_of_memory(error):
                    raise
                if not smaller:
                    raise PipelineError(
                        f"the VAE does not fit in memory, even in tiles of {self.tile} latent "
                        "pixels; free memory or ask for a smaller image"
                    ) from error
            self.tile = smaller.pop(0)
            self.warnings.append(
                f"the VAE ran out of memory; done again in tiles of {self.tile} latent pixels"
            )

    def _run_once(self, values: torch.Tensor) -> torch.Tensor:
        weight = next(self.network.parameters())
        values = values.to(weight.device, weight.dtype)
        if self.tile is not None:
            return self.tiled(self.network, values, self.tile, self.on_tile).float().cpu()
        result = self.whole(self.network, values).float().cpu()
        if self.on_tile:
            self.on_tile(1, 1)
        return result


def _decode(network: Any, samples: torch.Tensor) -> torch.Tensor:
    return network.decode(samples, return_dict=False)[0]


def _encode(network: Any, pixels: torch.Tensor) -> torch.Tensor:
    """Return mean and log variance together, [1, 2C, h, w]."""
    return network.encode(pixels, return_dict=False)[0].parameters


def _noise(seeds: Sequence[int], shape: torch.Size) -> torch.Tensor:
    rows = [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.stack(rows)


def _dtype(network: Any) -> torch.dtype:
    return next(network.parameters()).dtype


def _check_finite(values: torch.Tensor, what: str, why: str) -> None:
    if not torch.isfinite(values).all():
        raise NonFiniteResult(f"{what}: NaN or infinity; {why}")


def _out_of_memory(error: RuntimeError) -> bool:
    # torch has its own class for accelerators only; on the CPU it is a plain RuntimeError
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
