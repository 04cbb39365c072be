"""Classifier-free guidance (Ho & Salimans, arXiv 2207.12598) around a denoiser.

e = u + s (c - u), negative before positive in the batch; scale 1 runs no second pass.
"""

from __future__ import annotations

import logging
from typing import Any, Protocol

import torch

from ..errors import InvalidRequest
from ..values import Conditioning, GuidanceBatching

logger = logging.getLogger("multilingual_diffusion")

# Activations of one UNet call for each latent position: an estimate on the generous side. Where it
# is too small, running out of memory falls back to two passes.
_BYTES_PER_POSITION = 128 * 2**10


class Denoiser(Protocol):
    """What predicts the noise (or v): a network, or a formula in a test."""

    @property
    def device(self) -> torch.device:
        """Where the loop keeps its latents."""
        ...

    def __call__(
        self, latents: torch.Tensor, timestep: torch.Tensor, embeddings: torch.Tensor
    ) -> torch.Tensor:
        """Map latents [N, 4, h, w], a 0-d timestep and embeddings [N, T, D] to [N, 4, h, w].

        Latents come and go in float32; the network's own dtype is the denoiser's business.
        """
        ...


class UNetDenoiser:
    """A diffusers UNet2DConditionModel as a `Denoiser`.

    Every position of the conditioning is attended, pads too: no attention mask is handed on.
    """

    def __init__(self, network: Any) -> None:
        self.network = network

    @property
    def device(self) -> torch.device:
        """Where the network lies."""
        return self.network.device

    def __call__(
        self, latents: torch.Tensor, timestep: torch.Tensor, embeddings: torch.Tensor
    ) -> torch.Tensor:
        """Run the network in its own dtype and return float32."""
        dtype = self.network.dtype
        output = self.network(
            latents.to(dtype),
            timestep,
            encoder_hidden_states=embeddings.to(dtype),
            return_dict=False,
        )[0]
        return output.to(torch.float32)


class Guidance:
    """A denoiser with its two sides; call it with latents [B, 4, h, w] and a 0-d timestep."""

    def __init__(
        self,
        denoiser: Denoiser,
        positive: Conditioning,
        negative: Conditioning | None,
        *,
        scale: float,
        count: int,
        batching: GuidanceBatching = "auto",
    ) -> None:
        """Prepare `count` images.

        Raises:
            InvalidRequest: the sides do not fit each other or the number of images.
        """
        self.denoiser = denoiser
        self.scale = scale
        self.batching: GuidanceBatching = batching
        self.positive = _embeddings("positive", positive, count, denoiser.device)
        self.negative = None
        if scale != 1:
            if negative is None:
                raise InvalidRequest(
                    f"guidance_scale {scale:g} needs negative conditioning; without it use 1"
                )
            self.negative = _embeddings("negative", negative, count, denoiser.device)
            _check_sides(self.positive, self.negative)

    def __call__(self, latents: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        """Return the guided prediction [B, 4, h, w], float32."""
        if self.negative is None:
            return self.denoiser(latents, timestep, self.positive)
        if self.batching == "auto":
            self.batching = "batched" if _two_fit(latents) else "two-pass"
        if self.batching == "batched":
            try:
                return self._batched(latents, timestep, self.negative)
            except torch.OutOfMemoryError:
                logger.warning("out of memory: guidance goes on in two passes instead of one")
                self.batching = "two-pass"
        return self._two_pass(latents, timestep, self.negative)

    def _batched(
        self, latents: torch.Tensor, timestep: torch.Tensor, negative: torch.Tensor
    ) -> torch.Tensor:
        sides = torch.cat([negative, self.positive])
        output = self.denoiser(torch.cat([latents, latents]), timestep, sides)
        return self._combine(*output.chunk(2))

    def _two_pass(
        self, latents: torch.Tensor, timestep: torch.Tensor, negative: torch.Tensor
    ) -> torch.Tensor:
        unconditional = self.denoiser(latents, timestep, negative)
        return self._combine(unconditional, self.denoiser(latents, timestep, self.positive))

    def _combine(self, unconditional: torch.Tensor, conditional: torch.Tensor) -> torch.Tensor:
        return unconditional + self.scale * (conditional - unconditional)


def _embeddings(
    side: str, conditioning: Conditioning, count: int, device: torch.device
) -> torch.Tensor:
    """Return [B, T, D] on the device; one row serves all images."""
    embeddings = conditioning.embeddings
    if embeddings.ndim != 3 or embeddings.shape[0] not in (1, count):
        raise InvalidRequest(
            f"the {side} conditioning has shape {list(embeddings.shape)}; {count} images need "
            f"[{count}, T, D] or [1, T, D]"
        )
    return embeddings.to(device).expand(count, -1, -1)


def _check_sides(positive: torch.Tensor, negative: torch.Tensor) -> None:
    if positive.shape != negative.shape:
        raise InvalidRequest(
            f"positive conditioning is {positive.shape[1]} tokens by {positive.shape[2]}, negative "
            f"{negative.shape[1]} by {negative.shape[2]}; encode both to one length"
        )


def _two_fit(latents: torch.Tensor) -> bool:
    """Say whether both sides of these latents go through the network at once."""
    if latents.device.type != "cuda":
        return True
    free, _ = torch.cuda.mem_get_info(latents.device)
    cached = torch.cuda.memory_reserved(latents.device) - torch.cuda.memory_allocated(
        latents.device
    )
    batch, _, height, width = latents.shape
    return 2 * batch * height * width * _BYTES_PER_POSITION <= free + cached
