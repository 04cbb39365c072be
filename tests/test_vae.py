"""The VAE room against diffusers: codec, seeds, tiles, and what comes when memory or range ends."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from multilingual_diffusion.pipeline_core.errors import (
    Cancelled,
    InvalidRequest,
    NonFiniteResult,
    PipelineError,
)
from multilingual_diffusion.pipeline_core.vae import tiled_network
from multilingual_diffusion.pipeline_core.vae.codec import VAE
from multilingual_diffusion.pipeline_core.vae.preview import preview
from multilingual_diffusion.pipeline_core.vae.tiles import run_tiled
from multilingual_diffusion.pipeline_core.values import Latents
from tiny import vae as tiny_network


@pytest.fixture(scope="module")
def network():
    return tiny_network()


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def smooth(height: int, width: int, channels: int = 4) -> torch.Tensor:
    """Return a smooth field, as latents and pictures of things are."""
    coarse = noise(1, channels, 4, 4)
    size = (height, width)
    return torch.nn.functional.interpolate(coarse, size, mode="bicubic", align_corners=True)


def psnr(values: torch.Tensor, reference: torch.Tensor) -> float:
    return -10 * math.log10((values - reference).square().mean().item() + 1e-12)


# exactness


def test_decode_equals_diffusers_and_leaves_the_latents_alone(network):
    samples = noise(2, 4, 6, 4)
    before = samples.clone()
    images = VAE(network).decode(Latents(samples))
    theirs = torch.cat([network.decode(sample).sample for sample in samples.split(1)])
    assert torch.equal(images.pixels, (theirs / 2 + 0.5).clamp(0, 1))
    assert torch.equal(samples, before) and images.warnings == ()
    assert images.pixels.shape == (2, 3, 48, 32) and images.pixels.dtype == torch.float32


def test_an_image_is_the_same_alone_and_in_a_batch(network):
    samples = noise(3, 4, 4, 4)
    together = VAE(network).decode(Latents(samples)).pixels
    alone = VAE(network).decode(Latents(samples[1:2])).pixels
    assert torch.equal(together[1:2], alone)
    batched = (network.decode(samples).sample / 2 + 0.5).clamp(0, 1)
    assert (together - batched).abs().max() <= 3e-3  # diffusers' whole batch at once


def test_encode_equals_diffusers_mean_and_sample(network):
    pixels = noise(2, 3, 32, 24).sigmoid()
    vae = VAE(network)
    mean = vae.encode(pixels).samples
    sampled = vae.encode(pixels, seeds=[5, 6]).samples
    for index in range(2):
        posterior = network.encode(pixels[index : index + 1] * 2 - 1).latent_dist
        assert torch.equal(mean[index : index + 1], posterior.mean)
        theirs = posterior.sample(torch.Generator().manual_seed(5 + index))
        assert torch.allclose(sampled[index : index + 1], theirs, atol=1e-6)
    alone = vae.encode(pixels[1:], seeds=[6]).samples
    assert torch.equal(sampled[1:], alone)


def test_attributes_come_from_the_config(network):
    vae = VAE(network)
    assert (vae.scaling_factor, vae.channels, vae.factor) == (0.18215, 4, 8)


@pytest.mark.parametrize("shape", [(4, 8, 8), (1, 3, 8, 8), (0, 4, 8, 8), (1, 4, 0, 8)])
def test_latents_of_another_shape_are_refused(network, shape):
    with pytest.raises(InvalidRequest, match="latents have shape"):
        VAE(network).decode(Latents(torch.zeros(shape)))


def test_pixels_and_seeds_that_do_not_fit_are_refused(network):
    vae = VAE(network)
    with pytest.raises(InvalidRequest, match="multiples of 8"):
        vae.encode(torch.zeros(1, 3, 33, 32))
    with pytest.raises(InvalidRequest, match=r"\[B, 3, H, W\]"):
        vae.encode(torch.zeros(1, 4, 32, 32))
    with pytest.raises(InvalidRequest, match="1 seeds for 2 images"):
        vae.encode(torch.zeros(2, 3, 32, 32), seeds=[1])
    with pytest.raises(InvalidRequest, match="at least 16"):
        VAE(network, tile=8)


# tiles


def test_tiled_decode_looks_like_the_whole(network):
    latents = Latents(smooth(40, 32))
    vae = VAE(network, tile=32)
    whole = vae.decode(latents).pixels
    tiled = vae.decode(latents, tiling=True).pixels
    assert psnr(tiled, whole) >= 40.0
    assert (tiled - whole).abs().max() <= 0.05
    network.tile_latent_min_size, network.tile_sample_min_size = 32, 256
    network.use_tiling = True  # what diffusers makes of the same tiles
    theirs = (network.decode(latents.samples).sample / 2 + 0.5).clamp(0, 1)
    network.use_tiling = False
    assert psnr(tiled, whole) > psnr(theirs, whole) + 15.0


def test_tiled_encode_is_near_the_whole(network):
    pixels = smooth(320, 256, channels=3).sigmoid()
    vae = VAE(network, tile=32)
    whole = vae.encode(pixels).samples
    tiled = vae.encode(pixels, tiling=True).samples
    error = (tiled - whole).square().mean().sqrt() / whole.std()
    assert error <= 0.05


def test_seams_vanish_where_the_statistics_are_exact(network, monkeypatch):
    """With the norms' statistics of the whole picture, tiles join without a trace."""
    learn = tiled_network._learn_statistics

    def learn_from_all(module, function, values, side):
        learn(module, function, values, 10**6)

    monkeypatch.setattr(tiled_network, "_learn_statistics", learn_from_all)
    latents = Latents(noise(1, 4, 40, 24))
    vae = VAE(network, tile=24)
    difference = vae.decode(latents, tiling=True).pixels - vae.decode(latents).pixels
    assert difference.abs().max() <= 1e-4


