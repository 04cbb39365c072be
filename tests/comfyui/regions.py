"""A script for ComfyUI's process: random conditioning through its averaging and ours.

ComfyUI is only called; nothing of it is copied here.
"""

from __future__ import annotations

import math
import random
from typing import Any

import comfy.conds
import comfy.model_sampling
import comfy.samplers
import numpy as np
import torch
from multilingual_diffusion.nodes.conversions import from_comfy_conditioning
from multilingual_diffusion.pipeline_core.sampling.prediction import to_clean
from multilingual_diffusion.pipeline_core.sampling.regional import RegionalDenoiser
from multilingual_diffusion.pipeline_core.sampling.schedules import sigmas_from_alphas

TABLE = sigmas_from_alphas(np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2))
SIZE, SCALE = (16, 24), 7.5


class Formula:
    """A denoiser whose output depends on the crop it sees and on the prompt."""

    device = torch.device("cpu")

    def __call__(self, latents, timestep, embeddings):
        level = embeddings.mean(dim=(1, 2))[:, None, None, None]
        return torch.tanh(latents * 0.3 + level) + latents.mean(dim=(2, 3), keepdim=True)


class Model:
    """What ComfyUI's averaging asks of a model and of its patcher."""

    sampling_settings: dict[str, Any] = {}

    def __init__(self) -> None:
        self.model_sampling = comfy.model_sampling.ModelSamplingDiscrete(self)
        self.current_patcher = self

    def prepare_state(self, *args) -> None:
        pass

    def get_free_memory(self, device) -> float:
        return 1e12

    def apply_hooks(self, hooks=None) -> dict:
        return {}

    def memory_required(self, *args, **kwargs) -> float:
        return 0.0

    def apply_model(self, latents, timestep, c_crossattn=None, **kwargs):
        sigma = float(timestep[0])
        seen = latents / math.sqrt(1 + sigma**2)
        return latents - sigma * Formula()(seen, None, c_crossattn)


def theirs(sides, latents: torch.Tensor, sigma: float) -> torch.Tensor:
    model, steps = Model(), comfy.samplers
    lists = [
        [
            {**more, "model_conds": {"c_crossattn": comfy.conds.CONDCrossAttn(tensor)}, "uuid": 0}
            for tensor, more in side
        ]
        for side in sides
    ]
    for side in lists:
        steps.resolve_areas_and_cond_masks_multidim(side, latents.shape[2:], latents.device)
        steps.calculate_start_end_timesteps(model, side)
    for own, other in (lists, lists[::-1]):
        for each in own:
            steps.create_cond_with_same_area_if_none(other, each)
    level = torch.full((latents.shape[0],), sigma)
    positive, negative = steps.calc_cond_batch(model, lists, latents, level, {})
    return negative + SCALE * (positive - negative)


def ours(sides, latents: torch.Tensor, sigma: float) -> torch.Tensor:
    denoiser = RegionalDenoiser(
        Formula(),
        *from_comfy_conditioning(*sides, latents.shape[0]),
        scale=SCALE,
        size=SIZE,
        sigmas={500.0: sigma},
        table=TABLE,
        prediction_type="epsilon",
    )
    seen = latents / math.sqrt(1 + sigma**2)
    output = denoiser(seen, torch.tensor(500.0), torch.empty(0))
    return to_clean(output, seen, sigma, "epsilon")


def entry(draw: random.Random, count: int) -> list[Any]:
    """Return one entry of a CONDITIONING: anywhere, an area, a share, or a mask."""
    more: dict[str, Any] = {}
    kind, (height, width) = draw.random(), SIZE
    top, left = draw.randrange(height), draw.randrange(width)
    if kind < 0.3:
        more["area"] = (
            draw.randint(1, height - top), draw.randint(1, width - left), top, left
        )  # fmt: skip
    elif kind < 0.45:
        y, x = draw.random() * 0.8, draw.random() * 0.8
        sides = ((1 - y) * draw.random() * 0.9 + 0.05, (1 - x) * draw.random() * 0.9 + 0.05)
        more["area"] = ("percentage", *sides, y, x)
    elif kind < 0.75:
        factor = draw.choice([1, 8])
        mask = torch.zeros(draw.choice([1, count]), height * factor, width * factor)
        mask[:, top * factor :, left * factor : (left + 9) * factor] = draw.random()
        more |= {"mask": mask, "mask_strength": draw.random() * 2}
        more["set_area_to_bounds"] = draw.random() < 0.5
    if draw.random() < 0.4:
        more["strength"] = draw.random() * 2 + 0.1
    if draw.random() < 0.3:
        start = draw.random() * 0.8
        more |= {"start_percent": start, "end_percent": min(1.0, start + draw.random())}
    return [torch.randn(draw.choice([1, count]), draw.choice([5, 7]), 8), more]


def main(count: str) -> float:
    """Compare so many cases; return the largest difference, as a share of the largest value."""
    worst = 0.0
    for trial in range(int(count)):
        torch.manual_seed(trial)
        draw = random.Random(trial)
        images = draw.choice([1, 2, 4])
        sides = [[entry(draw, images) for _ in range(draw.randint(1, 3))] for _ in range(2)]
        latents = torch.randn(images, 4, *SIZE) * 3
        sigma = math.exp(draw.uniform(math.log(0.05), math.log(14)))
        wanted, found = (average(sides, latents, sigma) for average in (theirs, ours))
        scale = max(float(wanted.abs().max()), float(latents.abs().max()))
        worst = max(worst, float((found - wanted).abs().max()) / scale)
    return worst
