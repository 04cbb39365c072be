"""Samplers on a problem with a known answer: Gaussian data, exact score, exact ODE solution.

Data N(mean, spread^2) under noise sigma has score (mean - x) / (spread^2 + sigma^2) in x0 + sigma
* noise, so the ODE moves x along (x - mean) / sqrt(spread^2 + sigma^2) = const.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import tiny
import torch
from multilingual_diffusion.pipeline_core.errors import InvalidRequest
from multilingual_diffusion.pipeline_core.sampling import (
    SAMPLERS,
    SCHEDULES,
    SamplingOptions,
    sample,
)
from multilingual_diffusion.pipeline_core.values import Conditioning

MEAN, SPREAD = 0.7, 0.4
FINE = 20_000  # timesteps: DPM-Solver++ rounds to whole ones, which must not hide the slope


def fine_file(**changes: object) -> dict:
    """The published noise schedule on a grid twenty times as fine."""
    betas = np.linspace(0.00085**0.5, 0.012**0.5, FINE) ** 2 * (1000 / FINE)
    return {
        **tiny.SCHEDULER,
        "num_train_timesteps": FINE,
        "trained_betas": betas.tolist(),
        **changes,
    }


class GaussianDenoiser:
    """The exact prediction for Gaussian data, as epsilon or v."""

    device = torch.device("cpu")

    def __init__(self, file: dict, prediction_type: str) -> None:
        from diffusers import DDIMScheduler

        alphas = DDIMScheduler.from_config(file).alphas_cumprod.double().numpy()
        self.log_sigmas = np.log((1 - alphas) / alphas) / 2
        self.prediction_type = prediction_type

    def sigma(self, timestep: float) -> float:
        return math.exp(np.interp(timestep, np.arange(len(self.log_sigmas)), self.log_sigmas))

    def __call__(self, latents, timestep, embeddings):
        sigma = self.sigma(float(timestep))
        scale = (1 + sigma**2) ** -0.5
        x = latents.double() / scale
        epsilon = sigma * (x - MEAN) / (SPREAD**2 + sigma**2)
        clean = x - sigma * epsilon
        v = scale * epsilon - scale * sigma * clean
        return (v if self.prediction_type == "v_prediction" else epsilon).float()


def solve(sampler: str, steps: int, prediction_type: str, file: dict, **changes) -> torch.Tensor:
    options = SamplingOptions(
        sampler=sampler,
        steps=steps,
        seeds=(1,),
        width=64,
        height=64,
        guidance_scale=1.0,
        **changes,
    )
    return sample(
        GaussianDenoiser(file, prediction_type),
        Conditioning(torch.zeros(1, 1, 1)),
        None,
        options,
        scheduler_config=file,
        prediction_type=prediction_type,
        scaling_factor=1.0,
    ).samples.double()


def exact(file: dict, start: float, end: float) -> torch.Tensor:
    """Move the start noise along the ODE between two sigmas, in the network's scale."""
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1)).double()
    x = noise * math.sqrt(1 + start**2)
    x = MEAN + (x - MEAN) * math.sqrt((SPREAD**2 + end**2) / (SPREAD**2 + start**2))
    return x / math.sqrt(1 + end**2)


def slope(steps: list[int], errors: list[float]) -> float:
    return -float(np.polyfit(np.log(steps), np.log(errors), 1)[0])


def mean_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).abs().mean())


KARRAS = ("model", "karras")  # what the karras sampler is told
PREDICTIONS = ["epsilon", "v_prediction"]


@pytest.mark.parametrize("prediction_type", PREDICTIONS)
def test_dpmpp_2m_is_second_order(prediction_type):
    file = fine_file(use_lu_lambdas=True, final_sigmas_type="sigma_min", lower_order_final=False)
    table = GaussianDenoiser(file, prediction_type)
    # uniform lambdas reach sigma_min one step before the end; the last step has no length
    expected = exact(file, table.sigma(FINE - 1), table.sigma(0))
    counts = [16, 32, 64]
    errors = [
        mean_error(solve("dpmpp_2m", steps, prediction_type, file), expected) for steps in counts
    ]
    assert slope(counts, errors) >= 1.8


def ddim_error(sampler: str, steps: int, end: int, prediction_type: str) -> float:
    """Error after `end` of `steps` steps at equal timestep distances."""
    file = fine_file(timestep_spacing="leading")
    table, distance = GaussianDenoiser(file, prediction_type), FINE // steps
    left = table.sigma((steps - 1 - end) * distance + 1) if end < steps else table.sigma(0)
    found = solve(sampler, steps, prediction_type, file, end_step=end, keep_leftover_noise=True)
    if end < steps:
        found = found / math.sqrt(1 + left**2)  # leftover noise comes out as x0 + sigma * noise
    return mean_error(found, exact(file, table.sigma((steps - 1) * distance + 1), left))


@pytest.mark.parametrize("prediction_type", PREDICTIONS)
def test_ddim_is_first_order(prediction_type):
    """Over the first three quarters: near timestep 0 sigma grows like a square root of it."""
    counts = [20, 40, 80]
    errors = [ddim_error("ddim", steps, steps * 3 // 4, prediction_type) for steps in counts]
    assert 0.9 <= slope(counts, errors) <= 1.2


@pytest.mark.parametrize("prediction_type", PREDICTIONS)
@pytest.mark.parametrize("steps", [10, 20, 50])
def test_plms_beats_ddim(steps, prediction_type):
    for end, factor in ((steps, 0.5), (steps * 3 // 4, 0.1)):
        plms, ddim = (ddim_error(name, steps, end, prediction_type) for name in ("plms", "ddim"))
        assert plms < factor * ddim


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_v_equals_epsilon(sampler):
    first = solve(sampler, 10, "epsilon", tiny.SCHEDULER)
    second = solve(sampler, 10, "v_prediction", tiny.SCHEDULER)
    # The karras sampler tells the network rounded timesteps, as diffusers does: there epsilon and v
    # of one network are no longer quite the same statement.
    tolerance = 1e-3 if sampler == "dpmpp_2m_karras" else 1e-5
    assert float((first - second).abs().max()) <= tolerance


def test_raw_v_in_pndm_is_wrong():
    """Shows what `needs_epsilon` is for: diffusers' own PNDM with v misses what ours hits."""
    from diffusers import PNDMScheduler

    file = tiny.SCHEDULER
    denoiser = GaussianDenoiser(file, "v_prediction")
    scheduler = PNDMScheduler.from_config(file, prediction_type="v_prediction")
    scheduler.set_timesteps(20)
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    for timestep in scheduler.timesteps:
        output = denoiser(latents, timestep, None)
        latents = scheduler.step(output, timestep, latents).prev_sample
    expected = exact(file, denoiser.sigma(951), denoiser.sigma(0))
    ours = mean_error(solve("plms", 20, "v_prediction", file), expected)
    assert ours < 0.5 * mean_error(latents.double(), expected)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_reaches_the_data_on_every_schedule(sampler, schedule):
    """100 steps give the data's mean and spread."""
    tied = SAMPLERS[sampler].options.get("use_karras_sigmas") and schedule not in KARRAS
    if tied or (sampler, schedule) == ("plms", "karras"):
        with pytest.raises(InvalidRequest):
            solve(sampler, 100, "epsilon", tiny.SCHEDULER, schedule=schedule)
        return
    found = solve(sampler, 100, "epsilon", tiny.SCHEDULER, schedule=schedule)
    assert float(found.mean()) == pytest.approx(MEAN, abs=0.06)
    assert float(found.std()) == pytest.approx(SPREAD, abs=0.06)
