"""Published network configurations, as data: what a file without a config of its own is built from.

Values: BAAI/AltDiffusion (unet, text_encoder, scheduler configs), stable-diffusion-2-1-base,
OFA-Sys/Chinese-CLIP (RoBERTa-wwm-ext-large-chinese).
"""

from __future__ import annotations

from typing import Any

Config = dict[str, Any]

SCALING_FACTOR = 0.18215  # Stable Diffusion's, of every VAE here; configs of 2022 lack the key

_UNET: Config = {
    "act_fn": "silu",
    "block_out_channels": [320, 640, 1280, 1280],
    "center_input_sample": False,
    "down_block_types": [
        "CrossAttnDownBlock2D",
        "CrossAttnDownBlock2D",
        "CrossAttnDownBlock2D",
        "DownBlock2D",
    ],
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 4,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-05,
    "norm_num_groups": 32,
    "out_channels": 4,
    "sample_size": 64,
    "up_block_types": [
        "UpBlock2D",
        "CrossAttnUpBlock2D",
        "CrossAttnUpBlock2D",
        "CrossAttnUpBlock2D",
    ],
}

SD1_UNET: Config = {**_UNET, "cross_attention_dim": 768, "attention_head_dim": 8}

SD2_UNET: Config = {
    **_UNET,
    "cross_attention_dim": 1024,
    "attention_head_dim": [5, 10, 20, 20],
    "use_linear_projection": True,
    "upcast_attention": False,
}

KL_F8_VAE: Config = {
    "act_fn": "silu",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "in_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "out_channels": 3,
    "sample_size": 512,
    "scaling_factor": SCALING_FACTOR,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
}

XLMR_LARGE: Config = {
    "attention_probs_dropout_prob": 0.0,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.0,
    "hidden_size": 1024,
    "initializer_range": 0.02,
    "intermediate_size": 4096,
    "layer_norm_eps": 1e-05,
    "max_position_embeddings": 514,
    "num_attention_heads": 16,
    "num_hidden_layers": 24,
    "pad_token_id": 1,
    "type_vocab_size": 1,
    "vocab_size": 250002,
}

ALT_TEXT: Config = {**XLMR_LARGE, "project_dim": 768}
ALT_M18_TEXT: Config = {**XLMR_LARGE, "project_dim": 1024, "has_pre_transformation": True}

CHINESE_CLIP_TEXT: Config = {
    "attention_probs_dropout_prob": 0.0,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.0,
    "hidden_size": 1024,
    "initializer_range": 0.02,
    "intermediate_size": 4096,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 512,
    "num_attention_heads": 16,
    "num_hidden_layers": 24,
    "pad_token_id": 0,
    "type_vocab_size": 2,
    "vocab_size": 21128,
}

# The published scheduler file: absent keys stay absent, each sampler class has its own default.
PNDM_SCHEDULER: Config = {
    "_class_name": "PNDMScheduler",
    "_diffusers_version": "0.6.0",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
    "clip_sample": False,
}
