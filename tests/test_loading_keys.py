"""Key maps against an independent account of the names, at full size and at other depths."""

from __future__ import annotations

from typing import Any

import layouts
import pytest
import tiny
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from ldm_names import ldm_unet, ldm_vae
from multilingual_diffusion.pipeline_core.errors import WeightsMismatch
from multilingual_diffusion.pipeline_core.loading import keys_unet, keys_vae, shapes
from multilingual_diffusion.pipeline_core.loading.matching import Spelling, fits, match, same
from multilingual_diffusion.pipeline_core.models.configs import (
    ALT_M18_TEXT,
    KL_F8_VAE,
    SD1_UNET,
    SD2_UNET,
)


def meta(build: type[torch.nn.Module], config: dict[str, Any]) -> dict[str, torch.Tensor]:
    with torch.device("meta"):
        return build(**config).state_dict()


@pytest.mark.parametrize("config", [SD1_UNET, SD2_UNET], ids=["sd1", "sd2"])
def test_full_size_unet_names_equal_the_independent_account(config: dict[str, Any]) -> None:
    tensors = meta(UNet2DConditionModel, config)
    expected = {name: tuple(value.shape) for name, value in ldm_unet(tensors).items()}
    written = {
        keys_unet.ldm_name(name, config): tuple(value.shape) for name, value in tensors.items()
    }
    assert len(written) == 686
    assert written == expected


def test_full_size_vae_names_and_shapes_equal_the_independent_account() -> None:
    tensors = meta(AutoencoderKL, KL_F8_VAE)
    expected = {name: tuple(value.shape) for name, value in ldm_vae(tensors).items()}
    written = {
        keys_vae.ldm_name(name, KL_F8_VAE): keys_vae.ldm_shape(name, tuple(value.shape))
        for name, value in tensors.items()
    }
    assert len(written) == 248
    assert written == expected


def test_known_names() -> None:
    pairs = {
        "down_blocks.1.resnets.0.norm1.weight": "input_blocks.4.0.in_layers.0.weight",
        "down_blocks.2.downsamplers.0.conv.bias": "input_blocks.9.0.op.bias",
        "up_blocks.0.upsamplers.0.conv.weight": "output_blocks.2.1.conv.weight",
        "up_blocks.1.upsamplers.0.conv.weight": "output_blocks.5.2.conv.weight",
        "mid_block.attentions.0.proj_in.weight": "middle_block.1.proj_in.weight",
    }
    assert {name: keys_unet.ldm_name(name, SD1_UNET) for name in pairs} == pairs


OTHER_DEPTHS = [
    {"layers_per_block": 1, "block_out_channels": [32, 64]},
    {"layers_per_block": 3, "block_out_channels": [32, 64, 96]},
    {"layers_per_block": 2, "block_out_channels": [64]},
]


@pytest.mark.parametrize("changes", OTHER_DEPTHS)
@pytest.mark.parametrize("linear", [False, True])
def test_unets_of_other_depths_are_read_off_their_shapes(
    changes: dict[str, Any], linear: bool
) -> None:
    blocks = len(changes["block_out_channels"])
    attended = [True] * (blocks - 1) + [blocks == 1]
    config = {
        **(tiny.UNET_M18 if linear else tiny.UNET_M9),
        **changes,
        "down_block_types": ["CrossAttnDownBlock2D" if on else "DownBlock2D" for on in attended],
        "up_block_types": ["CrossAttnUpBlock2D" if on else "UpBlock2D" for on in attended[::-1]],
        "cross_attention_dim": 24,
        "attention_head_dim": [max(1, width // 64) for width in changes["block_out_channels"]]
        if linear
        else 8,
    }
    tensors = meta(UNet2DConditionModel, config)
    names = {
        keys_unet.ldm_name(name, config): tuple(value.shape) for name, value in tensors.items()
    }
    assert len(names) == len(tensors)  # no two tensors under one name
    found = shapes.unet_config(names, "here")
    for key, value in config.items():
        if key != "sample_size":
            assert found.get(key, False) == value, key


def test_full_size_configs_are_read_off_their_shapes() -> None:
    for config in (SD1_UNET, SD2_UNET):
        names = ldm_unet(meta(UNet2DConditionModel, config))
        found = shapes.unet_config({k: tuple(v.shape) for k, v in names.items()}, "here")
        assert found == config
    names = ldm_vae(meta(AutoencoderKL, KL_F8_VAE))
    found = shapes.vae_config({k: tuple(v.shape) for k, v in names.items()}, "here")
    assert found == KL_F8_VAE


def test_text_config_is_read_off_its_shapes() -> None:
    tensors = layouts.text_tensors("m18")
    found = shapes.text_config(
        {name: tuple(value.shape) for name, value in tensors.items()}, ALT_M18_TEXT, "here"
    )
    expected = layouts.text_config("m18")
    for key in ALT_M18_TEXT:
        assert found[key] == expected.get(key, ALT_M18_TEXT[key]), key


def test_shapes_without_a_needed_tensor_are_an_error() -> None:
    with pytest.raises(WeightsMismatch, match="blocks are not those"):
        shapes.unet_config({"out.2.weight": (4, 32, 3, 3)}, "here")
    with pytest.raises(WeightsMismatch, match=r"'encoder\.conv_in\.weight' is missing"):
        shapes.vae_config({}, "here")
    uneven = {f"input_blocks.{place}.0.in_layers.2.weight": (32, 32, 3, 3) for place in (1, 2, 4)}
    uneven["input_blocks.3.0.op.weight"] = (32, 32, 3, 3)
    with pytest.raises(WeightsMismatch, match="blocks are not those"):
        shapes.unet_config(uneven, "here")


def test_averages_have_no_dots() -> None:
    spelling = keys_unet.unet_spellings(SD1_UNET, ema=True)[0]
    assert spelling("conv_in.weight") == "model_ema.diffusion_modelinput_blocks00weight"
    names = [spelling(name) for name in meta(UNet2DConditionModel, SD1_UNET)]
    assert len(set(names)) == 686


def test_match_takes_the_spelling_that_fits_best() -> None:
    wanted = {"a": (2,), "b": (3,)}
    spellings = [Spelling("first", "", same), Spelling("second", "p.", same, "other.*")]
    present = {"p.a": (2,), "p.c": (1,), "p.other": (1,), "elsewhere": (1,), "p.old": (9,)}
    found = match(wanted, present, spellings, ["old"])
    assert found.spelling.title == "second"
    assert found.found == {"a": "p.a"}
    assert found.missing == ("p.b",)
    assert found.extra == ("p.c",)
    assert found.unused == ("p.old",)
    assert not found.complete


def test_only_a_1x1_convolution_is_a_linear_layer() -> None:
    assert fits((4, 4, 1, 1), (4, 4)) and fits((4, 4), (4, 4, 1, 1))
    assert not fits((4, 4, 3, 3), (4, 4))
    assert not fits((4, 8), (8, 4))
    assert not fits((16,), (4, 4))
