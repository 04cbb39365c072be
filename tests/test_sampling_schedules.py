"""Noise levels: the host's schedules, explicit sigmas on every sampler, FlagAI's table."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from multilingual_diffusion.pipeline_core.errors import InvalidRequest, UnknownName
from multilingual_diffusion.pipeline_core.sampling import SAMPLERS, make_levels
from multilingual_diffusion.pipeline_core.sampling.plan import make_plan
from multilingual_diffusion.pipeline_core.sampling.schedules import (
    explicit_levels,
    flagai_levels,
    sigmas_of,
    timesteps_of,
)
from sampling_cases import plain_loop, reference_scheduler, run, scheduler_files, small


def training_sigmas() -> np.ndarray:
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    alphas = np.cumprod(1 - betas)
    return ((1 - alphas) / alphas) ** 0.5


TABLE = training_sigmas()


def close(first: torch.Tensor, second: torch.Tensor, tolerance: float = 1e-4) -> bool:
    return bool((first - second).abs().max() <= tolerance * second.abs().max())


def test_table_is_the_published_one():
    """sigma_min and sigma_max of SD 1.x, as ComfyUI prints them."""
    assert TABLE[0] == pytest.approx(0.0292, abs=1e-4)
    assert TABLE[-1] == pytest.approx(14.6146, abs=1e-4)


@given(st.floats(0, 999))
def test_timesteps_and_sigmas_are_inverse(timestep):
    sigmas = sigmas_of(np.array([timestep]), TABLE)
    assert timesteps_of(sigmas, TABLE)[0] == pytest.approx(timestep, abs=1e-6)


def test_normal_is_even_in_timesteps():
    levels = make_levels("normal", 4, TABLE)
    assert levels.timesteps == pytest.approx((999, 666, 333, 0))
    assert levels.sigmas == pytest.approx((TABLE[999], TABLE[666], TABLE[333], TABLE[0], 0))


def test_simple_takes_table_entries_from_the_noisy_end():
    levels = make_levels("simple", 3, TABLE)
    assert levels.timesteps == (999, 666, 333)
    assert levels.sigmas == pytest.approx((TABLE[999], TABLE[666], TABLE[333], 0))


@pytest.mark.parametrize(
    ("steps", "made", "first"), [(50, 50, 981), (30, 31, 991), (999, 999, 999)]
)
def test_ddim_uniform_counts_from_timestep_one(steps, made, first):
    levels = make_levels("ddim_uniform", steps, TABLE)
    assert (levels.steps, levels.timesteps[0], levels.timesteps[-1]) == (made, first, 1)
    assert levels.sigmas[-1] == 0


def test_karras_is_even_in_the_seventh_root():
    sigmas = np.array(make_levels("karras", 10, TABLE).sigmas)
    assert (sigmas[0], sigmas[9]) == pytest.approx((TABLE[-1], TABLE[0]))
    steps = np.diff(sigmas[:-1] ** (1 / 7))
    assert steps == pytest.approx(np.full(9, steps[0]))


def test_unknown_schedule_names_the_nearest():
    with pytest.raises(UnknownName, match="did you mean 'karras'"):
        make_levels("karas", 10, TABLE)


@pytest.mark.parametrize("schedule", ["karras", "normal", "simple", "ddim_uniform"])
def test_given_sigmas_are_the_schedule(schedule):
    """A host that computes the sigmas itself gets what the name gets."""
    sigmas = make_levels(schedule, 5, TABLE).sigmas
    by_name = run(small(sampler="euler", schedule=schedule))
    by_value = run(small(sampler="euler", sigmas=sigmas))
    assert close(by_name, by_value)


def test_karras_schedule_is_the_karras_sampler():
    first = run(small(sampler="dpmpp_2m_karras"))
    for sampler in ("dpmpp_2m", "dpmpp_2m_karras"):
        assert close(first, run(small(sampler=sampler, schedule="karras")))
    assert not close(first, run(small(sampler="dpmpp_2m")))


def test_euler_equals_diffusers_own_way_to_take_sigmas(tmp_path):
    from diffusers import EulerDiscreteScheduler

    sigmas = [14.0, 6.0, 2.0, 0.5, 0.1, 0.0]

    class WithSigmas(EulerDiscreteScheduler):
        def set_timesteps(self, steps, **arguments):
            super().set_timesteps(sigmas=sigmas)

        @property
        def init_noise_sigma(self):
            return (sigmas[0] ** 2 + 1) ** 0.5

    reference = plain_loop(WithSigmas.from_config(tiny.SCHEDULER), 5, (3, 4))
    ours = run(small(sampler="euler", sigmas=tuple(sigmas)))
    assert close(ours, reference)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_own_levels_given_as_sigmas_change_nothing(sampler):
    """The two ways to set a schedule meet: the scheduler's own, and the same sigmas imposed."""
    file = scheduler_files()["re-saved"]
    plan = make_plan(small(sampler=sampler), file, "epsilon")
    alpha = getattr(plan.scheduler, "final_alpha_cumprod", None)
    last = 0.0 if alpha is None else float(((1 - alpha) / alpha) ** 0.5)
    sigmas = (*dict.fromkeys(call.sigma for call in plan.calls), last)
    own = run(small(sampler=sampler), scheduler_config=file)
    given = run(small(sampler=sampler, sigmas=sigmas), scheduler_config=file)
    # sigmas that end above 0 leave their noise, as x0 + sigma * noise
    assert close(own, given / (1 + last**2) ** 0.5, 1e-3)


