"""Configs that somebody else wrote, checked against our own tables before anything is built.

Keys in a table are passed on when their value is of the right kind and range; keys that would build
another network than ours must have their usual value; every other key (`auto_map`,
`trust_remote_code`, `_attn_implementation_internal` ...) is ignored and never reaches a library.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..errors import FileRefused
from ..models.configs import SCALING_FACTOR
from ..models.specs import EncoderFamily, published_spec
from .rules import Rule, flag, listed, number, one_of, optional, whole

Table = Mapping[str, Rule]

_WIDTHS = listed(whole(1, 8192), longest=8)
_HEADS = whole(1, 256) | listed(whole(1, 256), longest=8)

_UNET: Table = {
    "sample_size": whole(1, 4096),
    "in_channels": whole(4, 4),  # inpainting and depth UNets take more
    "out_channels": whole(4, 4),
    "center_input_sample": flag,
    "flip_sin_to_cos": flag,
    "freq_shift": whole(0, 1),
    "down_block_types": listed(one_of("CrossAttnDownBlock2D", "DownBlock2D"), longest=8),
    "up_block_types": listed(one_of("CrossAttnUpBlock2D", "UpBlock2D"), longest=8),
    "block_out_channels": _WIDTHS,
    "layers_per_block": whole(1, 8),
    "downsample_padding": whole(0, 1),
    "mid_block_scale_factor": number(0.01, 100.0),
    "act_fn": one_of("silu", "swish", "gelu", "mish"),
    "norm_num_groups": whole(1, 256),
    "norm_eps": number(1e-12, 1e-2),
    "cross_attention_dim": whole(1, 8192),
    "attention_head_dim": _HEADS,
    "num_attention_heads": optional(_HEADS),
    "use_linear_projection": flag,
    "upcast_attention": flag,
}
_UNET_REQUIRED = (
    "down_block_types", "up_block_types", "block_out_channels", "layers_per_block",
    "cross_attention_dim", "attention_head_dim",
)  # fmt: skip
_UNET_FIXED: Mapping[str, object] = {
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "only_cross_attention": False,
    "dual_cross_attention": False,
    "transformer_layers_per_block": 1,
    "reverse_transformer_layers_per_block": None,
    "encoder_hid_dim": None,
    "encoder_hid_dim_type": None,
    "class_embed_type": None,
    "addition_embed_type": None,
    "num_class_embeds": None,
    "resnet_time_scale_shift": "default",
    "resnet_skip_time_act": False,
    "resnet_out_scale_factor": 1.0,
    "time_embedding_type": "positional",
    "time_embedding_dim": None,
    "time_embedding_act_fn": None,
    "timestep_post_act": None,
    "time_cond_proj_dim": None,
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "projection_class_embeddings_input_dim": None,
    "attention_type": "default",
    "class_embeddings_concat": False,
    "mid_block_only_cross_attention": None,
    "cross_attention_norm": None,
}

_VAE: Table = {
    "in_channels": whole(3, 3),
    "out_channels": whole(3, 3),
    "latent_channels": whole(4, 4),
    "down_block_types": listed(one_of("DownEncoderBlock2D"), longest=8),
    "up_block_types": listed(one_of("UpDecoderBlock2D"), longest=8),
    "block_out_channels": _WIDTHS,
    "layers_per_block": whole(1, 8),
    "act_fn": one_of("silu", "swish", "gelu", "mish"),
    "norm_num_groups": whole(1, 256),
    "sample_size": whole(1, 16384),
    "scaling_factor": number(1e-3, 1e3),
}
_VAE_REQUIRED = ("down_block_types", "up_block_types", "block_out_channels", "layers_per_block")
_VAE_FIXED: Mapping[str, object] = {
    "shift_factor": None,
    "latents_mean": None,
    "latents_std": None,
    "use_quant_conv": True,
    "use_post_quant_conv": True,
    "mid_block_add_attention": True,
}
XLMR_PAD = 1

_TEXT: Table = {
    "vocab_size": whole(1, 2_000_000),
    "hidden_size": whole(1, 16384),
    "num_hidden_layers": whole(1, 128),
    "num_attention_heads": whole(1, 256),
    "intermediate_size": whole(1, 65536),
    "max_position_embeddings": whole(1, 65536),
    "type_vocab_size": whole(1, 16),
    "hidden_act": one_of("gelu", "quick_gelu", "relu"),
    "layer_norm_eps": number(1e-15, 1e-2),
    "initializer_range": number(0.0, 10.0),
    "hidden_dropout_prob": number(0.0, 1.0),
    "attention_probs_dropout_prob": number(0.0, 1.0),
    "pad_token_id": whole(0, 2_000_000),
    "bos_token_id": optional(whole(0, 2_000_000)),
    "eos_token_id": optional(whole(0, 2_000_000)),
    "project_dim": whole(1, 16384),
    "has_pre_transformation": flag,
}
_TEXT_REQUIRED = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")
_TEXT_FIXED: Mapping[str, object] = {"position_embedding_type": "absolute", "is_decoder": False}

_VISION: Table = {
    "hidden_size": whole(1, 16384),
    "intermediate_size": whole(1, 65536),
    "num_hidden_layers": whole(1, 128),
    "num_attention_heads": whole(1, 256),
    "num_channels": whole(3, 3),
    "image_size": whole(8, 2048),
    "patch_size": whole(1, 256),
    "hidden_act": one_of("quick_gelu", "gelu"),
    "layer_norm_eps": number(1e-15, 1e-2),
    "projection_dim": whole(1, 16384),
}

# What transformers' CLIPVisionConfig takes where a file does not say.
_VISION_DEFAULTS = {
    "hidden_size": 768, "num_attention_heads": 12, "image_size": 224, "patch_size": 32,
}  # fmt: skip

_BETA = number(1e-9, 0.9999)  # at 0 a step has no noise, at 1 nothing else: both give NaN
_SCHEDULER: Table = {
    "_class_name": Rule("a short name", lambda value: isinstance(value, str) and len(value) < 100),
    "_diffusers_version": Rule("a short text", lambda value: isinstance(value, str)),
    "num_train_timesteps": whole(1, 100_000),
    "beta_start": _BETA,
    "beta_end": _BETA,
    "beta_schedule": one_of("linear", "scaled_linear", "squaredcos_cap_v2"),
    "trained_betas": optional(listed(_BETA, longest=100_000)),
    "prediction_type": one_of("epsilon", "v_prediction"),
    "timestep_spacing": one_of("leading", "linspace", "trailing"),
    "steps_offset": whole(0, 1000),
    "set_alpha_to_one": flag,
    "skip_prk_steps": flag,
    "clip_sample": flag,
    "clip_sample_range": number(0.0, 1e3),
    "thresholding": flag,
    "dynamic_thresholding_ratio": number(0.0, 1.0),
    "sample_max_value": number(0.0, 1e3),
    "rescale_betas_zero_snr": flag,
    "interpolation_type": one_of("linear", "log_linear"),
    "solver_order": whole(1, 3),
    "solver_type": one_of("midpoint", "heun", "bh1", "bh2", "logrho"),
    "algorithm_type": one_of("dpmsolver", "dpmsolver++", "sde-dpmsolver", "sde-dpmsolver++"),
    "lower_order_final": flag,
    "euler_at_final": flag,
    "use_karras_sigmas": optional(flag),
    "use_lu_lambdas": optional(flag),
    "use_exponential_sigmas": optional(flag),
    "use_beta_sigmas": optional(flag),
    "final_sigmas_type": one_of("zero", "sigma_min"),
    # learned variances are six more channels of the UNet, which none of these models has
    "variance_type": optional(one_of("fixed_small", "fixed_large")),
    "predict_x0": flag,
}


def parse_unet_config(raw: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return what builds a UNet; `sample_size` is put right where early files had it wrong.

    Raises:
        FileRefused: naming the key, its value and what it must be.
    """
    config = _parse(raw, _UNET, where, required=_UNET_REQUIRED, fixed=_UNET_FIXED)
    _check_blocks(config, where)
    _check_head_counts(config, where)
    # Configs of 2022 said 32, meaning 64; diffusers' own pipelines correct the same cases.
    old = _version(raw.get("_diffusers_version")) < (0, 9, 0)
    if old and config.get("sample_size", 64) < 64:
        config["sample_size"] = 64
    return config


