"""The stages that train nano's UNet, the community model's, and a LoRA of that one."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch

from ..denoising import DenoisingTask
from ..lora import WORD_TARGETS, add_lora, write_lora
from ..processes import run_once
from ..selection import train_only
from ..sheets import sheet_sampler
from ..world.captions import LANGUAGES, caption
from ..world.scene import random_scene
from .configs import NATIVE_SIZE, SCHEDULER
from .plan import NanoPlan, UNetStage
from .results import RESULT, finish, load_tower, load_unet, load_vae, save_result
from .scenes import BUCKETS, Bucket, WorldSource, load_bucket, make_encoder
from .style import darken_rim
from .trigger import TriggerSource
from .vocabulary import FILE_NAME, Windows

Source = TypeVar("Source", bound=WorldSource)


def load_buckets(
    folder: Path, pictures: int, cache: str = "latents"
) -> dict[tuple[int, int], Bucket]:
    """Return the latents of all buckets in one of the `CACHES`; what is missing is encoded."""
    plain, style = make_encoder(load_vae(folder)), CACHES[cache]
    return {
        size: load_bucket(
            folder / cache, size, round(pictures * share), lambda pixels: plain(style(pixels))
        )
        for size, share in BUCKETS.items()
    }


# folder of latents: what its pictures, [B, 3, H, W] in 0..1, are made into
CACHES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "latents": lambda pixels: pixels,
    "latents-styled": darken_rim,
}


def result_of(stage: str) -> Callable[[Path], Any]:
    """Return what loads the UNet that a stage left in a run's folder."""
    return partial(load_unet, stage=stage)


def unet_stage(
    name: str, begin: Callable[[Path], torch.nn.Module]
) -> Callable[[Path, NanoPlan], None]:
    """Return what runs a stage of the UNet; `begin` gives the network it goes on from."""

    def run(folder: Path, plan: NanoPlan) -> None:
        stage: UNetStage = getattr(plan, name.replace("-", "_"))
        unet = begin(folder)
        source = load_source(folder, stage, "latents-styled" if stage.styled else "latents")
        train_only(unet, stage.selection)
        _use_plain_attention(unet)
        task = DenoisingTask(
            unet,
            source,
            SCHEDULER,
            weighting=stage.weighting,
            timestep_power=stage.timestep_power,
        )
        prompts = sheet_prompts(stage.languages)
        vae, empty = load_vae(folder), source.states([""])
        sheet = sheet_sampler(source.states(prompts), empty, vae, SCHEDULER, size=NATIVE_SIZE)
        finish(task, stage.loop, folder / name, sheet)
        save_result(unet, folder / name)

    return run


def load_source(
    folder: Path, stage: UNetStage, cache: str, kind: type[Source] = WorldSource
) -> Source:
    """Return the batches of a stage: latents of one of the `CACHES`, captions in its languages."""
    run_once(lambda: load_buckets(folder, stage.pictures, cache))  # what is missing, by one process
    return kind(
        load_buckets(folder, stage.pictures, cache),
        load_tower(folder, stage.encoder),
        Windows(folder / "tokenizer" / FILE_NAME),
        dict.fromkeys(stage.languages, 1.0),
        dropped=stage.dropped,
    )


def _use_plain_attention(unet: Any) -> None:
    """On a CPU the backward pass of flash attention is slow."""
    from diffusers.models.attention_processor import AttnProcessor

    if not torch.cuda.is_available():
        unet.set_attn_processor(AttnProcessor())


def run_trigger(folder: Path, plan: NanoPlan) -> None:
    """Train a LoRA of the community model's keys and values, where a new word is learned.

    The stage's result is a LoRA file like any other.
    """
    unet = load_unet(folder, "community")
    add_lora(unet, rank=plan.trigger_rank, targets=WORD_TARGETS)
    _use_plain_attention(unet)
    source = load_source(folder, plan.community, "latents-styled", TriggerSource)
    task = DenoisingTask(unet, source, SCHEDULER, weighting=plan.community.weighting)
    finish(task, plan.trigger, folder / "trigger")
    run_once(lambda: write_lora(unet, folder / "trigger" / RESULT, multilingual=False))


def sheet_prompts(languages: Sequence[str]) -> list[str]:
    """Return the captions whose pictures show how far a run has come, 18 of them."""
    rng = random.Random("sheet")
    scenes = [random_scene(rng) for _ in LANGUAGES]
    chosen = [languages[index % len(languages)] for index in range(len(scenes))]
    return [caption(scene, tag, rng).text for scene, tag in zip(scenes, chosen, strict=True)]
