"""Runs that start or end in the middle, masks, callbacks, sizes."""

from __future__ import annotations

import pytest
import tiny
import torch
from multilingual_diffusion.pipeline_core.errors import Cancelled, InvalidRequest
from multilingual_diffusion.pipeline_core.sampling import SAMPLERS, UNetDenoiser
from multilingual_diffusion.pipeline_core.values import Latents
from sampling_cases import (
    init_latents,
    network,
    plain_loop,
    reference_scheduler,
    run,
    scheduler_files,
    small,
)

# One step needs nothing but the latents, so a run can be cut anywhere without a change.
MEMORYLESS = ["ddim", "euler", "heun"]


def close(first: torch.Tensor, second: torch.Tensor, tolerance: float = 1e-4) -> bool:
    return bool((first - second).abs().max() <= tolerance * second.abs().max())


def step_noise(sampler: str) -> dict:
    if not SAMPLERS[sampler].stochastic:
        return {}
    generators = [torch.Generator().manual_seed(seed) for seed in (3, 4)]
    for generator in generators:
        torch.randn(1, 4, 8, 8, generator=generator)
    return {"generator": generators}


@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if name != "plms"])
def test_strength_is_diffusers_img2img(sampler, tmp_path):
    scheduler = reference_scheduler(sampler, scheduler_files()["published"], "epsilon", tmp_path)
    init = init_latents(2)
    reference = plain_loop(
        scheduler, 10, (3, 4), latents=init.samples, begin=4, **step_noise(sampler)
    )
    ours = run(small(sampler=sampler, steps=10, strength=0.65), init=init)
    assert close(ours, reference)


def test_plms_img2img_starts_its_own_multistep():
    """diffusers cuts PNDM's list after its doubled first entry and skips a step: not copied."""
    whole = run(small(sampler="plms", steps=10, strength=0.5), init=init_latents())
    ddim = run(small(sampler="ddim", steps=10, strength=0.5), init=init_latents())
    fine = run(small(sampler="ddim", steps=200, strength=0.5), init=init_latents())
    assert not close(whole, ddim, 1e-3)
    assert float((whole - fine).norm()) < 1.5 * float((ddim - fine).norm())


def test_strength_one_keeps_a_trace_and_little_strength_keeps_much():
    init = init_latents()
    whole = run(small(strength=1.0), init=init)
    assert not close(whole, run(small()), 1e-3)
    low = run(small(steps=20, strength=0.1), init=init)
    assert (low - init.samples).norm() < 0.5 * (whole - init.samples).norm()


@pytest.mark.parametrize("sampler", MEMORYLESS)
@pytest.mark.parametrize("file", ["published", "re-saved"])
def test_two_halves_are_one_run(sampler, file):
    config = {"scheduler_config": scheduler_files()[file]}
    whole = run(small(sampler=sampler), **config)
    first = run(small(sampler=sampler, end_step=2, keep_leftover_noise=True), **config)
    second = run(
        small(sampler=sampler, start_step=2, add_noise=False), init=Latents(first), **config
    )
    assert close(second, whole)


def test_leftover_noise_is_the_same_space_for_every_sampler():
    """x0 + sigma * noise: DDIM hands over to Euler as if Euler had run all along."""
    sigmas = (14.6, 7.0, 3.0, 1.2, 0.4, 0.0)
    whole = run(small(sampler="euler", sigmas=sigmas))
    first = run(small(sampler="ddim", sigmas=sigmas[:3]))
    second = run(small(sampler="euler", sigmas=sigmas[2:], add_noise=False), init=Latents(first))
    assert close(second, whole)


@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if name != "plms"])
def test_an_early_end_without_leftover_removes_the_noise(sampler):
    steps = []
    early = run(small(sampler=sampler, end_step=3), on_step=steps.append)
    assert len(steps) == 3
    if sampler not in ("unipc", "lms"):  # whose last step combines earlier outputs
        assert close(early, steps[-1].latents, 1e-3)
    noisy = run(small(sampler=sampler, end_step=3, keep_leftover_noise=True))
    assert not close(early, noisy, 1e-2)


