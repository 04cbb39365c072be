"""Guidance, what predictions mean, and the denoiser around a UNet."""

from __future__ import annotations

import logging

import pytest
import torch
from multilingual_diffusion.pipeline_core.errors import NonFiniteResult
from multilingual_diffusion.pipeline_core.sampling import Guidance, UNetDenoiser
from multilingual_diffusion.pipeline_core.sampling.prediction import (
    FiniteWatch,
    to_clean,
    to_epsilon,
)
from multilingual_diffusion.pipeline_core.values import Conditioning
from sampling_cases import UNET, embeddings, network, run, small

POSITIVE, NEGATIVE = Conditioning(embeddings(2, 1)), Conditioning(embeddings(2, 50))
LATENTS = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
TIMESTEP = torch.tensor(500.0)


class Recorder(UNetDenoiser):
    """The real denoiser, keeping what it was asked."""

    def __init__(self, largest: int = 100) -> None:
        super().__init__(network())
        self.seen: list[torch.Tensor] = []
        self.largest = largest

    def __call__(self, latents, timestep, embeddings):
        self.seen.append(embeddings)
        if len(latents) > self.largest:
            raise torch.OutOfMemoryError("injected")
        return super().__call__(latents, timestep, embeddings)


@torch.no_grad()
def guide(denoiser, scale=7.5, batching="auto", negative=NEGATIVE) -> torch.Tensor:
    guidance = Guidance(denoiser, POSITIVE, negative, scale=scale, count=2, batching=batching)
    return guidance(LATENTS, TIMESTEP)


@torch.no_grad()
def test_formula_and_order():
    denoiser = Recorder()
    found = guide(denoiser, 3.0)
    assert torch.equal(denoiser.seen[0], torch.cat([NEGATIVE.embeddings, POSITIVE.embeddings]))
    unconditional = denoiser(LATENTS, TIMESTEP, NEGATIVE.embeddings)
    conditional = denoiser(LATENTS, TIMESTEP, POSITIVE.embeddings)
    expected = unconditional + 3.0 * (conditional - unconditional)
    assert torch.allclose(found, expected, atol=1e-4)


def test_scale_one_runs_no_second_pass():
    denoiser = Recorder()
    guide(denoiser, 1.0, negative=None)
    assert [list(seen.shape) for seen in denoiser.seen] == [[2, 7, 24]]


def test_two_passes_equal_one_batch():
    batched, apart = Recorder(), Recorder()
    first, second = guide(batched, batching="batched"), guide(apart, batching="two-pass")
    assert (len(batched.seen), len(apart.seen)) == (1, 2)
    assert float((first - second).abs().max()) <= 1e-4


def test_out_of_memory_falls_back_once_and_says_so(caplog):
    denoiser = Recorder(largest=2)
    with caplog.at_level(logging.WARNING, "multilingual_diffusion"):
        found = run(small(), denoiser=denoiser)
    assert [record.message for record in caplog.records] == [
        "out of memory: guidance goes on in two passes instead of one"
    ]
    assert len(denoiser.seen) == 1 + 2 * 5
    assert torch.allclose(found, run(small()), rtol=0, atol=1e-4 * float(found.abs().max()))


def test_out_of_memory_in_two_passes_is_the_callers():
    with pytest.raises(torch.OutOfMemoryError):
        run(small(), denoiser=Recorder(largest=1))


def test_one_row_serves_all_images():
    one = run(small(), positive=Conditioning(embeddings(1, 1)))
    two = run(small(), positive=Conditioning(embeddings(1, 1).repeat(2, 1, 1)))
    assert torch.equal(one, two)


def test_pads_are_attended():
    """No mask goes into the UNet: the Conditioning's own is for reports."""
    mask = torch.zeros(2, 7, dtype=torch.bool)
    masked = run(small(), positive=Conditioning(embeddings(2, 1), mask=mask))
    assert torch.equal(masked, run(small()))


def test_network_runs_in_its_dtype_and_latents_stay_float32():
    import tiny

    half = tiny.unet(UNET).to(torch.bfloat16)
    found = run(small(), denoiser=UNetDenoiser(half))
    assert found.dtype == torch.float32
    reference = run(small())
    error = float((found - reference).norm() / reference.norm())
    assert 1e-6 < error < 0.2


@pytest.mark.parametrize("sigma", [0.03, 1.0, 14.6])
def test_epsilon_and_v_say_the_same(sigma):
    generator = torch.Generator().manual_seed(1)
    clean, noise = (torch.randn(1, 4, 8, 8, generator=generator) for _ in range(2))
    scale = (1 + sigma**2) ** -0.5
    latents = scale * clean + scale * sigma * noise
    v = scale * noise - scale * sigma * clean
    assert torch.allclose(to_epsilon(v, latents, sigma), noise, atol=1e-5)
    assert torch.allclose(to_clean(v, latents, sigma, "v_prediction"), clean, atol=1e-4)
    assert torch.allclose(to_clean(noise, latents, sigma, "epsilon"), clean, atol=1e-4)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("at", [0, 2, 4])
def test_non_finite_output_names_its_step(value, at):
    class Poisoned(Recorder):
        def __call__(self, latents, timestep, embeddings):
            output = super().__call__(latents, timestep, embeddings)
            if len(self.seen) == at + 1:
                output[-1, 0, 0, 0] = value
            return output

    denoiser = Poisoned()
    with pytest.raises(NonFiniteResult, match=f"in step {at + 1};"):
        run(small(), denoiser=denoiser)
    assert len(denoiser.seen) == at + 1  # on the CPU it stops there


def test_watch_off_the_cpu_waits_for_the_end():
    """On other devices no step waits for its flag; the end names the first bad one."""
    watch = FiniteWatch()
    for step, value in enumerate((1.0, float("nan"), float("inf"))):
        watch.note(torch.tensor([value]), step)
    with pytest.raises(NonFiniteResult, match="in step 2;"):
        watch.check()
