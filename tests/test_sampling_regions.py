"""Several prompts in one picture: equal to the host's rules, written out plainly in x0 space."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch
from multilingual_diffusion.pipeline_core.errors import InvalidRequest
from multilingual_diffusion.pipeline_core.sampling import UNetDenoiser
from multilingual_diffusion.pipeline_core.sampling.prediction import to_clean
from multilingual_diffusion.pipeline_core.sampling.regional import RegionalDenoiser, sample_regions
from multilingual_diffusion.pipeline_core.sampling.regions import PromptRegion, place_regions
from multilingual_diffusion.pipeline_core.sampling.schedules import sigmas_from_alphas
from multilingual_diffusion.pipeline_core.values import Conditioning
from sampling_cases import SCALING, embeddings, network, run, small

BETAS = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
TABLE = sigmas_from_alphas(np.cumprod(1 - BETAS))
SIZE = (16, 24)


def region(seed: int = 1, tokens: int = 7, **fields) -> PromptRegion:
    return PromptRegion(embeddings=embeddings(1, seed)[:, :tokens], **fields)


def regional(options, positive, negative, **inputs) -> torch.Tensor:
    return sample_regions(
        UNetDenoiser(network()),
        positive,
        negative,
        options,
        scheduler_config=tiny.SCHEDULER,
        prediction_type=inputs.pop("prediction_type", "epsilon"),
        scaling_factor=SCALING,
        **inputs,
    ).samples


class Formula:
    """A denoiser whose output depends on the latents' own place and on the prompt."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        self.seen: list[tuple[int, int]] = []

    def __call__(self, latents, timestep, embeddings):
        self.seen.append(tuple(latents.shape[2:]))
        level = embeddings.mean(dim=(1, 2))[:, None, None, None]
        return torch.tanh(latents * 0.3 + level) + latents.mean(dim=(2, 3), keepdim=True)


def plain_side(regions, latents, timestep, sigma, prediction_type):
    """Average clean estimates over regions given as (prompt, box, weight [h, w])."""
    total, count = torch.zeros_like(latents), torch.full_like(latents, 1e-37)
    for prompt, (height, width, top, left), weight in regions:
        rows, columns = slice(top, top + height), slice(left, left + width)
        seen = latents[:, :, rows, columns]
        output = Formula()(seen, timestep, prompt.expand(len(latents), -1, -1))
        total[:, :, rows, columns] += to_clean(output, seen, sigma, prediction_type) * weight
        count[:, :, rows, columns] += weight
    return total / count


def denoise(positive, negative, sigma=2.0, prediction_type="epsilon", scale=7.5):
    """Return the clean estimate of the regional denoiser, and the latents it saw."""
    latents = torch.randn(2, 4, *SIZE, generator=torch.Generator().manual_seed(0))
    timestep = torch.tensor(500.0)
    denoiser = RegionalDenoiser(
        Formula(),
        positive,
        negative,
        scale=scale,
        size=SIZE,
        sigmas={500.0: sigma},
        table=TABLE,
        prediction_type=prediction_type,
    )
    output = denoiser(latents, timestep, torch.empty(0))
    return to_clean(output, latents, sigma, prediction_type), latents


WHOLE = (*SIZE, 0, 0)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_combined_prompts_are_the_weighted_mean_of_clean_estimates(prediction_type) -> None:
    positive = [region(1), region(2, strength=0.5)]
    found, latents = denoise(positive, [region(3)], prediction_type=prediction_type)
    arguments = (latents, torch.tensor(500.0), 2.0, prediction_type)
    sides = [
        plain_side([(embeddings(1, 1), WHOLE, 1.0), (embeddings(1, 2), WHOLE, 0.5)], *arguments),
        plain_side([(embeddings(1, 3), WHOLE, 1.0)], *arguments),
    ]
    torch.testing.assert_close(found, sides[1] + 7.5 * (sides[0] - sides[1]), rtol=1e-4, atol=1e-4)


