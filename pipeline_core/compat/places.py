"""Where a hub id or a library's model name lies on this machine; nothing is ever fetched."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from ..loading.devices import available_devices
from ..models.folders import ModelFolders
from ..models.specs import MODELS
from ..values import CheckedImages

logger = logging.getLogger("multilingual_diffusion")


def find_place(name_or_path: str | Path) -> str:
    """Return an existing path as it is, a known hub id as our name for that model.

    Anything else is returned unchanged, for the loader to find or to refuse with its own words.
    """
    text = str(name_or_path)
    if Path(text).exists():
        return text
    for spec in MODELS.values():
        if text in (spec.huggingface_id, spec.modelscope_id):
            return spec.name
    return text


def find_folder(name_or_path: str | Path) -> Path:
    """Return the folder of a model or of one part.

    Raises:
        ModelNotFound: nothing lies there.
    """
    place = find_place(name_or_path)
    return Path(place) if Path(place).exists() else ModelFolders().find_model(place)


def pick_device(name: str | torch.device) -> torch.device:
    """Return the device, or the best there is where this machine lacks it: said in the log.

    The examples of the model cards all say "cuda"; on a machine without one they still run.
    """
    wanted = torch.device("cuda" if str(name) == "gpu" else name)
    present = available_devices()
    if wanted.type in present:
        return wanted
    best = next(iter(present))
    logger.warning("there is no %s in this machine: the model runs on %s", wanted, best)
    return torch.device(best)


def pick_dtype(dtype: torch.dtype | None, device: torch.device) -> str | torch.dtype:
    """Return the dtype asked for; fp16 on a CPU, which is slow and overflows, becomes automatic."""
    if dtype is None:
        return "auto"
    if dtype == torch.float16 and device.type == "cpu":
        logger.warning("fp16 is not for CPUs: the model takes the best dtype of this one")
        return "auto"
    return dtype


def log_warnings(images: CheckedImages) -> None:
    """Say what went along with the pictures: these call surfaces have no other place for it."""
    for warning in images.warnings:
        logger.warning("%s", warning)
