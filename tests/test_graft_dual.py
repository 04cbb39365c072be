"""Dual conditioning on our own UNet: both ends, the blend, what is shared, trigger words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from graft_models import unet_tensors, write_lora
from multilingual_diffusion.pipeline_core.adapters.lora import AppliedLora, apply_loras
from multilingual_diffusion.pipeline_core.adapters.lora_files import open_lora
from multilingual_diffusion.pipeline_core.errors import InvalidRequest
from multilingual_diffusion.pipeline_core.graft.dual import join_conditioning, make_dual_unet
from multilingual_diffusion.pipeline_core.graft.loras import graft_denoiser
from multilingual_diffusion.pipeline_core.graft.network import graft_network
from multilingual_diffusion.pipeline_core.graft.recipe import GraftRecipe
from multilingual_diffusion.pipeline_core.loading.sharing import share_weights
from multilingual_diffusion.pipeline_core.sampling import UNetDenoiser

WIDTH = tiny.PROJECT
NAME = "down_blocks.1.attentions.0.transformer_blocks.0.attn2"


@pytest.fixture(scope="module")
def networks() -> dict[str, Any]:
    """Community, multilingual and grafted UNets."""
    network: Any = tiny.unet()
    found = {
        role: share_weights(network, unet_tensors("sd1", role))
        for role in ("community", "multilingual")
    }
    grafted = graft_network(
        found["community"], found["multilingual"], None, GraftRecipe("replace-attn2")
    )
    return {**found, "grafted": grafted}


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


LATENTS, THAI, CLIP = draw(2, 4, 8, 8), draw(2, 77, WIDTH, seed=1), draw(2, 77, WIDTH, seed=2)


@torch.inference_mode()
def run(network: Any, embeddings: torch.Tensor) -> torch.Tensor:
    return UNetDenoiser(network)(LATENTS, torch.tensor(500.0), embeddings)


def close(found: torch.Tensor, wanted: torch.Tensor) -> bool:
    return bool((found - wanted).abs().max() <= 1e-5 * wanted.abs().max())


def test_both_ends_are_the_two_models(networks: dict[str, Any]) -> None:
    joined = join_conditioning(THAI, CLIP)
    assert joined.shape == (2, 77, 2 * WIDTH)
    ours, theirs = run(networks["grafted"], THAI), run(networks["community"], CLIP)
    outputs = [
        run(make_dual_unet(networks["grafted"], networks["community"], weight), joined)
        for weight in (0.0, 0.5, 1.0)
    ]
    assert torch.equal(outputs[0], ours)
    assert torch.equal(outputs[2], theirs)
    assert not close(outputs[1], ours) and not close(outputs[1], theirs)
    swapped = join_conditioning(CLIP, THAI)
    dual = make_dual_unet(networks["grafted"], networks["community"], 0.0)
    assert not close(run(dual, swapped), ours)


def test_the_blend_of_one_layer(networks: dict[str, Any]) -> None:
    dual = make_dual_unet(networks["grafted"], networks["community"], 0.3)
    hidden = draw(2, 16, 64, seed=3)
    grafted, original = (networks[role].get_submodule(NAME) for role in ("grafted", "community"))
    wanted = 0.7 * grafted(hidden, THAI) + 0.3 * original(hidden, CLIP)
    assert close(dual.get_submodule(NAME)(hidden, join_conditioning(THAI, CLIP)), wanted)


@pytest.mark.parametrize(("tokens", "clip_tokens", "joined"), [(77, 154, 154), (52, 77, 4004)])
def test_repeated_tokens_change_nothing(
    tokens: int, clip_tokens: int, joined: int, networks: dict[str, Any]
) -> None:
    thai, clip = draw(1, tokens, WIDTH, seed=4), draw(1, clip_tokens, WIDTH, seed=5)
    both = join_conditioning(thai, clip)
    assert both.shape == (1, joined, 2 * WIDTH)
    dual = make_dual_unet(networks["grafted"], networks["community"], 0.3)
    attention, hidden = dual.get_submodule(NAME), draw(1, 16, 64, seed=6)
    wanted = 0.7 * networks["grafted"].get_submodule(NAME)(hidden, thai)
    wanted += 0.3 * networks["community"].get_submodule(NAME)(hidden, clip)
    assert close(attention(hidden, both), wanted)


def test_one_row_of_clip_serves_all() -> None:
    joined = join_conditioning(THAI, CLIP[:1])
    assert torch.equal(joined, join_conditioning(THAI, CLIP[:1].expand(2, -1, -1)))
    assert torch.equal(joined[:, :, :WIDTH], THAI)


def test_nothing_is_copied_or_changed(networks: dict[str, Any]) -> None:
    before = run(networks["grafted"], THAI)
    dual = make_dual_unet(networks["grafted"], networks["community"], 0.5)
    stored = {
        value.data_ptr()
        for role in ("grafted", "community")
        for value in networks[role].state_dict().values()
    }
    assert {value.data_ptr() for value in dual.state_dict().values()} <= stored
    assert torch.equal(run(networks["grafted"], THAI), before)
    assert networks["grafted"].config.cross_attention_dim == WIDTH
    assert dual.config.cross_attention_dim == 2 * WIDTH  # what the sampler's check reads


def test_misuse(networks: dict[str, Any]) -> None:
    grafted, community = networks["grafted"], networks["community"]
    with pytest.raises(InvalidRequest, match="clip_weight is 2"):
        make_dual_unet(grafted, community, 2.0)
    dual = make_dual_unet(grafted, community, 0.5)
    for first, second in ((dual, community), (grafted, dual)):
        with pytest.raises(InvalidRequest, match="make the UNet dual last"):
            make_dual_unet(first, second, 0.5)
    with pytest.raises(InvalidRequest, match="graft first"):
        graft_network(dual, networks["multilingual"], None, GraftRecipe("replace-kv"))
    with pytest.raises(InvalidRequest, match="numbers a token"):
        make_dual_unet(grafted, tiny.unet(tiny.UNET_M18), 0.5)
    with pytest.raises(InvalidRequest, match="with one D"):
        join_conditioning(THAI, draw(2, 77, 5))
    with pytest.raises(InvalidRequest, match="rows"):
        join_conditioning(THAI, draw(3, 77, WIDTH))
    with pytest.raises(InvalidRequest, match="of 11473 tokens"):
        join_conditioning(THAI, draw(2, 149, WIDTH))


def test_a_trigger_word_still_works_on_the_clip_side(
    networks: dict[str, Any], tmp_path: Path
) -> None:
    """The LoRA's keys and values meet CLIP's tokens, while the other prompt stays."""
    shapes = {name: tuple(value.shape) for name, value in unet_tensors("sd1", "base").items()}
    path = write_lora(tmp_path / "style.safetensors")
    lora = AppliedLora(open_lora(path, shapes, networks["community"].config))
    with_lora = apply_loras(UNetDenoiser(networks["community"]), [lora])
    grafted, _ = graft_denoiser(
        with_lora, networks["multilingual"], None, GraftRecipe("replace-attn2")
    )
    dual = make_dual_unet(grafted.network, with_lora.network, 0.5)
    without = make_dual_unet(grafted.network, networks["community"], 0.5)
    joined = join_conditioning(THAI, CLIP)
    assert not close(run(dual, joined), run(without, joined))
    only_clip = make_dual_unet(grafted.network, with_lora.network, 1.0)
    assert torch.equal(run(only_clip, joined), run(with_lora.network, CLIP))
