"""The small files of a diffusers folder: model_index.json, configs, scheduler, tokenizer.

Class and library names are those of the published folders, so that whatever reads them reads ours.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..models.detection import Detection, PartFiles
from ..models.specs import EncoderFamily
from .parts import load_scheduler_config
from .plans import PartPlan

# file and class headers of configs, as the libraries write them; from 0.9 on sample_size is right
_HEADERS: Mapping[str, Mapping[str, Any]] = {
    "unet": {"_class_name": "UNet2DConditionModel", "_diffusers_version": "0.9.0"},
    "vae": {"_class_name": "AutoencoderKL", "_diffusers_version": "0.9.0"},
    "safety_checker": {"architectures": ["StableDiffusionSafetyChecker"], "model_type": "clip"},
}
_ALT_TEXT = {"architectures": ["RobertaSeriesModelWithTransformation"], "model_type": "xlm-roberta"}
_TEXT_HEADERS: Mapping[EncoderFamily, Mapping[str, Any]] = {
    "altdiffusion": _ALT_TEXT,
    "altdiffusion-m18": _ALT_TEXT,
    "chinese-clip": {
        "architectures": ["ChineseCLIPTextModel"],
        "model_type": "chinese_clip_text_model",
    },
}
_ALT_CLASSES = ("alt_diffusion", "RobertaSeriesModelWithTransformation", "XLMRobertaTokenizer")
_CLASSES: Mapping[EncoderFamily, tuple[str, tuple[str, str, str]]] = {
    "altdiffusion": ("AltDiffusionPipeline", _ALT_CLASSES),
    "altdiffusion-m18": ("AltDiffusionPipeline", _ALT_CLASSES),
    "chinese-clip": (
        "_DiffuersChineseStableDiffusionPipeline",  # sic: ModelScope's name
        ("transformers", "ChineseCLIPTextModel", "ChineseCLIPProcessor"),
    ),
}


def write_folder_files(detection: Detection, plans: list[PartPlan], folder: Path) -> None:
    """Write everything of a diffusers folder but the weights."""
    for plan in plans:
        header = _HEADERS.get(plan.part, {})
        if plan.part == "text_encoder" and detection.encoder:
            header = _TEXT_HEADERS[detection.encoder]
        write_json(folder / plan.part / "config.json", {**header, **plan.config})
    parts = {plan.part for plan in plans}
    if "safety_checker" in parts:
        _copy_preprocessor(detection.parts["safety_checker"], folder / "feature_extractor")
    if "tokenizer" in detection.parts:
        copy_tokenizer(detection.parts["tokenizer"], folder / "tokenizer")
    _write_scheduler(detection, folder / "scheduler" / "scheduler_config.json")
    write_json(folder / "model_index.json", model_index(detection))


def model_index(detection: Detection) -> dict[str, Any]:
    """Return the list of components, as the published folder of that model has it."""
    pipeline, text, tokenizer = "StableDiffusionPipeline", [None, None], [None, None]
    if detection.encoder:
        pipeline, (library, text_class, tokenizer_class) = _CLASSES[detection.encoder]
        text, tokenizer = [library, text_class], ["transformers", tokenizer_class]
    spec = detection.spec
    origin = (spec.huggingface_id or spec.modelscope_id or spec.name) if spec else None
    components = {
        "feature_extractor": ["transformers", "CLIPImageProcessor"],
        "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
        "scheduler": ["diffusers", str(load_scheduler_config(detection)["_class_name"])],
        "text_encoder": text,
        "tokenizer": tokenizer,
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    there: set[str] = {*detection.parts, "scheduler"}
    if "preprocessor" in detection.parts.get("safety_checker", PartFiles()).extra:
        there.add("feature_extractor")
    return {
        "_class_name": pipeline,
        "_diffusers_version": "0.9.0",
        **({"_name_or_path": origin} if origin else {}),
        **{name: value if name in there else [None, None] for name, value in components.items()},
        "requires_safety_checker": "safety_checker" in there,
    }


def copy_tokenizer(files: PartFiles, folder: Path) -> None:
    """Copy a tokenizer's files, and what lies beside them for other tools."""
    folder.mkdir(parents=True)
    sources = [*files.extra.values(), *([files.config] if files.config else [])]
    beside = sources[0].with_name("special_tokens_map.json")
    for source in (*sources, *([beside] if beside.is_file() else [])):
        shutil.copyfile(source, folder / source.name)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON file, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(value, indent=2, sort_keys=True, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def _copy_preprocessor(files: PartFiles, folder: Path) -> None:
    preprocessor = files.extra.get("preprocessor")
    if preprocessor is not None:
        folder.mkdir()
        shutil.copyfile(preprocessor, folder / "preprocessor_config.json")


def _write_scheduler(detection: Detection, path: Path) -> None:
    files = detection.parts.get("scheduler")
    if files is None or files.config is None:
        write_json(path, load_scheduler_config(detection))
        return
    path.parent.mkdir()
    shutil.copyfile(files.config, path)  # verbatim: an absent key means something