def test_a_picture_no_larger_than_a_tile_is_nearly_exact(network):
    latents = Latents(noise(1, 4, 16, 8))
    vae = VAE(network)
    difference = vae.decode(latents, tiling=True).pixels - vae.decode(latents).pixels
    assert difference.abs().max() <= 1e-4


def test_tiling_changes_nothing_in_the_network(network):
    before = {key: value.clone() for key, value in network.state_dict().items()}
    kinds = [type(module) for module in network.modules()]
    VAE(network, tile=16).decode(Latents(noise(1, 4, 24, 16)), tiling=True)
    assert [type(module) for module in network.modules()] == kinds
    for key, value in network.state_dict().items():
        assert torch.equal(value, before[key])


@pytest.mark.parametrize("factors", [(1, 4), (4, 1), (1, 1)])
@pytest.mark.parametrize("size", [(16, 16), (17, 40), (41, 16), (100, 33)])
def test_joined_tiles_of_a_pointwise_function_are_exact(size, factors):
    grow, shrink = factors[1], factors[0]
    values = noise(1, 2, size[0] * shrink, size[1] * shrink)

    def function(part: torch.Tensor) -> torch.Tensor:
        part = part[..., ::shrink, ::shrink] * 3 - 1
        return part.repeat_interleave(grow, -1).repeat_interleave(grow, -2)

    seen: list[tuple[int, int]] = []
    joined = run_tiled(
        function,
        values,
        tile=16,
        overlap=8,
        factors=factors,
        on_tile=lambda done, total: seen.append((done, total)),
    )
    assert torch.allclose(joined, function(values), atol=1e-5)
    assert [done for done, _ in seen] == list(range(1, seen[-1][1] + 1))


def test_progress_and_cancellation(network):
    seen: list[tuple[int, int]] = []

    def stop_at_two(done: int, total: int) -> None:
        seen.append((done, total))
        if done == 2:
            raise Cancelled("stopped")

    latents = Latents(noise(1, 4, 24, 16))
    with pytest.raises(Cancelled):
        VAE(network, tile=16).decode(latents, tiling=True, on_tile=stop_at_two)
    assert [done for done, _ in seen] == [1, 2] and seen[0][1] == 2
    seen.clear()
    VAE(network).decode(Latents(noise(1, 4, 4, 4)), on_tile=stop_at_two)
    assert seen == [(1, 1)]


# when memory or range ends


def limit_memory(module: torch.nn.Module, largest: int, message: str | None = None) -> None:
    """Make a layer run out of memory above `largest` input pixels, as a device would."""

    def check(layer, inputs):
        if inputs[0].shape[-2:].numel() > largest:
            raise RuntimeError(message) if message else torch.OutOfMemoryError("out of memory")

    module.register_forward_pre_hook(check)


def test_out_of_memory_means_tiles_and_a_warning(network):
    poor = copy.deepcopy(network)
    limit_memory(poor.decoder.conv_out, (8 * 32) ** 2)
    latents = Latents(smooth(40, 32).repeat(2, 1, 1, 1))
    images = VAE(poor).decode(latents)
    assert len(images.warnings) == 2  # tiles of 64, then of 32; the second image starts there
    assert "tiles of 32" in images.warnings[-1]
    whole = VAE(network).decode(latents).pixels
    assert (images.pixels - whole).abs().max() <= 0.05
    assert torch.equal(images.pixels[0], images.pixels[1])


