"""Detect folders of parts, as diffusers and ModelScope write them: one sub-folder a part.

Published AltDiffusion folders name a library that diffusers no longer has, so `model_index.json` is
read here as plain data, and parts are found by their folders.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import FileRefused, ModelNotFound
from .detection import PARTS, Detection, Layout, PartFiles, PartName
from .evidence import encoder_by_config, encoder_by_tensors, nearest_spec, unet_by_config
from .headers import is_pickle, read_safetensors_header
from .part_files import existing, find_safety_checker, find_tokenizer, find_weights, needs_pickle
from .specs import EncoderFamily
from .strict_json import read_json

MODELSCOPE_CLASS = "_DiffuersChineseStableDiffusionPipeline"  # sic


def detect_folder(folder: Path) -> Detection:
    """Read `model_index.json` and the configs of a folder of parts."""
    index_file = folder / "model_index.json"
    has_index = index_file.exists()
    index = read_json(index_file) if has_index else {}
    reasons = ["model_index.json present" if has_index else "sub-folders unet/text_encoder present"]
    parts, absent = _find_parts(folder, index)
    reasons += [f"{name}: declared absent" for name in absent]
    missing: tuple[PartName, ...] = tuple(
        name for name in PARTS if name in index and name not in {*parts, *absent}
    )
    reasons += [f"{name}: not in the folder" for name in PARTS if name not in {*parts, *absent}]

    encoder, text_config = _folder_encoder(parts.get("text_encoder"), reasons)
    if encoder is None:  # a CLIP or another encoder: not a part we can build
        parts.pop("text_encoder", None)
        parts.pop("tokenizer", None)
    unet_family, width = None, None
    if "unet" in parts:
        config = _config(parts["unet"])
        unet_family, reason = unet_by_config(config)
        width = config.get("cross_attention_dim")
        reasons.append(reason)
    layout = _folder_layout(folder, index, reasons)
    hints = (_own_name(folder), index.get("_name_or_path"), text_config.get("_name_or_path"))
    spec = nearest_spec(encoder, width, hints, reasons)
    return Detection(
        path=folder,
        layout=layout,
        spec=spec,
        encoder=encoder,
        unet_family=unet_family,
        parts=parts,
        absent=absent,
        missing=missing,
        needs_pickle=needs_pickle(parts),
        reasons=tuple(reasons),
    )


def _own_name(folder: Path) -> str:
    """Return the folder's name; in the hub's cache, `models--ORG--NAME/snapshots/HASH`, NAME."""
    in_cache = folder.parent.name == "snapshots"
    return folder.parent.parent.name.rpartition("--")[2] if in_cache else folder.name


def _find_parts(
    folder: Path, index: Mapping[str, Any]
) -> tuple[dict[PartName, PartFiles], tuple[PartName, ...]]:
    absent: tuple[PartName, ...] = tuple(
        name for name in PARTS if index.get(name, "") in (None, [None, None])
    )
    parts: dict[PartName, PartFiles] = {}
    for name in ("text_encoder", "unet", "vae"):
        if (folder / name).is_dir():
            config = existing(folder / name / "config.json")
            parts[name] = PartFiles(find_weights(folder / name), config)
    if not parts:
        raise ModelNotFound(f"{folder} holds no text_encoder, unet or vae folder with weights")
    scheduler = existing(folder / "scheduler" / "scheduler_config.json")
    found: dict[PartName, PartFiles | None] = {
        "tokenizer": find_tokenizer(folder / "tokenizer") or find_tokenizer(folder),
        "safety_checker": find_safety_checker(folder),
        "scheduler": PartFiles(config=scheduler) if scheduler else None,
    }
    parts |= {name: files for name, files in found.items() if files and name not in absent}
    return parts, absent


def _folder_encoder(
    files: PartFiles | None, reasons: list[str]
) -> tuple[EncoderFamily | None, Mapping[str, Any]]:
    """Decide by tensor names where headers can be read, else by the config."""
    if files is None:
        return None, {}
    pickled = any(is_pickle(file) for file in files.weights)
    config = _config(files) if files.config or pickled else {}
    family, reason = encoder_by_config(config)
    if not pickled:
        tensors = {
            name: info
            for file in files.weights
            for name, info in read_safetensors_header(file).tensors.items()
        }
        named, name_reason = encoder_by_tensors(tensors, "")
        if named:
            family, reason = named, f"text encoder: {name_reason}"
    reasons.append(reason)
    return family, config


def _folder_layout(folder: Path, index: Mapping[str, Any], reasons: list[str]) -> Layout:
    name = index.get("_class_name")
    if name == MODELSCOPE_CLASS or (folder / "configuration.json").exists():
        reasons.append(f"configuration.json or {name} -> ModelScope layout")
        return "modelscope"
    reasons.append(f"pipeline class {name} -> diffusers layout")
    return "diffusers"


def _config(files: PartFiles) -> dict[str, Any]:
    if files.config is None:
        where = files.weights[0].parent if files.weights else "the part"
        raise FileRefused(f"{where} has no config.json; download the folder again")
    return read_json(files.config)
