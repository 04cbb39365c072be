"""What the stand-ins compute, against scipy, against our own samplers, and by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from multilingual_diffusion.nodes.stock import STOCK_CLASS_MAPPINGS
from multilingual_diffusion.nodes.stock.resizing import resize
from multilingual_diffusion.pipeline_core.sampling.schedules import make_levels
from scipy import ndimage


def call(name: str, **inputs: Any) -> Any:
    node_class: Any = STOCK_CLASS_MAPPINGS[name]
    return node_class().execute(**inputs)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def test_a_mask_grows_and_shrinks_as_scipy_says() -> None:
    mask = noise(2, 11, 14)
    for by in (-20, -2, 0, 1, 3):
        for tapered in (True, False):
            corner = int(not tapered)
            footprint = np.array([[corner, 1, corner], [1, 1, 1], [corner, 1, corner]])
            step = ndimage.grey_erosion if by < 0 else ndimage.grey_dilation
            wanted = [each.numpy() for each in mask]
            for _ in range(abs(by)):
                wanted = [step(each, footprint=footprint) for each in wanted]
            (found,) = call("GrowMask", mask=mask, expand=by, tapered_corners=tapered)
            assert np.array_equal(found.numpy(), np.stack(wanted)), (by, tapered)


def test_a_border_for_outpainting_fades_into_the_picture() -> None:
    image = noise(1, 20, 24, 3)
    padded, mask = call(
        "ImagePadForOutpaint", image=image, left=8, top=0, right=0, bottom=16, feathering=6
    )
    assert padded.shape == (1, 36, 32, 3) and mask.shape == (1, 36, 32)
    assert torch.equal(padded[:, :20, 8:], image)
    assert (padded[:, 20:] == 0.5).all() and (padded[:, :, :8] == 0.5).all()
    for row in range(20):
        for column in range(24):  # `column` pixels from the left border, 20 - row from the lower
            near = min(column, 20 - row)
            wanted = max(6 - near, 0) ** 2 / 36
            assert abs(float(mask[0, row, column + 8]) - wanted) < 1e-6
    assert (mask[:, 20:] == 1).all() and (mask[:, :, :8] == 1).all()


def test_a_mask_fades_towards_its_edges() -> None:
    (found,) = call("FeatherMask", mask=torch.ones(1, 4, 6), left=2, top=0, right=0, bottom=4)
    across, down = torch.tensor([0.5, 1, 1, 1, 1, 1]), torch.tensor([1, 0.75, 0.5, 0.25])
    assert torch.equal(found[0], down[:, None] * across)


def test_the_arc_keeps_lengths_and_turns_evenly() -> None:
    """Between two latents at a right angle, of lengths 1 and 3."""
    latent = torch.zeros(1, 4, 1, 2)
    latent[0, 0, 0, 0], latent[0, 1, 0, 1] = 1.0, 3.0
    arc = resize(latent, 8, 1, "bislerp")[0, :, 0]  # [4, 8]
    positions = ((torch.arange(8) + 0.5) / 4 - 0.5).clamp(0, 1)
    assert torch.allclose(arc.norm(dim=0), 1 + 2 * positions, atol=1e-5)
    turned = torch.atan2(arc[1], arc[0]) / (math.pi / 2)
    assert torch.allclose(turned, positions, atol=1e-5)
    straight = resize(latent, 8, 1, "bilinear")[0, :, 0]
    assert (straight.norm(dim=0) - arc.norm(dim=0)).abs().max() > 0.2


@pytest.mark.parametrize("method", ["nearest-exact", "bilinear", "area", "bicubic", "bislerp"])
def test_the_same_size_changes_nothing(method: str) -> None:
    latent = noise(2, 4, 7, 9)
    assert torch.allclose(resize(latent, 9, 7, method), latent, atol=1e-5)


def test_a_picture_is_cut_around_its_middle() -> None:
    picture = torch.arange(12.0).repeat(4, 1)[None, None]  # 12 x 4, the value is the column
    cut = resize(picture, 4, 4, "nearest-exact", "center")
    assert torch.equal(cut[0, 0, 0], torch.tensor([4.0, 5.0, 6.0, 7.0]))


def test_karras_levels_are_our_samplers() -> None:
    table = np.geomspace(0.03, 14.6, 1000)
    wanted = make_levels("karras", 20, table).sigmas
    limits = {"sigma_min": table[0], "sigma_max": table[-1]}
    (found,) = call("KarrasScheduler", steps=20, rho=7.0, **limits)
    assert found.numpy() == pytest.approx(wanted, rel=1e-5)
    (even,) = call("ExponentialScheduler", steps=5, **limits)
    ratios = even[1:-1] / even[:-2]
    assert torch.allclose(ratios, ratios[:1].expand_as(ratios), atol=1e-5) and even[-1] == 0
    (same,) = call("PolyexponentialScheduler", steps=5, rho=1.0, **limits)
    assert torch.allclose(same, even, atol=1e-5)


def test_cut_levels_meet() -> None:
    (sigmas,) = call("KarrasScheduler", steps=10, sigma_max=10.0, sigma_min=0.1, rho=7.0)
    for high, low in (
        call("SplitSigmas", sigmas=sigmas, step=4),
        call("SplitSigmasDenoise", sigmas=sigmas, denoise=0.6),
    ):
        assert len(high) == 5 and len(low) == 7 and high[-1] == low[0]
    (rising,) = call("FlipSigmas", sigmas=sigmas)
    assert rising[0] == pytest.approx(1e-4) and torch.equal(rising[1:], sigmas.flip(0)[1:])


def test_prompts_are_blended_and_joined() -> None:
    own, other = noise(1, 5, 3), noise(1, 2, 3, seed=1)
    to = [[own, {"pooled_output": None, "strength": 0.5}]]
    source = [[other, {"pooled_output": noise(1, 3, seed=2)}]]
    ((embeddings, more),) = call(
        "ConditioningAverage",
        conditioning_to=to, conditioning_from=source, conditioning_to_strength=0.25,
    )[0]  # fmt: skip
    assert torch.allclose(embeddings[:, :2], own[:, :2] * 0.25 + other * 0.75)
    assert torch.equal(embeddings[:, 2:], own[:, 2:] * 0.25)  # beyond its end the source is zero
    assert more["strength"] == 0.5 and more["pooled_output"] is source[0][1]["pooled_output"]
    ((embeddings, more),) = call(
        "ConditioningConcat", conditioning_to=to, conditioning_from=source
    )[0]
    assert torch.equal(embeddings, torch.cat([own, other], 1)) and more == to[0][1]
    combined = call("ConditioningCombine", conditioning_1=to, conditioning_2=source)[0]
    assert combined == [to[0], source[0]] and combined is not to


def test_latents_are_pasted_with_soft_edges() -> None:
    canvas, piece = torch.zeros(1, 4, 8, 8), torch.ones(1, 4, 4, 4)
    (found,) = call(
        "LatentComposite",
        samples_to={"samples": canvas, "batch_index": [3]}, samples_from={"samples": piece},
        x=32, y=0, feather=16,
    )  # fmt: skip
    rows = torch.tensor([1.0, 1.0, 1.0, 0.5])  # the upper edge is the canvas's own
    columns = torch.tensor([0.5, 1.0, 1.0, 1.0])
    assert torch.equal(found["samples"][0, 0, :4, 4:], rows[:, None] * columns)
    assert found["samples"].sum() == found["samples"][..., :4, 4:].sum()
    assert found["batch_index"] == [3] and not canvas.any()
