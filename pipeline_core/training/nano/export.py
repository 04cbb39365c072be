"""A finished run to the published folder: fp16 safetensors, old model_index, licence, card.

Everything together stays under `LIMIT` bytes; the folder loads through the same code as the real
models.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ...errors import InvalidRequest
from ..contrastive import MEAN, STD
from .checker import checker_config, checker_tensors
from .configs import SCHEDULER, TEXT, UNET, VAE, VISION
from .results import latest_unet, load_checker, load_tower, load_unet, load_vae
from .vocabulary import FILE_NAME

LIMIT = 16_000_000  # bytes of all files together

# published file of each part's weights
WEIGHTS = {
    "text_encoder": "model.safetensors",
    "unet": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
    "safety_checker": "model.safetensors",
}
MODEL_INDEX = {
    "_class_name": "AltDiffusionPipeline",
    "_diffusers_version": "0.6.0",
    "feature_extractor": ["transformers", "CLIPFeatureExtractor"],
    "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
    "scheduler": ["diffusers", "PNDMScheduler"],
    "text_encoder": ["alt_diffusion", "RobertaSeriesModelWithTransformation"],
    "tokenizer": ["transformers", "XLMRobertaTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}
PREPROCESSOR = {
    "crop_size": VISION["image_size"],
    "do_center_crop": True,
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_resize": True,
    "feature_extractor_type": "CLIPFeatureExtractor",
    "image_mean": list(MEAN),
    "image_std": list(STD),
    "resample": 3,
    "size": VISION["image_size"],
}


def export_run(folder: Path, target: Path, stage: str | None = None) -> int:
    """Write a run's model as the published folder; return the bytes of its files.

    `stage` None is nano, as far as it has come; "english" and "community" are the other two, with
    the English teacher as their text encoder.
    """
    own = stage is None
    return export(
        target,
        tokenizer=folder / "tokenizer" / FILE_NAME,
        text=load_tower(folder, "teacher-learning" if own else "teacher"),
        unet=latest_unet(folder) if own else load_unet(folder, stage),
        vae=load_vae(folder),
        checker=load_checker(folder),
    )


def export(
    target: Path,
    *,
    tokenizer: Path,
    text: torch.nn.Module,
    unet: torch.nn.Module,
    vae: torch.nn.Module,
    checker: Any,
) -> int:
    """Write the folder and return the bytes of its files.

    Raises:
        InvalidRequest: the files together pass the limit, or a weight does not fit into fp16.
    """
    states = {
        "text_encoder": _without_position_ids(text.state_dict()),
        "unet": unet.state_dict(),
        "vae": vae.state_dict(),
        "safety_checker": checker_tensors(checker),
    }
    for part, state in states.items():
        _write(target / part / WEIGHTS[part], state)
    configs: dict[str, Mapping[str, Any]] = {
        "model_index.json": MODEL_INDEX,
        "text_encoder/config.json": TEXT,
        "unet/config.json": {"_diffusers_version": "0.42.1", **UNET},
        "vae/config.json": {"_diffusers_version": "0.42.1", **VAE},
        "safety_checker/config.json": checker_config(),
        "scheduler/scheduler_config.json": SCHEDULER,
        "feature_extractor/preprocessor_config.json": PREPROCESSOR,
        "tokenizer/tokenizer_config.json": {
            "model_max_length": 77,
            "tokenizer_class": "XLMRobertaTokenizer",
        },
    }
    for name, values in configs.items():
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    shutil.copyfile(tokenizer, target / "tokenizer" / FILE_NAME)
    total = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    if total > LIMIT:
        raise InvalidRequest(f"{target} holds {total} bytes; nano may have {LIMIT}")
    return total


def _without_position_ids(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value for name, value in state.items() if not name.endswith("_ids")}


def _write(path: Path, state: Mapping[str, torch.Tensor]) -> None:
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    halves = {name: value.detach().half().contiguous() for name, value in state.items()}
    for name, value in halves.items():
        if not value.isfinite().all():
            raise InvalidRequest(f"{name} does not fit into fp16")
    save_file(halves, path, metadata={"format": "pt"})
