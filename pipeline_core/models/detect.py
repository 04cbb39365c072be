"""A path goes in, a `Detection` comes out: which layout, which parts in which files, and why.

Only names, JSON configs and safetensors headers are read. What a pickle holds cannot be known
without opening it, so a pickled single file needs the caller's lister, and with it permission.
"""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import ModelNotFound
from .detect_checkpoint import TensorLister, detect_checkpoint
from .detect_folder import detect_folder
from .detect_part import detect_part
from .detection import Detection
from .files import list_folder

CHECKPOINT_SUFFIXES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")


def detect(path: Path | str, *, list_tensors: TensorLister | None = None) -> Detection:
    """Tell what lies at a path, without reading weights.

    `list_tensors` lists the tensors of a pickle; pass one only where the user allowed pickles.

    Raises:
        ModelNotFound: nothing is there, or a folder holds no model.
        FileRefused: a file is broken or hostile, or a pickle and no lister was given.
    """
    path = Path(path)
    if not os.path.lexists(path):
        raise ModelNotFound(f"nothing lies at {str(path)[:200]!r}; see `models list`")
    if not path.is_dir():
        return detect_checkpoint(path, path, "checkpoint", list_tensors)
    if any((path / name).exists() for name in ("model_index.json", "unet", "text_encoder")):
        return detect_folder(path)
    return detect_part(path) or _detect_checkpoint_folder(path, list_tensors)


def _detect_checkpoint_folder(folder: Path, list_tensors: TensorLister | None) -> Detection:
    entries = [path for path in list_folder(folder) if not path.name.startswith(".")]
    if not entries:
        raise ModelNotFound(f"{folder} is empty; `multilingual-diffusion models download NAME`")
    files = [path for path in entries if path.suffix in CHECKPOINT_SUFFIXES and path.is_file()]
    for name in ("model.safetensors", "model.ckpt"):
        if (folder / "config.yaml").exists() and folder / name in files:
            return detect_checkpoint(folder, folder / name, "flagai", list_tensors)
    if len(files) == 1:
        return detect_checkpoint(folder, files[0], "checkpoint", list_tensors)
    if files:
        names = ", ".join(path.name for path in files[:5])
        raise ModelNotFound(f"{folder} holds {len(files)} weights files; name one of: {names}")
    if (folder / "config.json").exists():
        raise ModelNotFound(f"{folder} looks like one part of a model, and none this pack loads")
    raise ModelNotFound(f"{folder} holds no model: no model_index.json and no weights file")
