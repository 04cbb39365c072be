"""Samplers against diffusers: the same schedulers, and the same latents as its plain loop."""

from __future__ import annotations

import pytest
import torch
from multilingual_diffusion.pipeline_core.sampling import SAMPLERS, make_noise_scheduler
from sampling_cases import plain_loop, reference_scheduler, run, scheduler_files, small


def relative_error(ours: torch.Tensor, reference: torch.Tensor) -> float:
    return float((ours - reference).abs().max() / reference.abs().max())


def step_noise(sampler: str, seeds: tuple[int, ...]) -> dict:
    """Step noise of the reference: generators that have drawn the start noise already."""
    if not SAMPLERS[sampler].stochastic:
        return {}
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    for generator in generators:
        torch.randn(1, 4, 8, 8, generator=generator)
    return {"generator": generators}


@pytest.mark.parametrize("file", ["published", "re-saved"])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_scheduler_equals_diffusers_swap(sampler, file, tmp_path):
    config = scheduler_files()[file]
    ours = make_noise_scheduler(sampler, config, prediction_type="epsilon")
    reference = reference_scheduler(sampler, config, "epsilon", tmp_path)
    for steps in (2, 5, 25, 50):
        ours.set_timesteps(steps)
        reference.set_timesteps(steps)
        assert torch.equal(ours.timesteps, reference.timesteps)
        if SAMPLERS[sampler].accepts_sigmas:
            assert torch.equal(ours.sigmas, reference.sigmas)
        else:
            assert torch.equal(ours.alphas_cumprod, reference.alphas_cumprod)
            assert ours.final_alpha_cumprod == reference.final_alpha_cumprod


def test_the_two_files_differ_where_they_should():
    """The published file has no timestep_spacing: DPM spaces by its own default, not PNDM's."""
    first = {
        name: make_noise_scheduler("dpmpp_2m", file, prediction_type="epsilon")
        for name, file in scheduler_files().items()
    }
    for scheduler in first.values():
        scheduler.set_timesteps(10)
    assert first["published"].timesteps[0] == 999
    assert first["re-saved"].timesteps[0] == 901


@pytest.mark.parametrize("file", ["published", "re-saved"])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_latents_equal_plain_loop(sampler, file, tmp_path):
    config = scheduler_files()[file]
    scheduler = reference_scheduler(sampler, config, "epsilon", tmp_path)
    reference = plain_loop(scheduler, 5, (3, 4), **step_noise(sampler, (3, 4)))
    ours = run(small(sampler=sampler), scheduler_config=config)
    assert relative_error(ours, reference) <= 1e-4


@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if name != "plms"])
def test_latents_equal_plain_loop_v_prediction(sampler, tmp_path):
    config = scheduler_files()["published"]
    scheduler = reference_scheduler(sampler, config, "v_prediction", tmp_path)
    reference = plain_loop(scheduler, 5, (3, 4), **step_noise(sampler, (3, 4)))
    ours = run(small(sampler=sampler), prediction_type="v_prediction")
    assert relative_error(ours, reference) <= 1e-4
    as_epsilon = run(small(sampler=sampler))
    assert relative_error(as_epsilon, reference) > 1e-2  # the check has teeth


def test_plms_v_prediction_is_not_diffusers_combination_of_raw_v(tmp_path):
    """PNDM combines raw v outputs of several timesteps; test_sampling_exact.py shows ours right."""
    scheduler = reference_scheduler(
        "plms", scheduler_files()["published"], "v_prediction", tmp_path
    )
    ours = run(small(sampler="plms"), prediction_type="v_prediction")
    assert relative_error(ours, plain_loop(scheduler, 5, (3, 4))) > 1e-2


@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_ddim_eta_equals_plain_loop(eta, tmp_path):
    scheduler = reference_scheduler("ddim", scheduler_files()["published"], "epsilon", tmp_path)
    generators = [torch.Generator().manual_seed(seed) for seed in (3, 4)]
    for generator in generators:
        torch.randn(1, 4, 8, 8, generator=generator)
    reference = plain_loop(scheduler, 5, (3, 4), eta=eta, generator=generators)
    assert relative_error(run(small(eta=eta)), reference) <= 1e-4
