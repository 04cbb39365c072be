"""The networks of `nano`: the published architectures with small numbers.

UNet widths are whole multiples of the first, with `norm_num_groups` 32 and heads 32 wide, so that
ComfyUI's own UNet can hold the same tensors. The text tower is XLM-R's, of the m18 kind: four
layers, of which the conditioning reads the third.
"""

from __future__ import annotations

from ...models.configs import PNDM_SCHEDULER, XLMR_LARGE, Config

CONTEXT_LENGTH = 77
NATIVE_SIZE = 128  # pixels
VOCABULARY = 2000  # pieces of the sentencepiece model, its three special ones included
HEAD_WIDTH = 32

TEXT: Config = {
    **XLMR_LARGE,
    "architectures": ["RobertaSeriesModelWithTransformation"],
    "model_type": "roberta_series",
    "hidden_size": 192,
    "intermediate_size": 320,
    "num_attention_heads": 6,
    "num_hidden_layers": 4,
    "max_position_embeddings": CONTEXT_LENGTH + 3,  # positions count from pad_token_id + 1
    "vocab_size": VOCABULARY + 2,  # sentencepiece id + 1, and <mask> last
    "project_dim": 192,
    "has_pre_transformation": True,
}

_WIDTHS = [64, 64, 128]

UNET: Config = {
    "_class_name": "UNet2DConditionModel",
    "act_fn": "silu",
    "attention_head_dim": [width // HEAD_WIDTH for width in _WIDTHS],  # heads, as in SD2's file
    "block_out_channels": _WIDTHS,
    "center_input_sample": False,
    "cross_attention_dim": TEXT["project_dim"],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 4,
    "layers_per_block": 1,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-05,
    "norm_num_groups": 32,
    "out_channels": 4,
    "sample_size": NATIVE_SIZE // 8,
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "upcast_attention": False,
    "use_linear_projection": True,
}

VAE: Config = {
    "_class_name": "AutoencoderKL",
    "act_fn": "silu",
    "block_out_channels": [32, 32, 64, 64],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "in_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 1,
    "norm_num_groups": 8,  # with 32 each of the 32 channels would lose its mean: flat colours
    "out_channels": 3,
    "sample_size": NATIVE_SIZE,
    "scaling_factor": 0.18215,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
}

VISION: Config = {
    "attention_dropout": 0.0,
    "hidden_act": "quick_gelu",
    "hidden_size": 96,
    "image_size": 64,
    "intermediate_size": 256,
    "layer_norm_eps": 1e-05,
    "num_attention_heads": 3,
    "num_channels": 3,
    "num_hidden_layers": 3,
    "patch_size": 8,
    "projection_dim": TEXT["project_dim"],
}

SCHEDULER: Config = PNDM_SCHEDULER