def test_an_area_is_cropped_feathered_and_gets_a_twin() -> None:
    box = (8, 12, 8, 6)  # at the lower edge, free at the left, the right and the top
    found, latents = denoise([region(1, area=box, strength=2.0), region(2)], [region(3)])
    rise = torch.tensor([0.5, 1.0])
    rows = torch.cat([rise, torch.ones(6)])
    columns = torch.ones(12)
    columns[:3] = torch.tensor([1 / 3, 2 / 3, 1.0])
    columns[-3:] = torch.tensor([1.0, 2 / 3, 1 / 3])
    weight = 2.0 * rows[:, None] * columns
    arguments = (latents, torch.tensor(500.0), 2.0, "epsilon")
    positive = [(embeddings(1, 1), box, weight), (embeddings(1, 2), WHOLE, 1.0)]
    negative = [(embeddings(1, 3), WHOLE, 1.0), (embeddings(1, 3), box, weight)]
    sides = [plain_side(side, *arguments) for side in (positive, negative)]
    torch.testing.assert_close(found, sides[1] + 7.5 * (sides[0] - sides[1]), rtol=1e-4, atol=1e-4)
    without_twin = plain_side(negative[:1], *arguments)
    assert (sides[1] - without_twin).abs().max() > 0.01  # the twin matters to this check


def test_a_mask_weighs_without_feather_and_can_make_the_area() -> None:
    mask = torch.zeros(1, 32, 48)
    mask[:, 4:12, 8:44] = 1.0  # twice the size of the latents
    masked = region(1, mask=mask, mask_strength=0.7)
    found, latents = denoise([masked, region(2)], [region(3)])
    weight = torch.zeros(SIZE)
    weight[2:6, 4:22] = 0.7
    arguments = (latents, torch.tensor(500.0), 2.0, "epsilon")
    positive = [(embeddings(1, 1), WHOLE, weight), (embeddings(1, 2), WHOLE, 1.0)]
    sides = [
        plain_side(positive, *arguments),
        plain_side([(embeddings(1, 3), WHOLE, 1.0)], *arguments),
    ]
    torch.testing.assert_close(found, sides[1] + 7.5 * (sides[0] - sides[1]), rtol=1e-4, atol=1e-4)
    boxed = place([region(1, mask=mask, area_from_mask=True)], [region(3)])[0][0]
    assert boxed.box == (8, 18, 2, 4)  # at least 8 a side
    nothing = place([region(1, mask=mask * 0, area_from_mask=True)], [region(3)])[0][0]
    assert nothing.box == (8, 8, 0, 0)


def place(positive, negative):
    return place_regions(positive, negative, size=SIZE, device=torch.device("cpu"), table=TABLE)


def test_shares_become_latent_pixels() -> None:
    placed = place([region(1, area=(0.5, 0.25, 0.5, 0.75), area_in_shares=True)], [region(3)])
    assert placed[0][0].box == (8, 6, 8, 18)
    cut = place([region(1, area=(100, 100, 4, 4))], [region(3)])
    assert cut[0][0].box == (12, 20, 4, 4)
    with pytest.raises(InvalidRequest, match="outside the picture"):
        place([region(1, area=(8, 8, 16, 0))], [region(3)])


def test_the_twin_takes_the_smallest_prompt_around_it() -> None:
    outer, inner = (12, 20, 0, 0), (8, 8, 2, 2)
    positive, negative = place([region(1, area=inner)], [region(2), region(3, area=outer)])
    twin = negative[2]
    assert twin.box == inner and torch.equal(twin.embeddings, embeddings(1, 3))
    assert [each.box for each in positive] == [inner]  # nothing there covers the outer area
    same = place([region(1, area=inner)], [region(2), region(3, area=inner)])
    assert [len(side) for side in same] == [1, 2]