@pytest.mark.parametrize("message", [None, "DefaultCPUAllocator: can't allocate memory: 9 bytes"])
def test_out_of_memory_for_ever_is_one_clear_error(network, message):
    poor = copy.deepcopy(network)
    limit_memory(poor.decoder.conv_in, 1, message)
    with pytest.raises(PipelineError, match="does not fit in memory"):
        VAE(poor).decode(Latents(noise(1, 4, 4, 4)))


def test_other_errors_of_the_network_are_not_swallowed(network):
    broken = copy.deepcopy(network)
    limit_memory(broken.decoder.conv_in, 1, "CUDA error: an illegal instruction")
    with pytest.raises(RuntimeError, match="illegal instruction"):
        VAE(broken).decode(Latents(noise(1, 4, 4, 4)))


def test_encode_runs_out_of_memory_into_tiles_too(network, caplog):
    poor = copy.deepcopy(network)
    limit_memory(poor.encoder.conv_in, (8 * 32) ** 2)
    latents = VAE(poor).encode(smooth(320, 256, channels=3).sigmoid())
    assert latents.samples.shape == (1, 4, 40, 32)
    assert "tiles of 32" in caplog.text


def overflowing(dtype: torch.dtype, tiny: torch.nn.Module) -> torch.nn.Module:
    """Return weights whose activations leave fp16's range and stay within float32's."""
    network = copy.deepcopy(tiny)
    with torch.no_grad():
        network.decoder.conv_in.weight *= 1e6 if dtype == torch.float16 else 1e39
        network.decoder.conv_in.bias *= 0
    return network.to(dtype)


def test_half_precision_overflow_is_done_again_in_float32(network):
    narrow = overflowing(torch.float16, network)
    with torch.no_grad():
        narrow.decoder.conv_in.weight.clamp_(-6e4, 6e4)
    latents = Latents(noise(2, 4, 4, 4))
    assert not torch.isfinite(narrow.decode(latents.samples.half()).sample).all()
    images = VAE(narrow).decode(latents)
    assert torch.isfinite(images.pixels).all() and images.pixels.std() > 0.01
    assert len(images.warnings) == 1 and "float16; done again in float32" in images.warnings[0]
    wide = VAE(copy.deepcopy(narrow).float()).decode(latents)
    assert torch.equal(images.pixels, wide.pixels)
    assert next(narrow.parameters()).dtype == torch.float16


def test_bfloat16_decodes_near_float32(network):
    latents = Latents(smooth(6, 6) * 0.3)
    whole = VAE(network).decode(latents)
    narrow = VAE(copy.deepcopy(network).bfloat16()).decode(latents)
    assert narrow.pixels.dtype == torch.float32 and narrow.warnings == ()
    assert psnr(narrow.pixels, whole.pixels) >= 25.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_broken_weights_never_make_a_picture(network, dtype):
    broken = copy.deepcopy(network)
    broken.decoder.conv_out.bias[0] = float("nan")
    with pytest.raises(NonFiniteResult, match="the VAE's result"):
        VAE(broken.to(dtype)).decode(Latents(noise(1, 4, 4, 4)))


def test_broken_input_is_named(network):
    with pytest.raises(NonFiniteResult, match="latents"):
        VAE(network).decode(Latents(torch.full((1, 4, 4, 4), float("nan"))))
    with pytest.raises(NonFiniteResult, match="pixels"):
        VAE(network).encode(torch.full((1, 3, 32, 32), float("inf")))


# preview


def test_preview_is_the_published_linear_map():
    latents = noise(2, 4, 5, 7) / 0.18215 * 0.5
    pictures = preview(latents)
    assert [picture.size for picture in pictures] == [(7, 5)] * 2
    scaled = latents[1, :, 2, 3].numpy() * 0.18215
    red = scaled @ np.array([0.3444, 0.1247, -0.3192, -0.1307])
    expected = np.clip((red / 2 + 0.5) * 255, 0, 255)
    assert abs(pictures[1].getpixel((3, 2))[0] - expected) <= 0.51


def test_preview_of_zero_is_grey_and_of_nan_is_a_picture():
    (grey,) = preview(torch.zeros(1, 4, 2, 2))
    assert grey.getpixel((0, 0)) == (128, 128, 128)
    assert preview(torch.full((1, 4, 2, 2), float("nan")))[0].size == (2, 2)
