"""Where latents start, what a mask keeps, and how they come out; all changes of space are here.

VAE space is what goes in and out; model space is that times the scaling factor. Inside a run the
latents are x0 + sigma * noise, or for samplers of constant variance that over sqrt(1 + sigma^2).
"""

from __future__ import annotations

import torch

from ..errors import InvalidRequest
from ..values import Latents
from .noise import Shape
from .options import SamplingOptions
from .plan import Plan


class Canvas:
    """The tensors of one run, float32 on one device."""

    def __init__(
        self,
        plan: Plan,
        scaling_factor: float,
        noise: torch.Tensor,
        init: Latents | None = None,
        mask: torch.Tensor | None = None,
    ) -> None:
        """Take start noise [B, 4, h, w], and init and mask of the same or one row."""

        def place(tensor: torch.Tensor) -> torch.Tensor:
            return tensor.to(noise.device, torch.float32).expand(noise.shape)

        self.plan = plan
        self.scaling_factor = scaling_factor
        self.noise = noise
        self.init = None if init is None else place(init.samples)
        self.mask = None if mask is None else place(mask)

    def start(self) -> torch.Tensor:
        """Return the latents of the first step: pure noise, or the init latents under noise."""
        if self.init is None:
            return self.noise * self.plan.pure_noise_scale
        return self._init_under_noise(self.init, self.plan.start_sigma)

    def keep(self, latents: torch.Tensor, sigma: float) -> torch.Tensor:
        """Put the init latents, at this noise level, where the mask is 0."""
        if self.init is None or self.mask is None:
            return latents
        return self.mask * latents + (1 - self.mask) * self._init_under_noise(self.init, sigma)

    def finish(self, latents: torch.Tensor) -> torch.Tensor:
        """Return the result in VAE space, with the noise that is left on purpose."""
        return self._leave(latents, self.plan.end_sigma)

    def show(self, clean: torch.Tensor) -> torch.Tensor:
        """Return an estimate of the clean latents in VAE space."""
        return self._leave(clean, 0.0)

    def _leave(self, latents: torch.Tensor, sigma: float) -> torch.Tensor:
        """Turn latents of noise level sigma into VAE space, as x0 + sigma * noise."""
        if not self.plan.spec.variance_exploding:
            latents = latents * (1 + sigma**2) ** 0.5
        latents = latents / self.scaling_factor
        if self.init is None or self.mask is None:
            return latents
        kept = self.init + self.noise * (sigma / self.scaling_factor)
        return self.mask * latents + (1 - self.mask) * kept

    def _init_under_noise(self, init: torch.Tensor, sigma: float) -> torch.Tensor:
        noisy = init * self.scaling_factor + sigma * self.noise
        return noisy if self.plan.spec.variance_exploding else noisy * (1 + sigma**2) ** -0.5


def check_inputs(
    options: SamplingOptions,
    shape: Shape,
    init: Latents | None,
    mask: torch.Tensor | None,
    noise: torch.Tensor | None,
) -> None:
    """Check the tensors of a run against its options.

    Raises:
        InvalidRequest: a shape does not fit, or an option needs a tensor that is not there.
    """
    count, channels, height, width = shape
    for name, tensor, depth, rows in (
        ("init latents", None if init is None else init.samples, channels, (1, count)),
        ("mask", mask, 1, (1, count)),
        ("noise", noise, channels, (count,)),
    ):
        if tensor is None:
            continue
        size = (depth, height, width)
        if tensor.ndim != 4 or tensor.shape[0] not in rows or tensor.shape[1:] != size:
            raise InvalidRequest(
                f"{name} of shape {list(tensor.shape)}; {count} images of "
                f"{options.width}x{options.height} need {[count, *size]}"
            )
    if mask is not None and not bool(((mask >= 0) & (mask <= 1)).all()):
        raise InvalidRequest("mask holds values outside 0..1; 1 is repainted, 0 is kept")
    if mask is not None and (init is None or not options.add_noise):
        raise InvalidRequest("a mask needs init latents without noise, and add_noise")
    if noise is not None and not options.add_noise:
        raise InvalidRequest("noise is given and add_noise is false; choose one")
    partial = options.strength < 1 or options.denoise < 1 or options.start_step > 0
    if init is None and (partial or not options.add_noise):
        raise InvalidRequest(
            "strength, denoise, start_step and add_noise=false go on from init latents; give some"
        )