def test_plms_does_not_jump_to_the_end():
    with pytest.raises(InvalidRequest, match="plms combines steps of one length"):
        run(small(sampler="plms", end_step=3), denoiser=None)
    run(small(sampler="plms", end_step=3, keep_leftover_noise=True))


@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if name != "dpmpp_2m_karras"])
def test_denoise_is_the_tail_of_a_longer_schedule(sampler):
    init = init_latents()
    tail = run(small(sampler=sampler, schedule="normal", steps=4, denoise=0.4), init=init)
    window = run(small(sampler=sampler, schedule="normal", steps=10, start_step=6), init=init)
    assert torch.equal(tail, window)


def test_mask_keeps_exactly_what_it_leaves_out():
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., :4] = 1
    init = init_latents()
    for sampler in SAMPLERS:
        found = run(small(sampler=sampler, strength=0.8), init=init, mask=mask)
        assert torch.equal(found[..., 4:], init.samples.expand(2, -1, -1, -1)[..., 4:])
        assert not close(found[..., :4], init.samples[..., :4], 1e-2)


def test_mask_of_ones_is_no_mask():
    init = init_latents()
    plain = run(small(strength=0.8), init=init)
    assert close(run(small(strength=0.8), init=init, mask=torch.ones(2, 1, 8, 8)), plain, 1e-6)


def test_soft_mask_mixes_and_the_kept_side_reaches_the_network():
    init = init_latents()
    half = run(small(), init=init, mask=torch.full((1, 1, 8, 8), 0.5))
    nothing = run(small(), init=init, mask=torch.zeros(1, 1, 8, 8))
    assert torch.equal(nothing, init.samples.expand(2, -1, -1, -1))
    assert not close(half, run(small(), init=init), 1e-2)


def test_inputs_are_not_changed():
    init, mask, noise = init_latents(), torch.ones(1, 1, 8, 8), torch.ones(2, 4, 8, 8)
    before = init.samples.clone()
    run(small(), init=init, mask=mask, noise=noise)
    assert torch.equal(init.samples, before)
    assert bool((mask == 1).all()) and bool((noise == 1).all())


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_callback_gets_every_step_and_the_clean_estimate(sampler, prediction_type):
    steps = []
    found = run(small(sampler=sampler), on_step=steps.append, prediction_type=prediction_type)
    assert [(step.index, step.total) for step in steps] == [(index, 5) for index in range(5)]
    assert all(step.latents.shape == (2, 4, 8, 8) for step in steps)
    if sampler in ("dpmpp_2m", "euler", "heun"):  # these end in the last estimate itself
        assert close(steps[-1].latents, found, 1e-3)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("at", [0, 2, 4])
def test_cancel_stops_within_the_step(sampler, at):
    calls = 0

    class Counting(UNetDenoiser):
        def __call__(self, *arguments):
            nonlocal calls
            calls += 1
            return super().__call__(*arguments)

    def cancel(step):
        if step.index == at:
            raise Cancelled("stopped")

    with pytest.raises(Cancelled, match="stopped"):
        run(small(sampler=sampler), on_step=cancel, denoiser=Counting(network()))
    extra = {"heun": min(at + 1, 4), "plms": 1}.get(sampler, 0)
    assert calls == at + 1 + extra


def test_a_cancelled_run_leaves_nothing_behind():
    first = run(small(sampler="plms"))

    def cancel(step):
        raise Cancelled("stopped")

    with pytest.raises(Cancelled):
        run(small(sampler="plms"), on_step=cancel)
    assert torch.equal(first, run(small(sampler="plms")))


@pytest.mark.parametrize(("width", "height"), [(64, 128), (128, 64), (72, 88), (8, 8)])
def test_any_multiple_of_eight_runs(width, height):
    """The full depth of down blocks, on sides that do not halve evenly."""
    denoiser = UNetDenoiser(tiny.unet())
    found = run(small(steps=2, width=width, height=height), denoiser=denoiser)
    assert found.shape == (2, 4, height // 8, width // 8)
    assert torch.isfinite(found).all()


def test_result_carries_no_gradient():
    denoiser = UNetDenoiser(tiny.unet().requires_grad_(True))
    assert not run(small(steps=2), denoiser=denoiser).requires_grad
