"""Detect one file that holds everything (FlagAI, A1111, plain Stable Diffusion), or one network.

The key names and shapes tell what is in it; what a pickle holds cannot be known without opening it,
so a pickle needs the caller's lister, and with it permission.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from ..errors import FileRefused
from .detect_part import part_of_folder
from .detection import Detection, Layout, PartFiles, PartName
from .evidence import (
    Tensors,
    context_width_by_tensors,
    encoder_by_tensors,
    find_text_prefix,
    find_unet_prefix,
    find_vae_prefix,
    nearest_spec,
    unet_by_tensors,
)
from .files import file_size
from .headers import TensorInfo, is_pickle, pickle_refusal, read_safetensors_header
from .key_prefixes import EMA_PREFIXES, TEXT_PREFIX
from .part_files import existing, find_safety_checker, find_tokenizer, needs_pickle

MODEL_NOTE = "multilingual_diffusion.model"  # metadata of files that `convert` wrote
_XL = re.compile(r"sdxl|(?<![a-z])xl")

# Lists a pickle's tensors by state-dict name: the wrapper `state_dict.` taken off, names of a
# second dictionary kept behind `state_dict_ema.`
TensorLister = Callable[[Path], Mapping[str, TensorInfo]]


def detect_checkpoint(
    path: Path, file: Path, layout: Layout, list_tensors: TensorLister | None
) -> Detection:
    """Tell what one file holds; `path` is what the user named, the file or the folder around it."""
    tensors, metadata = _checkpoint_tensors(path, file, layout, list_tensors)
    config = existing(file.with_name("config.yaml")) if layout == "flagai" else None
    prefix, unet_prefix = find_text_prefix(tensors), find_unet_prefix(tensors)
    parts = _find_parts(file, tensors, metadata, config)
    encoder, text_reason = None, _foreign_encoder(tensors)
    if prefix is not None:
        encoder, text_reason = encoder_by_tensors(tensors, prefix)
    unet_family, unet_reason, width = None, "no UNet in the file", None
    if unet_prefix is not None:
        unet_family, unet_reason = unet_by_tensors(tensors, unet_prefix)
        width = context_width_by_tensors(tensors, unet_prefix)
    has_ema = "unet" in parts and any(name.startswith(EMA_PREFIXES) for name in tensors)
    reasons = [f"{file.name}: one file with {len(tensors)} tensors", text_reason, unet_reason]
    if has_ema:
        reasons.append("EMA weights present")
    hints = (metadata.get(MODEL_NOTE), file.stem, file.parent.name)
    return Detection(
        path=path,
        layout=layout,
        spec=nearest_spec(encoder, width, hints, reasons),
        encoder=encoder,
        unet_family=unet_family,
        parts=parts,
        has_ema=has_ema,
        needs_pickle=needs_pickle(parts),
        reasons=tuple(reasons),
    )


def _find_parts(
    file: Path, tensors: Tensors, metadata: Mapping[str, str], config: Path | None
) -> dict[PartName, PartFiles]:
    """Return the parts in the file, and the tokenizer and the checker where they lie beside it."""
    prefixes: dict[PartName, str | None] = {
        "text_encoder": find_text_prefix(tensors),
        "unet": find_unet_prefix(tensors),
        "vae": find_vae_prefix(tensors),
    }
    parts: dict[PartName, PartFiles] = {
        name: PartFiles((file,), config if prefix else _config_beside(file, name))
        for name, prefix in prefixes.items()
        if prefix is not None
    }
    if not parts:
        raise FileRefused(f"{file} holds no part we know: {_what_else(tensors)}")
    if prefixes["vae"] == "" and parts["vae"].config is None:
        _check_vae_alone(file, tensors, metadata)
    folder = file.parent
    beside: dict[PartName, PartFiles | None] = {"safety_checker": find_safety_checker(folder)}
    if "text_encoder" in parts:
        beside["tokenizer"] = find_tokenizer(folder) or find_tokenizer(folder / "tokenizer")
    parts |= {name: files for name, files in beside.items() if files}
    return parts


def _config_beside(file: Path, part: PartName) -> Path | None:
    """Return the config of a part whose file lies in its own folder."""
    return file.with_name("config.json") if part_of_folder(file.parent) == part else None


def _check_vae_alone(file: Path, tensors: Tensors, metadata: Mapping[str, str]) -> None:
    """Refuse a VAE whose latents are not Stable Diffusion's; SDXL's is alike but for its name."""
    shape = list(tensors["decoder.conv_in.weight"].shape)
    if len(shape) != 4 or shape[1] != 4:
        raise FileRefused(
            f"{file} is a VAE of another kind of model: its decoder.conv_in is {shape}, and "
            "Stable Diffusion's latents have 4 channels"
        )
    called = f"{file.name} {metadata.get('modelspec.architecture', '')}".lower()
    if _XL.search(called):
        raise FileRefused(
            f"{file} is by its name the VAE of SDXL, whose latents no model here makes; take "
            "that of Stable Diffusion 1 or 2, or rename the file if it is one"
        )


def _checkpoint_tensors(
    path: Path, file: Path, layout: Layout, list_tensors: TensorLister | None
) -> tuple[Tensors, Mapping[str, str]]:
    """Return the tensors by name, and the file's own notes."""
    if not is_pickle(file):
        header = read_safetensors_header(file)
        return header.tensors, header.metadata
    if list_tensors is None:
        kind = "by its config.yaml a FlagAI checkpoint" if layout == "flagai" else "a checkpoint"
        raise pickle_refusal(path, f"{kind}, {file_size(file) / 1e9:.2f} GB")
    return list_tensors(file), {}


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
    if any("lora" in name for name in tensors):
        return "it is a LoRA, not a model"
    return f"its first tensors are {', '.join(list(tensors)[:3]) or 'none'}"