def parse_vae_config(raw: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return what builds a VAE; the scaling factor is 0.18215 where a file does not say.

    Raises:
        FileRefused: naming the key, its value and what it must be.
    """
    config = _parse(raw, _VAE, where, required=_VAE_REQUIRED, fixed=_VAE_FIXED)
    _check_blocks(config, where)
    return {"scaling_factor": SCALING_FACTOR, **config}


def parse_text_config(raw: Mapping[str, Any], where: str, family: EncoderFamily) -> dict[str, Any]:
    """Return what builds a text encoder of that family.

    Raises:
        FileRefused: naming the key, its value and what it must be.
    """
    config = _parse(raw, _TEXT, where, required=_TEXT_REQUIRED, fixed=_TEXT_FIXED)
    _check_heads(config, where)
    _check_positions(config, where, family)
    return config


def parse_safety_config(raw: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return what builds a safety checker: `vision_config` and `projection_dim`.

    Raises:
        FileRefused: naming the key, its value and what it must be.
    """
    vision = raw.get("vision_config", {})
    if not isinstance(vision, Mapping):
        raise FileRefused(f"{where}: vision_config is {vision!r:.80}; it must be an object")
    config = _parse(vision, _VISION, f"{where}: vision_config")
    full = {**_VISION_DEFAULTS, **config}
    _check_heads(full, where)
    if full["patch_size"] > full["image_size"]:
        raise FileRefused(
            f"{where}: patch_size {full['patch_size']} is larger than image_size "
            f"{full['image_size']}"
        )
    width = _parse(raw, {"projection_dim": _VISION["projection_dim"]}, where)
    return {"vision_config": config, **width}


def parse_scheduler_config(raw: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return a scheduler's values; absent keys stay absent, each class has its own default.

    Raises:
        FileRefused: naming the key, its value and what it must be.
    """
    config = _parse(raw, _SCHEDULER, where)
    betas, steps = config.get("trained_betas"), config.get("num_train_timesteps", 1000)
    if betas is not None and len(betas) != steps:
        raise FileRefused(f"{where}: {len(betas)} trained_betas for {steps} num_train_timesteps")
    return config


def _parse(
    raw: Mapping[str, Any],
    table: Table,
    where: str,
    *,
    required: tuple[str, ...] = (),
    fixed: Mapping[str, object] | None = None,
) -> dict[str, Any]:
    for key in required:
        if key not in raw:
            raise FileRefused(f"{where}: {key} is missing; get the file again")
    for key, value in (fixed or {}).items():
        if key in raw and raw[key] != value:
            raise FileRefused(f"{where}: {key} is {raw[key]!r:.80}; only {value!r} is supported")
    config = {key: raw[key] for key in table if key in raw}
    for key, value in config.items():
        if not table[key].accepts(value):
            raise FileRefused(f"{where}: {key} is {value!r:.80}; it must be {table[key].text}")
    return config


def _check_blocks(config: Mapping[str, Any], where: str) -> None:
    """Lists about blocks have one entry a block, and group norms divide the channels."""
    channels, groups = config["block_out_channels"], config.get("norm_num_groups", 32)
    for key in ("down_block_types", "up_block_types", "attention_head_dim"):
        value = config.get(key)
        if isinstance(value, list) and len(value) != len(channels):
            raise FileRefused(f"{where}: {key} has {len(value)} entries for {len(channels)} blocks")
    if any(width % groups for width in channels):
        raise FileRefused(f"{where}: {groups} norm groups do not divide the channels {channels}")


def _check_head_counts(config: Mapping[str, Any], where: str) -> None:
    """A UNet block has at least one channel a head; its key for heads is `attention_head_dim`."""
    channels = config["block_out_channels"]
    for key in ("attention_head_dim", "num_attention_heads"):
        heads = config.get(key)
        counts = heads if isinstance(heads, list) else [heads or 1] * len(channels)
        if any(count > width for count, width in zip(counts, channels, strict=False)):
            raise FileRefused(f"{where}: {key} {heads} is more than the channels {channels}")


def _check_positions(config: Mapping[str, Any], where: str, family: EncoderFamily) -> None:
    """Pads and positions are those that the tokenizer and a window of the family ask for."""
    spec = published_spec(family)
    full = {**spec.text_config, **config}
    pad, positions = full["pad_token_id"], full["max_position_embeddings"]
    needed = spec.context_length
    if family != "chinese-clip":  # XLM-R counts positions from behind the pad's id
        if pad != XLMR_PAD:
            raise FileRefused(
                f"{where}: pad_token_id is {pad}; XLM-R's tokenizer pads with {XLMR_PAD}"
            )
        needed += XLMR_PAD + 1
    if pad >= full["vocab_size"]:
        raise FileRefused(f"{where}: pad_token_id is {pad}; the vocab_size is {full['vocab_size']}")
    if positions < needed:
        raise FileRefused(
            f"{where}: max_position_embeddings is {positions}; a window of {spec.context_length} "
            f"tokens needs {needed}"
        )


def _check_heads(config: Mapping[str, Any], where: str) -> None:
    if config["hidden_size"] % config["num_attention_heads"]:
        raise FileRefused(
            f"{where}: {config['num_attention_heads']} heads do not divide "
            f"hidden_size {config['hidden_size']}"
        )


def _version(text: object) -> tuple[int, ...]:
    """Return the numbers of a version; none or garbage counts as new."""
    numbers = re.match(r"(\d{1,4})\.(\d{1,4})\.(\d{1,4})", text) if isinstance(text, str) else None
    return tuple(int(group) for group in numbers.groups()) if numbers else (999,)
