"""Tiny real components, built from configs with seeded random weights (wide: no identity norms).

Nothing here is a mock: the same classes as the full-size models, a few thousand parameters each.
"""

from __future__ import annotations

import functools
import json
import tempfile
from pathlib import Path

import torch

SHARED = Path(__file__).parents[2] / "shared" / "data"  # reference data; absent in most clones

WIDTH, PROJECT = 32, 24  # XLM-R hidden size, m2/m9 conditioning width (m18: WIDTH)

UNET = {
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": [32, 64, 64, 64],
    "layers_per_block": 2,
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
    "norm_num_groups": 32,
    "attention_head_dim": 8,
}
UNET_M9 = {**UNET, "cross_attention_dim": PROJECT}
# 64 channels a head, as SD2 has: a single file does not store the number of heads
UNET_M18 = {
    **UNET,
    "block_out_channels": [64, 64, 128, 64],
    "cross_attention_dim": WIDTH,
    "attention_head_dim": [1, 1, 2, 1],
    "use_linear_projection": True,
}
VAE = {
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "block_out_channels": [32, 32, 64, 64],
    "layers_per_block": 2,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "norm_num_groups": 32,
    "sample_size": 64,
    "scaling_factor": 0.18215,
}
# 16 heads, as XLM-R-large has: a single file does not store the number of heads
XLMR = {
    "hidden_size": WIDTH,
    "num_hidden_layers": 3,
    "num_attention_heads": 16,
    "intermediate_size": 48,
    "max_position_embeddings": 514,
    "type_vocab_size": 1,
    "layer_norm_eps": 1e-5,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "hidden_act": "gelu",
}
CHINESE = {
    "hidden_size": WIDTH,
    "num_hidden_layers": 3,
    "num_attention_heads": 16,  # as published: a single file does not say
    "intermediate_size": 48,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "pad_token_id": 0,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "hidden_act": "gelu",
}
SCHEDULER = {
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


def widen(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Give every parameter a value that matters: norms are not 1, biases are not 0."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in module.named_parameters():
            noise = torch.randn(value.shape, generator=generator)
            is_norm = value.ndim == 1 and name.endswith("weight")
            scale = 0.2 if value.ndim == 1 else 1.2 * value[0].numel() ** -0.5
            value.copy_(noise * scale + (1.0 if is_norm else 0.0))
    return module.train(False).requires_grad_(False)


def unet(config: dict = UNET_M9, seed: int = 1) -> torch.nn.Module:
    """Return a UNet2DConditionModel."""
    from diffusers import UNet2DConditionModel

    return widen(UNet2DConditionModel(**config), seed)


def vae(seed: int = 2) -> torch.nn.Module:
    """Return an AutoencoderKL, factor 8."""
    from diffusers import AutoencoderKL

    return widen(AutoencoderKL(**VAE), seed)


def roberta_series(m18: bool = False, vocab_size: int = 300, seed: int = 3) -> torch.nn.Module:
    """Return diffusers' own AltDiffusion encoder: the reference of m2/m9 and m18."""
    from diffusers.pipelines.deprecated.alt_diffusion.modeling_roberta_series import (
        RobertaSeriesConfig,
        RobertaSeriesModelWithTransformation,
    )

    config = RobertaSeriesConfig(
        **XLMR,
        vocab_size=vocab_size,
        project_dim=WIDTH if m18 else PROJECT,
        pooler_fn="cls",
        learn_encoder=False,
        use_attention_mask=True,
    )
    config.has_pre_transformation = m18
    return widen(RobertaSeriesModelWithTransformation(config), seed)


def chinese_clip(vocab_size: int = 21128, seed: int = 4) -> torch.nn.Module:
    """Return transformers' ChineseCLIPTextModel without its pooler: the reference of Chinese SD."""
    from transformers import ChineseCLIPTextConfig, ChineseCLIPTextModel

    config = ChineseCLIPTextConfig(**CHINESE, vocab_size=vocab_size)
    return widen(ChineseCLIPTextModel(config, add_pooling_layer=False), seed)


def safety_checker(seed: int = 5) -> torch.nn.Module:
    """Return diffusers' StableDiffusionSafetyChecker with a tiny vision tower."""
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
    from transformers import CLIPConfig

    vision = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": 32,
        "patch_size": 8,
        "projection_dim": 16,
        "hidden_act": "quick_gelu",
    }
    module = StableDiffusionSafetyChecker(CLIPConfig(vision_config=vision, projection_dim=16))
    return widen(module, seed)


@functools.cache
def sentencepiece_file() -> Path:
    """Train a 260-piece unigram model once; ids follow the XLM-R rule (sp id + 1)."""
    import sentencepiece

    folder = Path(tempfile.mkdtemp(prefix="tiny-sentencepiece-"))
    words = (Path(__file__).parent / "data" / "tiny_corpus.txt").read_text(encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(words.splitlines()),
        model_prefix=str(folder / "sentencepiece.bpe"),
        vocab_size=260,
        hard_vocab_limit=False,
        character_coverage=1.0,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        minloglevel=2,
    )
    return folder / "sentencepiece.bpe.model"


def write_json(path: Path, value: object) -> None:
    """Write a JSON file, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2), encoding="utf-8")
