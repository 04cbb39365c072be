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
    Tensors,
    context_width_by_tensors,
    encoder_by_tensors,
    find_text_prefix,
    nearest_spec,
    unet_by_tensors,
)
from .files import file_size
from .headers import TensorInfo, is_pickle, pickle_refusal, read_safetensors_header
from .key_prefixes import EMA_PREFIXES, TEXT_PREFIX, UNET_PREFIX, VAE_PREFIX
from .part_files import existing, find_safety_checker, find_tokenizer, needs_pickle

MODEL_NOTE = "multilingual_diffusion.model"  # metadata of files that `convert` wrote

# Lists a pickle's tensors by state-dict name: the wrapper `state_dict.` taken off, names of a
# second dictionary kept behind `state_dict_ema.`
TensorLister = Callable[[Path], Mapping[str, TensorInfo]]


def detect_checkpoint(
    path: Path, file: Path, layout: Layout, list_tensors: TensorLister | None
) -> Detection:
    """Tell what one file holds; `path` is what the user named, the file or the folder around it."""
    tensors, noted_model = _checkpoint_tensors(path, file, layout, list_tensors)
    config = existing(file.with_name("config.yaml")) if layout == "flagai" else None
    prefix = find_text_prefix(tensors)
    parts = _find_parts(file, tensors, config, has_text=prefix is not None)
    encoder, text_reason = None, _foreign_encoder(tensors)
    if prefix is not None:
        encoder, text_reason = encoder_by_tensors(tensors, prefix)
    unet_family, unet_reason = None, "no UNet in the file"
    if "unet" in parts:
        unet_family, unet_reason = unet_by_tensors(tensors)
    has_ema = any(name.startswith(EMA_PREFIXES) for name in tensors)
    reasons = [f"{file.name}: one file with {len(tensors)} tensors", text_reason, unet_reason]
    if has_ema:
        reasons.append("EMA weights present")
    hints = (noted_model, file.stem, file.parent.name)
    return Detection(
        path=path,
        layout=layout,
        spec=nearest_spec(encoder, context_width_by_tensors(tensors), hints, reasons),
        encoder=encoder,
        unet_family=unet_family,
        parts=parts,
        has_ema=has_ema,
        needs_pickle=needs_pickle(parts),
        reasons=tuple(reasons),
    )


def _find_parts(
    file: Path, tensors: Tensors, config: Path | None, *, has_text: bool
) -> dict[PartName, PartFiles]:
    """Return the parts in the file, and the tokenizer and the checker where they lie beside it."""
    inside: dict[PartName, bool] = {
        "text_encoder": has_text,
        "unet": any(name.startswith(UNET_PREFIX) for name in tensors),
        "vae": any(name.startswith(VAE_PREFIX) for name in tensors),
    }
    parts: dict[PartName, PartFiles] = {
        name: PartFiles((file,), config) for name, found in inside.items() if found
    }
    if not parts:
        raise FileRefused(f"{file} holds no part we know: {_what_else(tensors)}")
    folder = file.parent
    beside: dict[PartName, PartFiles | None] = {"safety_checker": find_safety_checker(folder)}
    if has_text:
        beside["tokenizer"] = find_tokenizer(folder) or find_tokenizer(folder / "tokenizer")
    parts |= {name: files for name, files in beside.items() if files}
    return parts


def _checkpoint_tensors(
    path: Path, file: Path, layout: Layout, list_tensors: TensorLister | None
) -> tuple[Tensors, str | None]:
    """Return the tensors by name, and the model that a file converted by us names."""
    if not is_pickle(file):
        header = read_safetensors_header(file)
        return header.tensors, header.metadata.get(MODEL_NOTE)
    if list_tensors is None:
        kind = "by its config.yaml a FlagAI checkpoint" if layout == "flagai" else "a checkpoint"
        raise pickle_refusal(path, f"{kind}, {file_size(file) / 1e9:.2f} GB")
    return list_tensors(file), None


def _foreign_encoder(tensors: Tensors) -> str:
    for prefix, what in (
        (f"{TEXT_PREFIX}transformer.", "the CLIP encoder of Stable Diffusion 1"),
        (f"{TEXT_PREFIX}model.", "the OpenCLIP encoder of Stable Diffusion 2"),
        ("conditioner.", "the encoders of SDXL"),
    ):
        if any(name.startswith(prefix) for name in tensors):
            return f"{prefix}* is {what}, not a part this pack loads; UNet and VAE only"
    return "no text encoder in the file"


def _what_else(tensors: Tensors) -> str:
    if any(name.startswith("down_blocks.") for name in tensors):
        return "it is a diffusers UNet alone; give the folder above its folder"
    if any(name.startswith(("encoder.down_blocks.", "decoder.up_blocks.")) for name in tensors):
        return "it is a diffusers VAE alone; give the folder above its folder"
    if any("lora" in name for name in tensors):
        return "it is a LoRA, not a model"
    return f"its first tensors are {', '.join(list(tensors)[:3]) or 'none'}"
