"""Write every published layout from the tiny components, for all tests that load files.

All layouts of one model hold the same seeded weights (`modules(model)`). Names and quirks are the
published ones (models.md 1.4, 2 and 3). Folders of parts are here, single files in `layout_files`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

import tiny
import torch
from layout_files import (
    TEXT_PREFIXES,
    ema_tensors,
    single_file_tensors,
    write_flagai_folder,
    write_sd_checkpoint,
    write_single_file,
)
from layout_parts import (
    PREPROCESSOR,
    Model,
    Tensors,
    cast_floats,
    ema_unet,
    modules,
    old_vae_attention,
    save_tensors,
    text_config,
    text_tensors,
    write_sentencepiece,
    write_wordpiece,
)

__all__ = [
    "TEXT_PREFIXES", "Model", "ema_tensors", "ema_unet", "modules", "save_tensors",
    "single_file_tensors", "text_config", "text_tensors", "write_diffusers_folder",
    "write_flagai_folder", "write_modelscope_folder", "write_safety_checker", "write_sd_checkpoint",
    "write_sentencepiece", "write_single_file", "write_wordpiece",
]  # fmt: skip


def write_diffusers_folder(
    path: Path,
    model: Model = "m9",
    *,
    weights: Literal["bin", "safetensors"] = "bin",
    old_vae_names: bool = False,
    null_checkers: bool = False,
    safety_checker: bool = True,
    fp16_variant: bool = False,
    sharded: bool = False,
    position_ids: bool = False,
    pooler: bool = True,
    dtype: torch.dtype = torch.float32,
    sample_size: int = 32,
    scheduler: dict[str, Any] | None = None,
    class_name: str | None = None,
) -> Path:
    """Write the folder as BAAI publishes it: library name `alt_diffusion`, `sample_size` 32."""
    path.mkdir(parents=True, exist_ok=True)
    checked = safety_checker and not null_checkers
    tiny.write_json(
        path / "model_index.json", _model_index(model, checked, null_checkers, class_name)
    )
    variant = "fp16" if fp16_variant else None
    dtype = torch.float16 if fp16_variant else dtype

    def write(part: str, stem: str, tensors: Tensors) -> None:
        _write_weights(path / part, stem, cast_floats(tensors, dtype), weights, variant, sharded)

    built = modules(model)
    write("unet", "diffusion_pytorch_model", dict(built["unet"].state_dict()))
    vae = dict(built["vae"].state_dict())
    write("vae", "diffusion_pytorch_model", old_vae_attention(vae) if old_vae_names else vae)
    write("text_encoder", "model", text_tensors(model, position_ids=position_ids, pooler=pooler))
    wide = model in ("m18", "chinese", "sd2")
    unet = {**(tiny.UNET_M18 if wide else tiny.UNET_M9), "sample_size": sample_size}
    header = {"_class_name": "UNet2DConditionModel", "_diffusers_version": "0.8.0.dev0"}
    tiny.write_json(path / "unet" / "config.json", {**header, **unet})
    vae_config = {key: value for key, value in tiny.VAE.items() if key != "scaling_factor"}
    header = {"_class_name": "AutoencoderKL", "_diffusers_version": "0.8.0.dev0"}
    tiny.write_json(path / "vae" / "config.json", {**header, **vae_config})
    tiny.write_json(path / "text_encoder" / "config.json", text_config(model))
    tiny.write_json(path / "scheduler" / "scheduler_config.json", scheduler or tiny.SCHEDULER)
    (write_wordpiece if model == "chinese" else write_sentencepiece)(path / "tokenizer")
    if checked:
        write_safety_checker(path / "safety_checker", weights, preprocessor=False)
        tiny.write_json(path / "feature_extractor" / "preprocessor_config.json", PREPROCESSOR)
    return path


def write_modelscope_folder(
    path: Path,
    *,
    prediction_type: str | None = "epsilon",
    weights: Literal["bin", "safetensors"] = "bin",
    safety_checker: bool = True,
) -> Path:
    """Write Chinese Stable Diffusion as ModelScope's `from_pretrained` needs it."""
    scheduler = dict(tiny.SCHEDULER)
    if prediction_type is not None:
        scheduler["prediction_type"] = prediction_type
    write_diffusers_folder(
        path,
        "chinese",
        weights=weights,
        safety_checker=safety_checker,
        sample_size=8,
        scheduler=scheduler,
        class_name="_DiffuersChineseStableDiffusionPipeline",  # sic
    )
    task = {
        "framework": "pytorch",
        "task": "text-to-image-synthesis",
        "pipeline": {"type": "chinese-stable-diffusion"},
    }
    tiny.write_json(path / "configuration.json", task)
    return path


