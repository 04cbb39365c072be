"""Options -> `Plan`: a diffusers scheduler with its noise levels set, and the calls to make.

Levels are read from the scheduler ("model"), or named by the options and written into it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..errors import InvalidRequest
from ..models.specs import PredictionType
from .levels import read_levels, write_levels
from .options import SamplingOptions, total_steps
from .samplers import SamplerSpec, find_sampler, make_noise_scheduler
from .schedules import (
    NoiseLevels,
    Table,
    explicit_levels,
    flagai_levels,
    make_levels,
    sigmas_from_alphas,
    timesteps_of,
)


@dataclass(frozen=True)
class Call:
    """One call of the network and of `scheduler.step`."""

    scheduler_timestep: torch.Tensor  # 0-d, a value of scheduler.timesteps
    timestep: float  # what the network is told
    sigma: float  # noise level of the latents that go in
    ends_step: bool  # False for the first of a step's two calls


@dataclass(frozen=True)
class Plan:
    """A run: `calls` in order on `scheduler`, which has state and serves one run."""

    scheduler: Any
    spec: SamplerSpec
    calls: tuple[Call, ...]
    pure_noise_scale: float  # start noise times this, where no init latents are given
    end_sigma: float  # noise level that is left on purpose, 0 if none

    @property
    def start_sigma(self) -> float:
        """Noise level the run starts from."""
        return self.calls[0].sigma

    @property
    def steps(self) -> int:
        """Steps that run."""
        return sum(call.ends_step for call in self.calls)


def make_plan(
    options: SamplingOptions, scheduler_config: Mapping[str, Any], prediction_type: PredictionType
) -> Plan:
    """Build the scheduler and list the calls.

    Raises:
        InvalidRequest: the options do not fit the model's schedule.
    """
    spec = find_sampler(options.sampler)
    scheduler = make_noise_scheduler(
        options.sampler, scheduler_config, prediction_type=prediction_type
    )
    table = sigmas_from_alphas(scheduler.alphas_cumprod.double().cpu().numpy())
    levels = _named_levels(options, table)
    written = levels is not None
    if levels is None:
        scheduler.set_timesteps(total_steps(options))
        levels = read_levels(scheduler, spec)
        _check_falling(options, levels, spec)
    pure_noise_scale = float(scheduler.init_noise_sigma)
    if written and spec.variance_exploding:
        pure_noise_scale = (levels.sigmas[0] ** 2 + 1) ** 0.5
    start, end = _window(options, levels.steps)
    # What the schedule itself leaves at its end (DDIM: timestep 0) is no leftover.
    end_sigma = levels.sigmas[end] if options.sigmas or end < levels.steps else 0.0
    if end < levels.steps and not options.keep_leftover_noise:
        levels, end_sigma, written = levels.cut(end), 0.0, True
    if written:
        if spec.calls == "plms":
            _check_even(levels, table)
        scheduler = write_levels(
            levels, options.sampler, scheduler_config, prediction_type=prediction_type
        )
    calls = tuple(_calls(scheduler, spec, levels, start, end))
    return Plan(scheduler, spec, calls, pure_noise_scale, end_sigma)


def _named_levels(options: SamplingOptions, table: Table) -> NoiseLevels | None:
    """Return the levels the options name; None for the scheduler's own."""
    if options.sigmas is not None:
        return explicit_levels(options.sigmas, table)
    steps = total_steps(options)
    if steps >= len(table):
        raise InvalidRequest(f"{steps} steps are too many for a model with {len(table)} timesteps")
    if options.timestep_rule == "flagai":
        return flagai_levels(steps, table)
    if options.schedule == "model":
        return None
    return make_levels(options.schedule, steps, table)


def _check_falling(options: SamplingOptions, levels: NoiseLevels, spec: SamplerSpec) -> None:
    """Refuse a step of no length, which the next one divides by; the last one may have none."""
    if spec.accepts_sigmas and not bool((np.diff(levels.sigmas[:-1]) < 0).all()):
        raise InvalidRequest(
            f"{levels.steps} steps are too many for sampler {options.sampler!r} with this "
            "scheduler file: two steps would share a noise level; take fewer steps"
        )


def _check_even(levels: NoiseLevels, table: Table) -> None:
    """Refuse what the fixed weights of PLMS are not made for; only its last step may be short."""
    last = timesteps_of(np.array([levels.sigmas[-1]]), table)
    lengths = -np.diff([*levels.timesteps, *last])
    if levels.steps > 1 and (
        np.ptp(lengths[:-1]) > 1 + 1e-6 or lengths[-1] > lengths[:-1].max() + 1 + 1e-6
    ):
        raise InvalidRequest(
            "plms combines steps of one length and these levels lie at unequal timesteps; take "
            "'lms' or 'ddim'"
        )


def _window(options: SamplingOptions, steps: int) -> tuple[int, int]:
    """Return the steps that run, as start and end (exclusive)."""
    start, end = options.start_step, min(options.end_step or steps, steps)
    if options.denoise < 1:
        start = max(steps - options.steps, 0)
    elif options.strength < 1:
        start = steps - int(steps * options.strength)
    if start >= end:
        raise InvalidRequest(
            f"no step is left to run: {steps} steps with strength {options.strength:g}, "
            f"start_step {options.start_step} and end_step {options.end_step}"
        )
    return start, end


def _calls(
    scheduler: Any, spec: SamplerSpec, levels: NoiseLevels, start: int, end: int
) -> Iterator[Call]:
    """List the calls of steps `start`..`end` and set the scheduler to the first."""
    per_step = 2 if spec.calls == "heun" else 1
    own = scheduler.timesteps
    if spec.calls == "plms" and len(own) > 1:
        own = torch.cat([own[:1], own[2:]])
    if spec.accepts_sigmas:
        scheduler.set_begin_index(start * per_step)

    def call(step: int, index: int, ends_step: bool) -> Call:
        timestep = levels.timesteps[step]
        told = round(timestep) if spec.whole_timesteps else timestep
        return Call(own[index], told, levels.sigmas[step], ends_step)

    for step in range(start, end):
        twice = step + 1 < levels.steps and (
            spec.calls == "heun" or (spec.calls == "plms" and step == start)
        )
        yield call(step, step * per_step, not twice)
        if twice:
            yield call(step + 1, step * per_step + 1, True)
