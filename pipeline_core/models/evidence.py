"""Tell encoders and UNets apart by tensor names, shapes and config values.

The rules of A1111's detection (models.md 1.4), with the m18 encoder known by `transformation_pre`
or its square projection. Every answer comes with a reason for people.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from .detection import UNetFamily
from .headers import TensorInfo
from .key_prefixes import TEXT_PREFIX, TEXT_WRAPPERS, UNET_PREFIX, VAE_PREFIX
from .specs import MODELS, EncoderFamily, ModelSpec

Tensors = Mapping[str, TensorInfo]

_WORDS = "embeddings.word_embeddings.weight"
# What a file of one network alone has: the original code's names, diffusers'; a VAE's are alike
_UNET_ALONE = (
    {"input_blocks.0.0.weight", "out.2.weight"},
    {"conv_in.weight", "conv_out.weight", "mid_block.resnets.0.conv1.weight"},
)
_VAE_ALONE = {"encoder.conv_in.weight", "decoder.conv_in.weight"}
_ADDED_EMBEDDINGS = ("label_emb.", "add_embedding.", "class_embedding.")


def find_text_prefix(tensors: Tensors) -> str | None:
    """Return what stands before `roberta.` or before `embeddings.` in a checkpoint's encoder.

    The answer starts with `cond_stage_model.`; None where there is no encoder that we know.
    """
    for words in (f"roberta.{_WORDS}", _WORDS):
        for wrapper in TEXT_WRAPPERS:
            if f"{TEXT_PREFIX}{wrapper}{words}" in tensors:
                return TEXT_PREFIX + wrapper
    return None


def encoder_by_tensors(tensors: Tensors, prefix: str) -> tuple[EncoderFamily | None, str]:
    """Decide the encoder family by names behind `prefix`."""
    if f"{prefix}roberta.{_WORDS}" in tensors:
        if f"{prefix}transformation_pre.weight" in tensors:
            return "altdiffusion-m18", f"{prefix}transformation_pre present -> m18 encoder"
        projection = tensors.get(f"{prefix}transformation.weight")
        shape = list(projection.shape) if projection else None
        if shape and len(shape) == 2 and shape[0] == shape[1]:
            return "altdiffusion-m18", f"{prefix}transformation is {shape} -> m18 encoder"
        return (
            "altdiffusion",
            f"{prefix}roberta present; transformation is {shape} -> m2/m9 encoder",
        )
    for stem in ("", "text_model.", "bert."):
        if f"{prefix}{stem}{_WORDS}" in tensors:
            return "chinese-clip", f"{prefix}{stem}embeddings present -> Chinese-CLIP encoder"
    return None, f"no text encoder of ours behind {prefix!r}"


def encoder_by_config(config: Mapping[str, Any]) -> tuple[EncoderFamily | None, str]:
    """Decide the encoder family by text_encoder/config.json."""
    kind = str(config.get("model_type"))
    names = str(config.get("architectures"))
    if kind.startswith("chinese_clip") or "ChineseCLIP" in names:
        return "chinese-clip", f"text encoder config: model_type {kind!r} -> Chinese-CLIP encoder"
    if "project_dim" in config or "RobertaSeries" in names:
        width, hidden = config.get("project_dim"), config.get("hidden_size")
        pre = config.get("has_pre_transformation", width == hidden)
        family: EncoderFamily = "altdiffusion-m18" if pre else "altdiffusion"
        size = "m18" if pre else "m2/m9"
        return family, f"text encoder config: project_dim {width} of {hidden} -> {size} encoder"
    return None, f"text encoder config: {kind!r} is not an encoder this pack loads"


def find_unet_prefix(tensors: Tensors) -> str | None:
    """Return what stands before a UNet's names: nothing in a file of it alone; None without one."""
    if any(name.startswith(UNET_PREFIX) for name in tensors):
        return UNET_PREFIX
    return "" if any(names <= tensors.keys() for names in _UNET_ALONE) else None


