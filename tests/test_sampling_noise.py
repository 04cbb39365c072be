"""Seeds: the same picture alone, in a batch, and again; other noise conventions."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import tiny
import torch
from multilingual_diffusion.pipeline_core.sampling import SAMPLERS, UNetDenoiser, make_noise
from multilingual_diffusion.pipeline_core.values import Conditioning
from sampling_cases import SCALING, embeddings, network, run, small

SEEDS = (0, 1, 2**32 - 1, 2**32, 2**63, 2**64 - 1)


def test_every_seed_differs():
    """torch's CPU generator drops the upper half of a seed, so 0 and 2**63 would be one."""
    noises = [make_noise([seed], 64, 64) for seed in SEEDS]
    for first, second in itertools.combinations(noises, 2):
        assert not torch.equal(first, second)
    plain = [torch.Generator().manual_seed(seed) for seed in (0, 2**63)]
    assert torch.equal(*(torch.randn(4, generator=generator) for generator in plain))


def test_small_seeds_are_torch_seeds():
    generator = torch.Generator().manual_seed(2**32 - 1)
    expected = torch.randn(1, 4, 8, 16, generator=generator)
    assert torch.equal(make_noise([2**32 - 1], 128, 64), expected)


def test_image_of_a_batch_has_the_noise_of_its_seed():
    batch = make_noise(SEEDS, 64, 64)
    for index, seed in enumerate(SEEDS):
        assert torch.equal(batch[index : index + 1], make_noise([seed], 64, 64))


def test_batch_convention_is_one_draw():
    expected = torch.randn(3, 4, 8, 8, generator=torch.manual_seed(2**40 + 5))
    assert torch.equal(make_noise([2**40 + 5, 1, 2], 64, 64, "batch"), expected)


@pytest.mark.parametrize("sampler", [*SAMPLERS, "ddim with eta"])
def test_image_of_a_batch_equals_it_alone(sampler):
    options = {"sampler": sampler.split()[0], "eta": 0.0 if sampler in SAMPLERS else 1.0}
    batch = run(small(**options, seeds=(5, 6, 7)))
    for index in range(3):
        alone = run(
            small(**options, seeds=(5 + index,)),
            positive=Conditioning(embeddings(1, 1 + index)),
            negative=Conditioning(embeddings(1, 50 + index)),
        )
        assert float((batch[index] - alone[0]).abs().max()) <= 1e-4 * float(batch.abs().max())


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_run_twice_is_bit_equal(sampler):
    assert torch.equal(run(small(sampler=sampler)), run(small(sampler=sampler)))


@pytest.mark.parametrize("noise", ["batch", "flagai"])
def test_stochastic_samplers_take_the_stream_of_the_batch(noise):
    first = run(small(sampler="euler_ancestral", noise=noise))
    assert torch.equal(first, run(small(sampler="euler_ancestral", noise=noise)))
    assert not torch.equal(first, run(small(sampler="euler_ancestral")))


def test_given_noise_replaces_the_seeds():
    own = run(small())
    given = run(small(seeds=(8, 9)), noise=make_noise((3, 4), 64, 64))
    assert torch.equal(own, given)


def ldm_ddim(noise_stream: torch.Generator, steps: int, eta: float) -> torch.Tensor:
    """One iteration of LDM's DDIM as FlagAI runs it, from its formulas (arXiv 2010.02502)."""
    betas = torch.from_numpy(np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)
    alphas_cumprod = torch.cumprod(1 - betas, 0)
    timesteps = list(range(1, 1001, 1000 // steps))
    before = [0, *timesteps[:-1]]
    latents = torch.randn(2, 4, 8, 8, generator=noise_stream)
    denoiser = UNetDenoiser(network())
    for timestep, earlier in zip(reversed(timesteps), reversed(before), strict=True):
        alpha, previous = alphas_cumprod[timestep], alphas_cumprod[earlier]
        sigma = eta * ((1 - previous) / (1 - alpha) * (1 - alpha / previous)) ** 0.5
        told = torch.tensor(timestep)
        unconditional = denoiser(latents, told, embeddings(2, 50))
        epsilon = unconditional + 7.5 * (denoiser(latents, told, embeddings(2, 1)) - unconditional)
        clean = (latents - (1 - alpha) ** 0.5 * epsilon) / alpha**0.5
        noise = torch.randn(2, 4, 8, 8, generator=noise_stream)
        latents = (
            previous**0.5 * clean + (1 - previous - sigma**2) ** 0.5 * epsilon + sigma * noise
        ).float()
    return latents / SCALING


@torch.no_grad()
@pytest.mark.parametrize("eta", [0.0, 0.7])
def test_flagai_iterations_equal_the_original_loop(eta):
    """Two iterations of seven steps (which make eight) from one stream, on the CPU."""
    theirs, ours = (torch.Generator().manual_seed(34234) for _ in range(2))
    options = small(
        steps=7, eta=eta, noise="flagai", timestep_rule="flagai", guidance_batching="two-pass"
    )
    for _ in range(2):
        reference = ldm_ddim(theirs, 7, eta)
        found = run(options, generator=ours, scheduler_config=tiny.SCHEDULER)
        assert float((found - reference).abs().max()) <= 1e-4 * float(reference.abs().max())
