"""DreamBooth (arXiv 2208.12242): teach a UNet one subject from a few pictures.

Prior preservation done right: every batch holds instance and class pictures, each with a caption of
its own, and both reach the loss. (The published example drops the class pictures: models.md 7.4.)
"""

from __future__ import annotations

import torch

from ..errors import InvalidRequest
from .denoising import DenoisingBatch, LatentSource
from .loop import Position


class DreamBoothSource:
    """Half of each batch from the subject's pictures, half from pictures of its class."""

    def __init__(
        self, instance: LatentSource, prior: LatentSource | None, *, prior_weight: float = 1.0
    ) -> None:
        """`prior` None trains on the subject alone; `prior_weight` weighs the class pictures.

        Raises:
            InvalidRequest: the weight is negative.
        """
        if prior_weight < 0:
            raise InvalidRequest(f"prior_weight is {prior_weight}; it must be 0 or more")
        self.instance, self.prior, self.prior_weight = instance, prior, prior_weight

    def batch(self, position: Position, size: int) -> DenoisingBatch:
        """Return instance rows, then as many class rows.

        Raises:
            InvalidRequest: instance and class pictures are not of one size.
        """
        if self.prior is None:
            return self.instance.batch(position, size)
        own = self.instance.batch(position, max(1, size // 2))
        prior = self.prior.batch(position, len(own.latents))
        if own.latents.shape[1:] != prior.latents.shape[1:]:
            raise InvalidRequest(
                f"instance latents are {tuple(own.latents.shape[1:])}, class latents "
                f"{tuple(prior.latents.shape[1:])}; cache both with one bucket"
            )
        weights = torch.cat(
            [torch.ones(len(own.latents)), torch.full((len(prior.latents),), self.prior_weight)]
        )
        return DenoisingBatch(
            torch.cat([own.latents, prior.latents]), torch.cat([own.states, prior.states]), weights
        )
