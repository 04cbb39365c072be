"""Bridges without ComfyUI: what is said of a network to the host's classes, and PLMS's steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import tiny
import torch
from multilingual_diffusion.nodes.bridges import lora_report
from multilingual_diffusion.nodes.bridges.sampling import plms_sigmas, sample_plms
from multilingual_diffusion.nodes.bridges.unet_config import schedule_settings, unet_settings
from multilingual_diffusion.nodes.bridges.vae import vae_settings
from multilingual_diffusion.pipeline_core.errors import InvalidRequest
from multilingual_diffusion.pipeline_core.models.configs import (
    KL_F8_VAE,
    PNDM_SCHEDULER,
    SD1_UNET,
    SD2_UNET,
)
from multilingual_diffusion.pipeline_core.sampling import SamplingOptions, sample
from multilingual_diffusion.pipeline_core.values import Conditioning, Latents

HEADS = {"num_attention_heads": None, "use_linear_projection": False}


def full(config: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    """Return a config with every key, as a diffusers network carries it."""
    return {**HEADS, **config, **changes}


def test_settings_of_stable_diffusion_1_and_2() -> None:
    one, two = unet_settings(full(SD1_UNET)), unet_settings(full(SD2_UNET))
    # what ComfyUI's own detection says of the published files
    assert one["model_channels"] == two["model_channels"] == 320
    assert one["channel_mult"] == two["channel_mult"] == [1, 2, 4, 4]
    assert one["num_res_blocks"] == two["num_res_blocks"] == [2, 2, 2, 2]
    assert one["transformer_depth"] == two["transformer_depth"] == [1, 1, 1, 1, 1, 1, 0, 0]
    assert one["transformer_depth_output"] == [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0]
    assert (one["num_heads"], one["num_head_channels"], one["context_dim"]) == (8, -1, 768)
    assert (two["num_heads"], two["num_head_channels"], two["context_dim"]) == (-1, 64, 1024)
    assert (one["use_linear_in_transformer"], two["use_linear_in_transformer"]) == (False, True)


def test_heads_count_only_where_there_is_attention() -> None:
    blocks = {
        "block_out_channels": [64, 64, 128],
        "attention_head_dim": [7, 2, 4],  # the first block has none
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    }
    assert unet_settings(full(SD1_UNET, **blocks))["num_head_channels"] == 32


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("act_fn", "gelu"), ("norm_num_groups", 16), ("norm_eps", 1e-6), ("freq_shift", 1),
        ("flip_sin_to_cos", False), ("center_input_sample", True), ("downsample_padding", 0),
        ("mid_block_scale_factor", 2), ("block_out_channels", [320, 480, 640, 640]),
        ("attention_head_dim", [8, 10, 20, 8]),
    ],
)  # fmt: skip
def test_what_the_host_cannot_build_is_refused(key: str, value: object) -> None:
    with pytest.raises(InvalidRequest, match=f"{key}|heads") as caught:
        unet_settings(full(SD1_UNET, **{key: value}))
    assert "Multilingual Sampler" in str(caught.value)


def test_schedules_by_the_hosts_names() -> None:
    settings = schedule_settings(PNDM_SCHEDULER)
    assert settings == {
        "beta_schedule": "linear", "linear_start": 0.00085, "linear_end": 0.012,
        "timesteps": 1000, "zsnr": False,
    }  # fmt: skip
    assert schedule_settings({"beta_schedule": "linear"})["beta_schedule"] == "sqrt_linear"
    assert schedule_settings({"trained_betas": [0.1, 0.2]}) == {}


def test_settings_of_vaes() -> None:
    settings = vae_settings(KL_F8_VAE)
    assert settings["embed_dim"] == 4
    assert settings["ddconfig"]["ch"] == 128
    assert settings["ddconfig"]["ch_mult"] == [1, 2, 4, 4]
    for changes in ({"act_fn": "gelu"}, {"block_out_channels": [48, 48, 96, 96]}):
        with pytest.raises(InvalidRequest, match="Multilingual VAE Decode"):
            vae_settings({**KL_F8_VAE, **changes})


class Formula:
    """A denoiser that knows v or epsilon only, and depends on the timestep."""

    device = torch.device("cpu")

    def __call__(
        self, latents: torch.Tensor, timestep: torch.Tensor, embeddings: torch.Tensor
    ) -> torch.Tensor:
        return torch.tanh(latents * 0.5 + embeddings.mean()) * (1 + timestep / 2000)


def test_plms_for_the_host_takes_our_own_steps() -> None:
    from multilingual_diffusion.pipeline_core.sampling.prediction import to_clean
    from multilingual_diffusion.pipeline_core.sampling.schedules import (
        sigmas_from_alphas,
        timesteps_of,
    )

    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    table = sigmas_from_alphas((1 - betas).cumprod(0).numpy())
    config = {
        **PNDM_SCHEDULER, "trained_betas": betas.tolist(), "num_train_timesteps": 1000,
    }  # fmt: skip
    sigmas = plms_sigmas(config, 10)
    assert len(sigmas) == 11 and bool((sigmas.diff() < 0).all())
    text = Conditioning(torch.ones(1, 3, 8) * 0.3)
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))

    def as_the_host(latents: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        level = float(sigma[0])
        seen = latents * (1 + level**2) ** -0.5
        timestep = torch.tensor(timesteps_of(sigma.double().numpy(), table)[0])
        output = Formula()(seen, timestep, text.embeddings)
        return to_clean(output, seen, level, "v_prediction")

    shown: list[int] = []
    found = sample_plms(
        as_the_host, noise * sigmas[0], sigmas, {}, lambda step: shown.append(step["i"]),
        scheduler_config=config,
    )  # fmt: skip
    wanted = sample(
        Formula(), text, None,
        SamplingOptions(
            sampler="plms", sigmas=tuple(sigmas.tolist()), guidance_scale=1.0, width=64, height=64
        ),
        scheduler_config=PNDM_SCHEDULER, prediction_type="v_prediction", scaling_factor=1.0,
        init=Latents(torch.zeros(1, 4, 8, 8)), noise=noise,
    ).samples  # fmt: skip
    assert shown == list(range(10))
    assert float((found - wanted).abs().max()) <= 1e-4 * float(wanted.abs().max())


def test_plms_refuses_uneven_levels() -> None:
    config = {**tiny.SCHEDULER}
    with pytest.raises(InvalidRequest, match="unequal timesteps"):
        sample_plms(
            lambda latents, sigma: latents, torch.zeros(1, 4, 8, 8),
            torch.tensor([14.0, 3.0, 2.9, 0.1]), scheduler_config=config,
        )  # fmt: skip


def test_layers_of_a_lora_are_named_once() -> None:
    places = {"lora_unet_mid_block_proj": "w", "unet.mid.processor.to_q": "q"}
    names = [
        "lora_unet_mid_block_proj.lora_up.weight", "lora_unet_mid_block_proj.lora_down.weight",
        "lora_unet_mid_block_proj.alpha", "unet.mid.processor.to_q_lora.up.weight",
        "lora_te_text_model_encoder_layers_0_mlp_fc1.lora_up.weight",
        "lora_te_text_model_encoder_layers_0_mlp_fc1.alpha", "lora_unet_other.lora_down.weight",
    ]  # fmt: skip
    assert lora_report._layers(names, places) == [
        "lora_te_text_model_encoder_layers_0_mlp_fc1", "lora_unet_mid_block_proj",
        "lora_unet_other", "unet.mid.processor.to_q",
    ]  # fmt: skip


def test_reports_say_how_many_and_why() -> None:
    report = lora_report.LoraReport(["a", "b"], {"are odd": ["c", "d", "e", "f"]})
    assert report.describe("x.safetensors").splitlines() == [
        "x.safetensors: 2 layers apply, 4 do not", "4 are odd (c, d, e, ...)",
    ]  # fmt: skip
