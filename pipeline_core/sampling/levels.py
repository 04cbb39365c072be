"""Noise levels out of a diffusers scheduler and into one.

Classes with a `sigmas` table are given one. DDIM and PNDM know integer timesteps of a table of
alphas: they are given a table that holds the alphas of the levels and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ..models.specs import PredictionType
from .samplers import SamplerSpec, find_sampler, make_noise_scheduler
from .schedules import NoiseLevels


def read_levels(scheduler: Any, spec: SamplerSpec) -> NoiseLevels:
    """Return the levels that `set_timesteps` chose, one entry a step."""
    timesteps = scheduler.timesteps.double()
    if spec.calls == "heun":  # t0, t1, t1, t2, t2 ...
        timesteps = timesteps[::2]
    elif spec.calls == "plms" and len(timesteps) > 1:  # t0, t1, t1, t2 ...
        timesteps = torch.cat([timesteps[:1], timesteps[2:]])
    if spec.accepts_sigmas:
        stride = 2 if spec.calls == "heun" else 1  # s0, s1, s1, s2, s2 ... 0
        starts, last = scheduler.sigmas[:-1:stride], scheduler.sigmas[-1]
    else:
        alphas = scheduler.alphas_cumprod[timesteps.long()]
        starts = ((1 - alphas) / alphas) ** 0.5
        last = ((1 - scheduler.final_alpha_cumprod) / scheduler.final_alpha_cumprod) ** 0.5
    return NoiseLevels(tuple(timesteps.tolist()), (*starts.tolist(), float(last)))


def write_levels(
    levels: NoiseLevels,
    sampler: str,
    scheduler_config: Mapping[str, Any],
    *,
    prediction_type: PredictionType,
) -> Any:
    """Return a scheduler that walks exactly these levels."""
    spec = find_sampler(sampler)
    overrides: Mapping[str, Any] = spec.open_end if levels.sigmas[-1] > 0 else {}
    if not spec.accepts_sigmas:
        overrides = {
            "num_train_timesteps": levels.steps,
            "trained_betas": None,
            "timestep_spacing": "leading",
            "steps_offset": 0,
        }
    scheduler = make_noise_scheduler(
        sampler, scheduler_config, prediction_type=prediction_type, **overrides
    )
    scheduler.set_timesteps(levels.steps)
    if spec.accepts_sigmas:
        _write_sigmas(scheduler, spec, levels)
    else:
        alphas = (1 / (1 + torch.tensor(levels.sigmas, dtype=torch.float64) ** 2)).float()
        scheduler.alphas_cumprod = alphas[:-1].flip(0)
        scheduler.final_alpha_cumprod = alphas[-1]
    return scheduler


def _write_sigmas(scheduler: Any, spec: SamplerSpec, levels: NoiseLevels) -> None:
    sigmas = torch.tensor(levels.sigmas, dtype=torch.float32)
    timesteps = torch.tensor(levels.timesteps, dtype=torch.float32)
    if spec.calls == "heun":
        sigmas = torch.cat([sigmas[:1], sigmas[1:-1].repeat_interleave(2), sigmas[-1:]])
        timesteps = torch.cat([timesteps[:1], timesteps[1:].repeat_interleave(2)])
    if spec.whole_timesteps:
        timesteps = timesteps.round().long()
    scheduler.sigmas, scheduler.timesteps = sigmas, timesteps
