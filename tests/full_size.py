"""Full-size models of random weights, written once: 3 GB on disk in fp16, 6 GB in fp32.

Weights are drawn so that activations stay in range through all layers, and norms are not 1.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tiny
import torch
from multilingual_diffusion.pipeline_core.models.specs import ModelSpec
from multilingual_diffusion.pipeline_core.text.encoders import ENCODERS
from safetensors.torch import save_file


def write_folder(path: Path, spec: ModelSpec, dtype: torch.dtype) -> Path:
    """Write unet, vae and text encoder of a model as a diffusers folder, without a checker."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    write_part(
        path / "unet", lambda: UNet2DConditionModel(**spec.unet_config), spec.unet_config, 1, dtype
    )
    write_part(path / "vae", lambda: AutoencoderKL(**spec.vae_config), spec.vae_config, 2, dtype)
    build = ENCODERS[spec.encoder].build
    write_part(
        path / "text_encoder", lambda: build(spec.text_config), spec.text_config, 3, dtype, "model"
    )
    tiny.write_json(path / "scheduler" / "scheduler_config.json", spec.scheduler_config)
    (path / "tokenizer").mkdir(parents=True)
    source = tiny.sentencepiece_file()
    (path / "tokenizer" / "sentencepiece.bpe.model").write_bytes(source.read_bytes())
    index = {
        "_class_name": "AltDiffusionPipeline",
        "safety_checker": [None, None],
        "feature_extractor": [None, None],
    }
    tiny.write_json(path / "model_index.json", index)
    return path


def write_part(
    folder: Path,
    build: Callable[[], torch.nn.Module],
    config: dict[str, Any],
    seed: int,
    dtype: torch.dtype,
    stem: str = "diffusion_pytorch_model",
) -> None:
    """Write one network's weights and its config."""
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in build().state_dict().items()}
    generator = torch.Generator().manual_seed(seed)
    tensors = {name: draw(name, shape, generator).to(dtype) for name, shape in shapes.items()}
    folder.mkdir(parents=True)
    save_file(tensors, folder / f"{stem}.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


def draw(name: str, shape: torch.Size, generator: torch.Generator) -> torch.Tensor:
    """Draw one tensor: norms around 1, small biases, matrices that keep the variance."""
    noise = torch.randn(shape, generator=generator)
    if len(shape) > 1:
        return noise * noise[0].numel() ** -0.5
    return noise * 0.1 + (1.0 if name.endswith("weight") else 0.0)
