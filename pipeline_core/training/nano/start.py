"""A run that goes on from a finished model: what `export` wrote becomes the results of stages.

The published folder holds no teacher and no optimizer state: the UNet becomes the result of stage
`guidance`, so that `details` trains it further, and the community's stages need a new teacher.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import torch

from ...errors import ModelNotFound, WeightsMismatch
from ..autoencoding import build_vae
from ..text_tower import AltClipText
from .checker import checker_state
from .configs import TEXT, VAE
from .export import WEIGHTS
from .results import RESULT, build_checker, build_unet, write_network
from .vocabulary import FILE_NAME

# stage whose result a part becomes
STAGE_OF = {
    "vae": "vae",
    "text_encoder": "teacher-learning",
    "safety_checker": "checker",
    "unet": "guidance",
}


def start_from(model: Path, folder: Path) -> None:
    """Fill a run's folder from a published one of nano; stages that have a result keep theirs.

    Raises:
        ModelNotFound: a part has no file.
        WeightsMismatch: a part is not one of nano's.
    """
    for part in ("tokenizer", *STAGE_OF):
        if not _file(model, part).is_file():
            raise ModelNotFound(f"{_file(model, part)} is missing; a run starts from all of nano")
    tokenizer = folder / "tokenizer" / FILE_NAME
    if not tokenizer.is_file():
        tokenizer.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(_file(model, "tokenizer"), tokenizer)
    for part, stage in STAGE_OF.items():
        if not (folder / stage / RESULT).is_file():
            write_network(_filled(part, _file(model, part)), folder / stage)


def _file(model: Path, part: str) -> Path:
    return model / part / (FILE_NAME if part == "tokenizer" else WEIGHTS[part])


def _filled(part: str, path: Path) -> torch.nn.Module:
    """Build the network of a part, in fp32, and fill it from its file."""
    from safetensors.torch import load_file

    network = _build(part)
    state: Mapping[str, torch.Tensor] = {k: v.float() for k, v in load_file(path).items()}
    if part == "safety_checker":
        state = checker_state(network, state)
    try:
        network.load_state_dict(state)
    except RuntimeError as exc:
        raise WeightsMismatch(f"{path} is not nano's {part}: {exc}") from exc
    return network


def _build(part: str) -> torch.nn.Module:
    if part == "unet":
        return build_unet()
    if part == "vae":
        return build_vae(VAE)
    return AltClipText(TEXT) if part == "text_encoder" else build_checker()
