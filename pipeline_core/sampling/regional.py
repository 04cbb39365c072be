"""Sampling with several prompts a side: each predicts for itself where and when it speaks.

The clean estimates are averaged by weight, then guided, as ComfyUI does; rules in `regions.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from ..models.specs import PredictionType
from ..values import Conditioning, Latents
from .guidance import Denoiser
from .loop import sample
from .noise import latent_shape
from .options import SamplingOptions, check_options
from .plan import make_plan
from .regions import PlacedRegion, PromptRegion, place_regions
from .samplers import make_noise_scheduler
from .schedules import Table, sigmas_from_alphas


class RegionalDenoiser:
    """A `Denoiser` that does the guidance of many prompts itself; sample with guidance scale 1.

    Args:
        sigmas: timestep, as the loop tells it -> noise level.
        table: sigmas of the training timesteps, rising.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        positive: Sequence[PromptRegion],
        negative: Sequence[PromptRegion],
        *,
        scale: float,
        size: tuple[int, int],
        sigmas: Mapping[float, float],
        table: Table,
        prediction_type: PredictionType,
    ) -> None:
        """Place the regions in latents of `size`.

        Raises:
            InvalidRequest: see `place_regions`.
        """
        self.denoiser = denoiser
        self.positive, self.negative = place_regions(
            positive, negative, size=size, device=denoiser.device, table=table
        )
        self.scale = scale
        self.sigmas = sigmas
        self.prediction_type: PredictionType = prediction_type

    @property
    def device(self) -> torch.device:
        """Where the network lies."""
        return self.denoiser.device

    def __call__(
        self, latents: torch.Tensor, timestep: torch.Tensor, embeddings: torch.Tensor
    ) -> torch.Tensor:
        """Return the guided prediction; `embeddings` are not looked at."""
        sigma = self.sigmas[float(timestep)]
        conditional = self._predict(self.positive, latents, timestep, sigma)
        if self.scale == 1:
            return conditional
        unconditional = self._predict(self.negative, latents, timestep, sigma)
        return unconditional + self.scale * (conditional - unconditional)

    def _predict(
        self,
        regions: Sequence[PlacedRegion],
        latents: torch.Tensor,
        timestep: torch.Tensor,
        sigma: float,
    ) -> torch.Tensor:
        """Average what the regions predict; where none speaks, the clean estimate is 0."""
        total, weights = torch.zeros_like(latents), torch.zeros_like(latents)
        for region in regions:
            if not region.last_sigma <= sigma <= region.first_sigma:
                continue
            seen = region.crop(latents)
            embeddings = region.embeddings.expand(latents.shape[0], -1, -1)
            output = self.denoiser(seen, timestep, embeddings)
            region.crop(total).add_(output * region.weight)
            region.crop(weights).add_(region.weight)
        silent = _predict_nothing(latents, sigma, self.prediction_type)
        return torch.where(weights != 0, total / torch.where(weights != 0, weights, 1.0), silent)


def sample_regions(
    denoiser: Denoiser,
    positive: Sequence[PromptRegion],
    negative: Sequence[PromptRegion],
    options: SamplingOptions,
    *,
    scheduler_config: Mapping[str, Any],
    prediction_type: PredictionType,
    **inputs: Any,
) -> Latents:
    """Run `sample` for any number of prompts a side; `inputs` are its further arguments.

    One plain prompt a side, both of one length, takes exactly the path of `sample`.

    Raises:
        InvalidRequest: see `sample` and `place_regions`.
    """
    rules = {"scheduler_config": scheduler_config, "prediction_type": prediction_type}
    if _is_ordinary(positive, negative):
        own, other = Conditioning(positive[0].embeddings), Conditioning(negative[0].embeddings)
        return sample(denoiser, own, other, options, **rules, **inputs)
    check_options(options)
    plan = make_plan(options, scheduler_config, prediction_type)
    scheduler = make_noise_scheduler(
        options.sampler, scheduler_config, prediction_type=prediction_type
    )
    regional = RegionalDenoiser(
        denoiser,
        positive,
        negative,
        scale=options.guidance_scale,
        size=latent_shape(1, options.width, options.height)[2:],
        sigmas={float(np.float32(call.timestep)): call.sigma for call in plan.calls},
        table=sigmas_from_alphas(scheduler.alphas_cumprod.double().cpu().numpy()),
        prediction_type=prediction_type,
    )
    first = Conditioning(positive[0].embeddings)
    return sample(regional, first, None, replace(options, guidance_scale=1.0), **rules, **inputs)


def _is_ordinary(positive: Sequence[PromptRegion], negative: Sequence[PromptRegion]) -> bool:
    return (
        len(positive) == len(negative) == 1
        and positive[0].is_plain
        and negative[0].is_plain
        and positive[0].embeddings.shape[1:] == negative[0].embeddings.shape[1:]
    )


def _predict_nothing(
    latents: torch.Tensor, sigma: float, prediction_type: PredictionType
) -> torch.Tensor:
    """Return the prediction that means: the clean latents are 0 (see prediction.to_clean)."""
    factor = 1.0 if prediction_type == "v_prediction" else (1 + sigma**2) ** 0.5
    return latents * (factor / sigma)