def find_vae_prefix(tensors: Tensors) -> str | None:
    """Return what stands before a VAE's names: nothing in a file of it alone; None without one."""
    if any(name.startswith(VAE_PREFIX) for name in tensors):
        return VAE_PREFIX
    return "" if tensors.keys() >= _VAE_ALONE else None


def unet_by_tensors(tensors: Tensors, prefix: str) -> tuple[UNetFamily, str]:
    """Decide the UNet family by the shapes of a single file."""
    first = tensors.get(f"{prefix}input_blocks.0.0.weight", tensors.get(f"{prefix}conv_in.weight"))
    channels = first.shape[1] if first and len(first.shape) == 4 else None
    if channels != 4:
        return "other", f"UNet takes {channels} channels, not 4: inpainting or another special kind"
    if any(name.startswith(tuple(prefix + name for name in _ADDED_EMBEDDINGS)) for name in tensors):
        return "other", "UNet has added embeddings: SDXL or unCLIP, not Stable Diffusion 1 or 2"
    projections = [
        info.shape
        for name, info in tensors.items()
        if name.startswith(prefix) and name.endswith(".proj_in.weight")
    ]
    if not projections:
        return "other", "UNet has no cross-attention"
    family: UNetFamily = "sd2" if len(projections[0]) == 2 else "sd1"
    return family, f"UNet proj_in has {len(projections[0])} dimensions -> {family} family"


def unet_by_config(config: Mapping[str, Any]) -> tuple[UNetFamily, str]:
    """Decide the UNet family by unet/config.json."""
    if config.get("in_channels", 4) != 4:
        return "other", f"UNet takes {config['in_channels']} channels, not 4"
    if config.get("addition_embed_type") or config.get("class_embed_type"):
        return "other", "UNet has added embeddings: SDXL or unCLIP, not Stable Diffusion 1 or 2"
    family: UNetFamily = "sd2" if config.get("use_linear_projection") else "sd1"
    width = config.get("cross_attention_dim")
    return family, f"UNet config: cross_attention_dim {width} -> {family} family"


def context_width_by_tensors(tensors: Tensors, prefix: str) -> int | None:
    """Return the width of the conditioning that a single file's UNet takes."""
    for name, info in tensors.items():
        if name.startswith(prefix) and name.endswith(".attn2.to_k.weight"):
            return info.shape[1] if len(info.shape) == 2 else None
    return None


def nearest_spec(
    encoder: EncoderFamily | None,
    context_width: object,
    hints: Iterable[object],
    reasons: list[str],
) -> ModelSpec | None:
    """Choose among the models of one encoder: by conditioning width, then by the names in `hints`.

    Adds its reason to `reasons`. None where the encoder is not ours.
    """
    family = [spec for spec in MODELS.values() if spec.encoder == encoder]
    exact = [spec for spec in family if spec.context_width == context_width]
    published = [spec for spec in family if spec.huggingface_id or spec.modelscope_id]
    candidates = exact or published
    if len(candidates) > 1:
        return _m2_or_m9(hints, reasons)
    return candidates[0] if candidates else None


def _m2_or_m9(hints: Iterable[object], reasons: list[str]) -> ModelSpec:
    for hint in hints:
        text = str(hint or "").lower().replace("_", "-")
        if re.search(r"(?<![a-z0-9])m9(?![0-9])", text):
            reasons.append(f"the name {hint!r} says m9")
            return MODELS["altdiffusion-m9"]
        if re.search(r"(?<![a-z0-9])(m2(?![0-9])|alt-?diffusion(?!-?m[0-9]))", text):
            reasons.append(f"the name {hint!r} says m2")
            return MODELS["altdiffusion"]
    reasons.append("m2 and m9 have the same shapes and no name tells: taken as m9")
    return MODELS["altdiffusion-m9"]