def test_ddim_on_sigmas_is_euler_and_with_eta_one_ancestral():
    sigmas = (14.6, 7.0, 3.0, 1.2, 0.4, 0.0)
    for eta, partner in ((0.0, "euler"), (1.0, "euler_ancestral")):
        ddim = run(small(sampler="ddim", eta=eta, sigmas=sigmas))
        other = run(small(sampler=partner, sigmas=sigmas))
        assert close(ddim, other)


def test_plms_refuses_uneven_levels_before_the_network_runs():
    for changes in ({"schedule": "karras"}, {"sigmas": (14.0, 10.0, 1.0, 0.1, 0.0)}):
        with pytest.raises(InvalidRequest, match="plms combines steps of one length"):
            run(small(sampler="plms", **changes), denoiser=None)


@pytest.mark.parametrize(
    ("steps", "made", "first"), [(50, 50, 981), (30, 31, 991), (60, 63, 993), (7, 8, 995)]
)
def test_flagai_table(steps, made, first):
    levels = flagai_levels(steps, TABLE)
    stride = 1000 // steps
    assert levels.timesteps == tuple(range(first, 0, -stride))
    assert levels.steps == made
    assert levels.sigmas[:-1] == pytest.approx([TABLE[int(t)] for t in levels.timesteps])
    assert levels.sigmas[-1] == pytest.approx(TABLE[0])


@pytest.mark.parametrize("steps", [3, 9, 27, 37, 333, 600])
def test_flagai_table_that_does_not_exist(steps):
    with pytest.raises(InvalidRequest, match="would start at timestep 1000"):
        run(small(steps=steps, timestep_rule="flagai"), denoiser=None)


@pytest.mark.parametrize("sampler", ["ddim", "plms"])
def test_flagai_rule_equals_the_model_rule_where_steps_divide(sampler):
    model = run(small(sampler=sampler, steps=10))
    flagai = run(small(sampler=sampler, steps=10, timestep_rule="flagai"))
    assert close(model, flagai)


def test_explicit_levels_beyond_the_table_stay_at_its_ends():
    levels = explicit_levels((100.0, 1.0, 0.001, 0.0), TABLE)
    assert (levels.timesteps[0], levels.timesteps[2]) == (999, 0)


def test_short_training_tables_are_respected():
    file = {**tiny.SCHEDULER, "num_train_timesteps": 50}
    with pytest.raises(InvalidRequest, match="50 timesteps"):
        run(small(steps=50, schedule="normal"), scheduler_config=file, denoiser=None)


def test_steps_that_share_a_level_are_refused(tmp_path):
    """Re-saved files space from the noisy end with an offset: 999 steps clamp two to one level."""
    file = {**scheduler_files()["re-saved"], "num_train_timesteps": 500}
    scheduler = reference_scheduler("dpmpp_2m", file, "epsilon", tmp_path)
    scheduler.set_timesteps(499)
    assert scheduler.sigmas[0] == scheduler.sigmas[1]
    with pytest.raises(InvalidRequest, match="share a noise level"):
        run(small(sampler="dpmpp_2m", steps=499), scheduler_config=file, denoiser=None)