def write_safety_checker(folder: Path, weights: str = "bin", preprocessor: bool = True) -> Path:
    """Write a checker with the published names (and `position_ids`, as older files have)."""
    module = tiny.safety_checker()
    tensors = {
        re.sub(r"^vision_model\.(?!vision_model\.)", "vision_model.vision_model.", name): value
        for name, value in module.state_dict().items()
    }
    patches = (32 // 8) ** 2 + 1
    name = "vision_model.vision_model.embeddings.position_ids"
    tensors[name] = torch.arange(patches)[None]
    vision = module.config.vision_config.to_dict()
    config = {
        "architectures": ["StableDiffusionSafetyChecker"],
        "model_type": "clip",
        "projection_dim": 16,
        "vision_config": {key: vision[key] for key in _VISION_KEYS},
    }
    tiny.write_json(folder / "config.json", config)
    _write_weights(folder, "model", tensors, weights)
    if preprocessor:
        tiny.write_json(folder / "preprocessor_config.json", PREPROCESSOR)
    return folder


_VISION_KEYS = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "image_size", "patch_size", "projection_dim", "hidden_act", "layer_norm_eps",
)  # fmt: skip


def _model_index(
    model: Model, checked: bool, null_checkers: bool, class_name: str | None
) -> dict[str, Any]:
    text = ["alt_diffusion", "RobertaSeriesModelWithTransformation"]
    tokenizer = "XLMRobertaTokenizer"
    pipeline = "AltDiffusionPipeline"
    if model == "chinese":
        text, tokenizer = ["transformers", "ChineseCLIPTextModel"], "ChineseCLIPProcessor"
    if model in ("sd1", "sd2"):
        text, tokenizer = ["transformers", "CLIPTextModel"], "CLIPTokenizer"
        pipeline = "StableDiffusionPipeline"
    index: dict[str, Any] = {
        "_class_name": class_name or pipeline,
        "_diffusers_version": "0.8.0.dev0",
        "scheduler": ["diffusers", "PNDMScheduler"],
        "text_encoder": text,
        "tokenizer": ["transformers", tokenizer],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    if checked:
        index["feature_extractor"] = ["transformers", "CLIPFeatureExtractor"]
        index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    if null_checkers:
        index |= {"feature_extractor": [None, None], "safety_checker": [None, None]}
        index["requires_safety_checker"] = False
    return index


def _write_weights(
    folder: Path,
    stem: str,
    tensors: Tensors,
    weights: str,
    variant: str | None = None,
    sharded: bool = False,
) -> None:
    """Write one file, or two shards and their index, under the hub's names."""
    folder.mkdir(parents=True, exist_ok=True)
    if weights == "bin" and stem == "model":
        stem = "pytorch_model"
    marked = f"{stem}.{variant}" if variant else stem
    if not sharded:
        save_tensors(folder / f"{marked}.{weights}", tensors)
        return
    names = sorted(tensors)
    halves = names[: len(names) // 2], names[len(names) // 2 :]
    weight_map: dict[str, str] = {}
    for number, half in enumerate(halves, 1):
        file = f"{marked}-{number:05}-of-00002.{weights}"
        save_tensors(folder / file, {name: tensors[name] for name in half})
        weight_map |= dict.fromkeys(half, file)
    index = ".".join([stem, weights, "index", *([variant] if variant else []), "json"])
    tiny.write_json(folder / index, {"metadata": {}, "weight_map": weight_map})
