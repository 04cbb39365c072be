"""The UNet stages for any model on disk: concept alignment, quality, guidance, DreamBooth, LoRA.

One dataclass a recipe; each loads a model, caches its data's latents and states, trains, and leaves
a UNet (or LoRA) file that the loaders and ComfyUI read. Learning rates and shares are those of
AltDiffusion-m18 (models.md, section 7).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..assemble import load_pipeline
from ..errors import InvalidRequest
from ..pipeline import TextToImagePipeline
from .buckets import make_buckets
from .caches import CachedSource, cache_dataset
from .datasets import Record, read_dataset
from .denoising import DenoisingTask, LatentSource
from .dreambooth import DreamBoothSource
from .loop import LoopOptions, run_stage
from .lora import add_lora, write_lora
from .losses import LossWeighting
from .selection import Selection, train_only

_log = logging.getLogger("multilingual_diffusion")


@dataclass(frozen=True, kw_only=True)
class UNetTuning:
    """What all recipes of this file share. Encoder and VAE are frozen throughout."""

    model: str  # a name or a path: where the encoder, the UNet and the VAE come from
    data: Path  # a folder or tar with captions.jsonl (datasets)
    folder: Path  # checkpoints, caches and the result
    loop: LoopOptions
    languages: Mapping[str, float] | None = None  # weight of each language's captions; None: alike
    selection: Selection = "all"  # which parameters train
    dropped: float = 0.0  # share of the captions replaced by the empty prompt
    weighting: LossWeighting = "uniform"  # of the loss over the noise levels
    bucket_step: int = 64  # pixels between the sides of two aspect-ratio buckets
    device: str = "auto"


@dataclass(frozen=True, kw_only=True)
class ConceptAlignment(UNetTuning):
    """Teach the UNet to read a new encoder: keys and values of cross-attention alone."""

    selection: Selection = "cross-attention-kv"


@dataclass(frozen=True, kw_only=True)
class Quality(UNetTuning):
    """Train all of the UNet on good pictures."""


@dataclass(frozen=True, kw_only=True)
class Guidance(UNetTuning):
    """Train all of the UNet with captions dropped, so that guidance has a free side to lean on."""

    dropped: float = 0.1


@dataclass(frozen=True, kw_only=True)
class DreamBooth(UNetTuning):
    """Teach one subject; each folder of pictures has one prompt, in the model's language."""

    instance_prompt: str  # such as "<sks> dog"; `data` holds the subject's pictures
    class_data: Path | None = None  # pictures of the class; None: no prior preservation
    class_prompt: str = ""
    prior_weight: float = 1.0  # of the class pictures in the loss
    loop: LoopOptions = field(
        default_factory=lambda: LoopOptions(
            steps=400, batch_size=4, learning_rate=5e-6, warmup_steps=0
        )
    )


@dataclass(frozen=True, kw_only=True)
class Lora(UNetTuning):
    """Train low-rank changes of the attention layers alone."""

    rank: int = 4
    alpha: float | None = None  # None: the rank, so that the change is not scaled


def tune(recipe: UNetTuning) -> Path:
    """Run a recipe, continuing where it stopped, and return the file of its result.

    Raises:
        InvalidRequest: a value is out of range.
        ModelNotFound, FileRefused: the model or the data cannot be read.
        MissingDependency: accelerate is not installed.
    """
    if not 0 <= recipe.dropped <= 1:
        raise InvalidRequest(f"dropped is {recipe.dropped}; it must lie in 0 .. 1")
    parts = ("text_encoder", "unet", "vae", "scheduler")
    pipeline = load_pipeline(recipe.model, device=recipe.device, dtype="fp32", parts=parts)
    unet = _unet(pipeline)
    source = _source(recipe, pipeline)
    is_lora = isinstance(recipe, Lora)
    if is_lora:
        add_lora(unet, rank=recipe.rank, alpha=recipe.alpha)
    else:
        train_only(unet, recipe.selection)
    task = DenoisingTask(
        unet,
        source,
        pipeline.parts.scheduler_config,
        prediction_type=pipeline.parts.prediction_type or "epsilon",
        weighting=recipe.weighting,
    )
    average = run_stage(task, recipe.loop, recipe.folder)
    average.write_to(dict(unet.named_parameters()))
    return _write_lora(unet, recipe.folder) if is_lora else _write_unet(unet, recipe.folder)


def _unet(pipeline: TextToImagePipeline) -> Any:
    return pipeline.parts.unet.network.to(torch.float32)  # type: ignore[union-attr]


def _source(recipe: UNetTuning, pipeline: TextToImagePipeline) -> LatentSource:
    if not isinstance(recipe, DreamBooth):
        return _cached(recipe, pipeline, read_dataset(recipe.data), "cache", recipe.languages)
    instance = _captioned(recipe.data, recipe.instance_prompt)
    own = _cached(recipe, pipeline, instance, "instance", None)
    if recipe.class_data is None:
        return own
    prior = _captioned(recipe.class_data, recipe.class_prompt)
    other = _cached(recipe, pipeline, prior, "class", None)
    return DreamBoothSource(own, other, prior_weight=recipe.prior_weight)


_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


def _captioned(folder: Path, prompt: str) -> list[Record]:
    """Give every picture of a folder one prompt."""
    names = sorted(path.name for path in folder.glob("*") if path.suffix.lower() in _SUFFIXES)
    if not names:
        raise InvalidRequest(f"{folder} holds no pictures ({', '.join(_SUFFIXES)})")
    return [Record(folder, name, {"und": prompt}) for name in names]


def _cached(
    recipe: UNetTuning,
    pipeline: TextToImagePipeline,
    records: list[Record],
    name: str,
    languages: Mapping[str, float] | None,
) -> CachedSource:
    native = pipeline.native_size
    buckets = make_buckets(native, step=min(recipe.bucket_step, native))
    if isinstance(recipe, DreamBooth):
        buckets = buckets[:1]
    network: Any = pipeline.parts.vae.network  # type: ignore[union-attr]
    scale = network.config.scaling_factor

    @torch.no_grad()
    def encode_pixels(pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        posterior = network.encode(pixels.to(network.device, network.dtype)).latent_dist
        return posterior.mean.cpu() * scale, posterior.std.cpu() * scale

    @torch.no_grad()
    def encode_text(text: str) -> torch.Tensor:
        return pipeline.encode([text], long_prompt="truncate").embeddings[0].cpu()

    _log.info("caching %d pictures in %s", len(records), recipe.folder / name)
    cache_dataset(records, recipe.folder / name, buckets, encode_pixels, encode_text)
    return CachedSource(
        recipe.folder / name,
        languages=languages,
        dropped=recipe.dropped,
        seed=recipe.loop.seed,
    )


def _write_unet(unet: Any, folder: Path) -> Path:
    from safetensors.torch import save_file

    target = folder / "unet"
    target.mkdir(parents=True, exist_ok=True)
    state = {name: value.detach().contiguous().cpu() for name, value in unet.state_dict().items()}
    path = target / "diffusion_pytorch_model.safetensors"
    save_file(state, path, metadata={"format": "pt"})
    config = {"_class_name": "UNet2DConditionModel", **unet.config}
    (target / "config.json").write_text(json.dumps(config, indent=2, default=str), encoding="utf-8")
    return path


def _write_lora(unet: Any, folder: Path) -> Path:
    path = folder / "lora.safetensors"
    write_lora(unet, path)
    return path
