"""Detect the folder of one part alone, such as a VAE that is published by itself.

Its `config.json` says which part it is, unless the user does; the weights lie beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import FileRefused
from .detection import Detection, PartFiles, PartName
from .evidence import encoder_by_config, nearest_spec, unet_by_config
from .part_files import existing, find_tokenizer, find_weights, needs_pickle
from .strict_json import read_json

_CLASSES: dict[str, PartName] = {
    "AutoencoderKL": "vae",
    "UNet2DConditionModel": "unet",
    "StableDiffusionSafetyChecker": "safety_checker",
}


def part_of_folder(folder: Path) -> PartName | None:
    """Tell which part a folder holds by itself; None where it is a whole model, or no part."""
    config = existing(folder / "config.json")
    if config is None or (folder / "model_index.json").exists():
        return None
    try:
        return _part_of_config(read_json(config))
    except FileRefused:
        return None


def detect_part(folder: Path, part: PartName | None = None) -> Detection | None:
    """Return the one part that a folder holds; None where it holds none, or a whole model.

    A text encoder's tokenizer may lie beside its weights.

    Args:
        part: what the user says it is; None: its config says.

    Raises:
        FileRefused: the config is broken, or there are no weights.
    """
    if not folder.is_dir() or (folder / "model_index.json").exists():
        return None
    tokenizer = find_tokenizer(folder)
    if part == "tokenizer":
        return _detection(folder, {}, {"tokenizer": tokenizer}) if tokenizer else None
    config_file = existing(folder / "config.json")
    if config_file is None:
        return None
    config = read_json(config_file)
    part = part or _part_of_config(config)
    if part is None:
        return None
    preprocessor = existing(folder / "preprocessor_config.json")
    extra = {"preprocessor": preprocessor} if preprocessor else {}
    parts: dict[PartName, PartFiles] = {part: PartFiles(find_weights(folder), config_file, extra)}
    if part == "text_encoder" and tokenizer:
        parts["tokenizer"] = tokenizer
    return _detection(folder, config, parts)


def _part_of_config(config: Mapping[str, Any]) -> PartName | None:
    for name in (config.get("_class_name"), *(config.get("architectures") or ())):
        if name in _CLASSES:
            return _CLASSES[name]
    return "text_encoder" if encoder_by_config(config)[0] else None


def _detection(
    folder: Path, config: Mapping[str, Any], parts: Mapping[PartName, PartFiles]
) -> Detection:
    encoder = encoder_by_config(config)[0] if "text_encoder" in parts else None
    unet_family, width = None, None
    reasons = [f"config.json of one part alone: {', '.join(parts)}"]
    if "unet" in parts:
        unet_family, reason = unet_by_config(config)
        width = config.get("cross_attention_dim")
        reasons.append(reason)
    return Detection(
        path=folder,
        layout="diffusers",
        spec=nearest_spec(encoder, width, (folder.name, folder.parent.name), reasons),
        encoder=encoder,
        unet_family=unet_family,
        parts=parts,
        needs_pickle=needs_pickle(parts),
        reasons=tuple(reasons),
    )