def test_where_nobody_speaks_the_clean_estimate_is_zero() -> None:
    left = torch.zeros(1, *SIZE)
    left[..., :12] = 1.0
    for prediction_type in ("epsilon", "v_prediction"):
        found, _ = denoise(
            [region(1, mask=left)], [region(3)], scale=1.0, prediction_type=prediction_type
        )
        torch.testing.assert_close(
            found[..., 12:], torch.zeros_like(found[..., 12:]), rtol=0, atol=1e-5
        )
        assert found[..., :12].abs().min() > 0


def test_a_range_of_the_schedule_speaks_only_there() -> None:
    """Percent p is the noise of timestep (1 - p) * 999."""
    early, late = region(1, end=0.5), region(2, start=0.5)
    boundary = float(np.exp(np.interp(499.5, np.arange(1000), np.log(TABLE))))
    for sigma, seed in ((boundary * 1.01, 1), (boundary * 0.99, 2)):
        found, _ = denoise([early, late], [region(3)], sigma=sigma)
        wanted, _ = denoise([region(seed)], [region(3)], sigma=sigma)
        torch.testing.assert_close(found, wanted)
        other, _ = denoise([region(3 - seed)], [region(3)], sigma=sigma)
        assert (found - other).abs().max() > 1e-3


def test_one_plain_prompt_is_the_ordinary_path_bit_for_bit() -> None:
    options = small()
    assert torch.equal(
        regional(options, [region(1)], [region(50)]),
        run(
            options,
            positive=Conditioning(embeddings(1, 1)),
            negative=Conditioning(embeddings(1, 50)),
        ),
    )


@pytest.mark.parametrize("sampler", ["ddim", "dpmpp_2m", "plms", "heun", "euler_ancestral"])
def test_a_run_of_one_bounded_prompt_is_the_ordinary_run(sampler) -> None:
    """A mask of ones changes the path, not the picture."""
    options = small(sampler=sampler)
    ones = torch.ones(1, 8, 8)
    found = regional(options, [region(1, mask=ones)], [region(50)])
    wanted = regional(options, [region(1)], [region(50)])
    assert (found - wanted).abs().max() <= 1e-4 * wanted.abs().max()
    halved = regional(options, [region(1, mask=ones, end=0.4), region(9, start=0.4)], [region(50)])
    assert (halved - wanted).abs().max() > 1e-3 * wanted.abs().max()


def test_prompts_of_different_length_run_apart() -> None:
    found = regional(small(), [region(1, tokens=7)], [region(50, tokens=4)])
    network_, long, short = UNetDenoiser(network()), embeddings(1, 1), embeddings(1, 50)[:, :4]

    class Apart:
        device = torch.device("cpu")

        def __call__(self, latents, timestep, _):
            count = len(latents)
            positive = network_(latents, timestep, long.expand(count, -1, -1))
            negative = network_(latents, timestep, short.expand(count, -1, -1))
            return negative + 7.5 * (positive - negative)

    wanted = run(
        small(guidance_scale=1.0), denoiser=Apart(), positive=Conditioning(long), negative=None
    )
    assert (found - wanted).abs().max() <= 1e-5 * wanted.abs().max()


def test_guidance_of_one_never_runs_the_negative_side() -> None:
    formula = Formula()
    denoiser = RegionalDenoiser(
        formula, [region(1, area=(8, 8, 0, 0))], [region(3)], scale=1.0, size=SIZE,
        sigmas={500.0: 2.0}, table=TABLE, prediction_type="epsilon",
    )  # fmt: skip
    denoiser(torch.zeros(1, 4, *SIZE), torch.tensor(500.0), torch.empty(0))
    assert formula.seen == [(8, 8)]


def test_refusals() -> None:
    with pytest.raises(InvalidRequest, match="has no prompt"):
        place([], [region(3)])
    with pytest.raises(InvalidRequest, match="steps is 0"):
        regional(small(steps=0), [region(1), region(2)], [region(3)])
