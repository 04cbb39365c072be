"""Detect one file that holds everything: FlagAI, A1111, plain Stable Diffusion.

The key names and shapes tell what is in it; what a pickle holds cannot be known without opening it,
so a pickle needs the caller's lister, and with it permission.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from ..errors import FileRefused
from .detection import Detection, Layout, PartFiles, PartName
from .evidence import (
    EMA_PREFIXES,
    TEXT_PREFIX,
    UNET_PREFIX,
    VAE_PREFIX,
    Tensors,
    context_width_by_tensors,
    encoder_by_tensors,
    find_text_prefix,
    nearest_spec,
    unet_by_tensors,
)
from .files import file_size
from .headers import TensorInfo, is_pickle, pickle_refusal, read_safetensors_header
from .part_files import existing, find_safety_checker, find_tokenizer, needs_pickle

# Lists a pickle's tensors by state-dict name: the wrapper `state_dict.` taken off, names of a
# second dictionary kept behind `state_dict_ema.`
TensorLister = Callable[[Path], Mapping[str, TensorInfo]]


def detect_checkpoint(
    path: Path, file: Path, layout: Layout, list_tensors: TensorLister | None
) -> Detection:
    tensors = _checkpoint_tensors(path, file, layout, list_tensors)
    reasons = [f"{file.name}: one file with {len(tensors)} tensors"]
    config = existing(file.with_name("config.yaml")) if layout == "flagai" else None
    parts: dict[PartName, PartFiles] = {}
    prefix = find_text_prefix(tensors)
    encoder, width, unet_family = None, None, None
    if prefix is not None:
        encoder, reason = encoder_by_tensors(tensors, prefix)
        reasons.append(reason)
        parts["text_encoder"] = PartFiles((file,), config)
        tokenizer = find_tokenizer(file.parent) or find_tokenizer(file.parent / "tokenizer")
        if tokenizer:
            parts["tokenizer"] = tokenizer
    else:
        reasons.append(_foreign_encoder(tensors))
    if any(name.startswith(UNET_PREFIX) for name in tensors):
        unet_family, reason = unet_by_tensors(tensors)
        width = context_width_by_tensors(tensors)
        reasons.append(reason)
        parts["unet"] = PartFiles((file,), config)
    if any(name.startswith(VAE_PREFIX) for name in tensors):
        parts["vae"] = PartFiles((file,), config)
    if not parts:
        raise FileRefused(f"{file} holds no part we know: {_what_else(tensors)}")
    checker = find_safety_checker(file.parent)
    if checker:
        parts["safety_checker"] = checker
    has_ema = any(name.startswith(EMA_PREFIXES) for name in tensors)
    if has_ema:
        reasons.append("EMA weights present")
    return Detection(
        path=path,
        layout=layout,
        spec=nearest_spec(encoder, width, (file.stem, file.parent.name), reasons),
        encoder=encoder,
        unet_family=unet_family,
        parts=parts,
        has_ema=has_ema,
        needs_pickle=needs_pickle(parts),
        reasons=tuple(reasons),
    )


def _checkpoint_tensors(
    path: Path, file: Path, layout: Layout, list_tensors: TensorLister | None
) -> Tensors:
    if not is_pickle(file):
        return read_safetensors_header(file).tensors
    if list_tensors is None:
        kind = "by its config.yaml a FlagAI checkpoint" if layout == "flagai" else "a checkpoint"
        raise pickle_refusal(path, f"{kind}, {file_size(file) / 1e9:.2f} GB")
    return list_tensors(file)


def _foreign_encoder(tensors: Tensors) -> str:
    for prefix, name in (
        (f"{TEXT_PREFIX}transformer.", "the CLIP encoder of Stable Diffusion 1"),
        (f"{TEXT_PREFIX}model.", "the OpenCLIP encoder of Stable Diffusion 2"),
        ("conditioner.", "the encoders of SDXL"),
    ):
        if any(name_.startswith(prefix) for name_ in tensors):
            return f"{prefix}* is {name}, not a part this pack loads; UNet and VAE only"
    return "no text encoder in the file"


def _what_else(tensors: Tensors) -> str:
    if any(name.startswith("down_blocks.") for name in tensors):
        return "it is a diffusers UNet alone; give the folder above its folder"
    if any(name.startswith(("encoder.down_blocks.", "decoder.up_blocks.")) for name in tensors):
        return "it is a diffusers VAE alone; give the folder above its folder"
    if any("lora" in name for name in tensors):
        return "it is a LoRA, not a model"
    return f"its first tensors are {', '.join(list(tensors)[:3]) or 'none'}"
