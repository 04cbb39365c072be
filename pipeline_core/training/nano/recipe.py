"""All stages of `nano` in order, each in a folder of its own; a finished stage is not run again.

The order is that of `STAGES`: tokenizer, VAE, teacher, its student, the checker, the UNet's five,
and the VAE's decoder again for what that UNet makes. Then, where asked for, those of the community
model: nano's UNet learns to read the English teacher (a base), that one a style, and a LoRA of it a
trigger word. Killed at any moment, the same call continues bit for bit.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ...errors import UnknownName
from ..autoencoding import AutoencodingTask, build_vae, psnr, scale_latents
from ..loop import Position
from ..processes import run_once
from ..world.captions import LANGUAGES
from .checker import CheckerTask, HazardNetwork
from .configs import VAE
from .decoder import DecodingTask
from .pictures import CropMaker
from .plan import NanoPlan
from .results import (
    build_teacher,
    build_unet,
    finish,
    latest_unet,
    load_result,
    load_tower,
    load_vae,
    result_name,
    save_result,
    write_result,
)
from .scenes import make_encoder
from .stage_names import COMMUNITY_STAGES, STAGES
from .text_stages import StudentTask, TeacherTask
from .unet_stages import load_buckets, load_source, result_of, run_trigger, unet_stage
from .vocabulary import FILE_NAME, Windows, write_tokenizer

_log = logging.getLogger("multilingual_diffusion")


def train_nano(
    folder: Path,
    plan: NanoPlan | None = None,
    *,
    until: str = STAGES[-1],
    only: str | None = None,
) -> None:
    """Run every stage up to and with `until` that has no result yet, or one stage alone.

    Raises:
        UnknownName: a stage is unknown.
    """
    stages = (*STAGES, *COMMUNITY_STAGES)
    for name in (until, only or until):
        if name not in stages:
            raise UnknownName("stage", name, stages)
    plan = plan or NanoPlan()
    for stage in (only,) if only else stages[: stages.index(until) + 1]:
        if not (folder / stage / result_name(stage)).is_file():
            _log.info("training stage %s in %s", stage, folder)
            _RUN[stage](folder, plan)


def _run_tokenizer(folder: Path, plan: NanoPlan) -> None:
    run_once(lambda: write_tokenizer(folder / "tokenizer"))


def _run_vae(folder: Path, plan: NanoPlan) -> None:
    torch.manual_seed(0)
    vae = build_vae(VAE)
    task = AutoencodingTask(
        vae, CropMaker(), plan.vae_crops, plan.vae.steps, absolute_weight=plan.absolute_weight
    )
    finish(task, plan.vae, folder / "vae", log_psnr)
    scale_latents(vae, latent_deviation(vae))
    save_result(vae, folder / "vae")


def log_psnr(step: int, network: torch.nn.Module, folder: Path) -> None:
    """Log how well whole pictures come back."""
    pixels = CropMaker(seed=3)(Position(0), None, 24)
    vae: Any = network.vae
    made = vae.decode(vae.encode(pixels).latent_dist.mean).sample
    _log.info("step %d: %.2f dB", step, psnr(made, pixels))


def latent_deviation(vae: torch.nn.Module) -> float:
    """Return the spread of the latents of a few hundred pictures."""
    encode = make_encoder(vae)
    pictures = CropMaker(seed=1)
    latents = [encode(pictures(Position(i), None, 16) / 2 + 0.5) for i in range(16)]
    values = torch.cat([part.flatten() for part in latents])
    return float(values.std()) / VAE["scaling_factor"]


def _run_decoder(folder: Path, plan: NanoPlan) -> None:
    vae = load_vae(folder)
    source = load_source(folder, plan.details, "latents")
    task = DecodingTask(vae, latest_unet(folder), source, absolute_weight=plan.absolute_weight)
    finish(task, plan.decoder, folder / "decoder", log_psnr)
    save_result(vae, folder / "decoder")


def _run_teacher(folder: Path, plan: NanoPlan) -> None:
    network = build_teacher()
    task = TeacherTask(network, Windows(folder / "tokenizer" / FILE_NAME))
    finish(task, plan.teacher, folder / "teacher")
    save_result(network, folder / "teacher")


def _run_teacher_learning(folder: Path, plan: NanoPlan) -> None:
    teacher = build_teacher()
    load_result(teacher, folder / "teacher")
    student = load_tower(folder, "teacher")  # nano has no pretrained XLM-R to start from
    windows = Windows(folder / "tokenizer" / FILE_NAME)
    task = StudentTask(student, teacher.clip.text, teacher.reader, windows, LANGUAGES)
    finish(task, plan.teacher_learning, folder / "teacher-learning")
    save_result(student, folder / "teacher-learning")


def _run_checker(folder: Path, plan: NanoPlan) -> None:
    teacher = build_teacher()
    load_result(teacher, folder / "teacher")
    torch.manual_seed(2)
    network = HazardNetwork(teacher.clip.vision).requires_grad_(True)
    finish(CheckerTask(network), plan.checker, folder / "checker")
    save_result(network, folder / "checker")


def _run_latents(folder: Path, plan: NanoPlan) -> None:
    def encode() -> None:
        buckets = load_buckets(folder, plan.quality.pictures)
        counts = {f"{h}x{w}": torch.tensor(len(b.scenes)) for (h, w), b in buckets.items()}
        write_result(counts, folder / "latents")

    run_once(encode)


_RUN: dict[str, Callable[[Path, NanoPlan], None]] = {
    "tokenizer": _run_tokenizer,
    "vae": _run_vae,
    "teacher": _run_teacher,
    "teacher-learning": _run_teacher_learning,
    "checker": _run_checker,
    "latents": _run_latents,
    "base": unet_stage("base", lambda folder: build_unet()),
    "concept-alignment": unet_stage("concept-alignment", result_of("base")),
    "quality": unet_stage("quality", result_of("concept-alignment")),
    "guidance": unet_stage("guidance", result_of("quality")),
    "details": unet_stage("details", result_of("guidance")),
    "decoder": _run_decoder,
    "english": unet_stage("english", latest_unet),
    "community": unet_stage("community", result_of("english")),
    "trigger": run_trigger,
}
