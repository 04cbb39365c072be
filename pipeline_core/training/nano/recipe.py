"""All stages of `nano` in order, each in a folder of its own; a finished stage is not run again.

The order is that of `STAGES`: tokenizer, VAE, teacher, its student, the checker, the UNet's four.
Then, where asked for, the two of the community model: nano's UNet learns to read the English
teacher (a base), and that one a style. Killed at any moment, the same call continues bit for bit.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from ...errors import UnknownName
from ..autoencoding import AutoencodingTask, build_vae, psnr, scale_latents
from ..denoising import DenoisingTask
from ..loop import LoopOptions, Position, Sampler, run_stage
from ..processes import run_once
from ..selection import train_only
from ..sheets import sheet_sampler
from ..world.captions import LANGUAGES, caption
from ..world.scene import random_scene
from .checker import CheckerTask, HazardNetwork
from .configs import NATIVE_SIZE, SCHEDULER, VAE
from .pictures import CropMaker
from .plan import NanoPlan, UNetStage
from .results import (
    build_teacher,
    build_unet,
    load_result,
    load_tower,
    result_name,
    save_result,
    write_result,
)
from .scenes import BUCKETS, Bucket, WorldSource, load_bucket, make_encoder
from .stage_names import COMMUNITY_STAGES, STAGES
from .style import darken_rim
from .text_stages import StudentTask, TeacherTask
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
    _finish(task, plan.vae, folder / "vae", log_psnr)
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


def _run_teacher(folder: Path, plan: NanoPlan) -> None:
    network = build_teacher()
    task = TeacherTask(network, Windows(folder / "tokenizer" / FILE_NAME))
    _finish(task, plan.teacher, folder / "teacher")
    save_result(network, folder / "teacher")


def _run_teacher_learning(folder: Path, plan: NanoPlan) -> None:
    teacher = build_teacher()
    load_result(teacher, folder / "teacher")
    student = load_tower(folder, "teacher")  # nano has no pretrained XLM-R to start from
    windows = Windows(folder / "tokenizer" / FILE_NAME)
    task = StudentTask(student, teacher.clip.text, teacher.reader, windows, LANGUAGES)
    _finish(task, plan.teacher_learning, folder / "teacher-learning")
    save_result(student, folder / "teacher-learning")


def _run_checker(folder: Path, plan: NanoPlan) -> None:
    teacher = build_teacher()
    load_result(teacher, folder / "teacher")
    torch.manual_seed(2)
    network = HazardNetwork(teacher.clip.vision).requires_grad_(True)
    _finish(CheckerTask(network), plan.checker, folder / "checker")
    save_result(network, folder / "checker")


def _finish(
    task: Any, options: LoopOptions, folder: Path, on_sample: Sampler | None = None
) -> None:
    """Run a stage to its end and leave the averaged weights in its network."""
    average = run_stage(task, options, folder, on_sample=on_sample)
    average.write_to(dict(task.network.named_parameters()))


def _run_latents(folder: Path, plan: NanoPlan) -> None:
    def encode() -> None:
        buckets = load_buckets(folder, plan.quality.pictures)
        counts = {f"{h}x{w}": torch.tensor(len(b.scenes)) for (h, w), b in buckets.items()}
        write_result(counts, folder / "latents")

    run_once(encode)


def load_buckets(
    folder: Path, pictures: int, *, styled: bool = False
) -> dict[tuple[int, int], Bucket]:
    """Return the latents of all buckets, from the cache or from the VAE stage's result."""
    vae = load_result(build_vae(VAE), folder / "vae")
    plain = make_encoder(vae)

    def in_style(pixels: torch.Tensor) -> torch.Tensor:
        return plain(darken_rim(pixels))

    cache, encode = ("latents-styled", in_style) if styled else ("latents", plain)
    return {
        size: load_bucket(folder / cache, size, round(pictures * share), encode)
        for size, share in BUCKETS.items()
    }


def _run_unet_stage(name: str, before: str | None) -> Callable[..., None]:
    def run(folder: Path, plan: NanoPlan) -> None:
        from diffusers.models.attention_processor import AttnProcessor

        stage: UNetStage = getattr(plan, name.replace("-", "_"))
        unet = build_unet()
        if before is not None:
            load_result(unet, folder / before)
        run_once(lambda: load_buckets(folder, stage.pictures, styled=stage.styled))  # encodes
        source = WorldSource(
            load_buckets(folder, stage.pictures, styled=stage.styled),
            load_tower(folder, stage.encoder),
            Windows(folder / "tokenizer" / FILE_NAME),
            dict.fromkeys(stage.languages, 1.0),
            dropped=stage.dropped,
        )
        train_only(unet, stage.selection)
        if not torch.cuda.is_available():
            unet.set_attn_processor(AttnProcessor())  # flash attention is slow backward on a CPU
        task = DenoisingTask(
            unet,
            source,
            SCHEDULER,
            weighting=stage.weighting,
            timestep_power=stage.timestep_power,
        )
        prompts = sheet_prompts(stage.languages)
        vae = load_result(build_vae(VAE), folder / "vae")
        sheet = sheet_sampler(
            source.states(prompts), source.states([""]), vae, SCHEDULER, size=NATIVE_SIZE
        )
        _finish(task, stage.loop, folder / name, sheet)
        save_result(unet, folder / name)

    return run


def sheet_prompts(languages: Sequence[str]) -> list[str]:
    """Return the captions whose pictures show how far a run has come, 18 of them."""
    rng = random.Random("sheet")
    scenes = [random_scene(rng) for _ in LANGUAGES]
    chosen = [languages[index % len(languages)] for index in range(len(scenes))]
    return [caption(scene, tag, rng).text for scene, tag in zip(scenes, chosen, strict=True)]


_RUN: dict[str, Callable[[Path, NanoPlan], None]] = {
    "tokenizer": _run_tokenizer,
    "vae": _run_vae,
    "teacher": _run_teacher,
    "teacher-learning": _run_teacher_learning,
    "checker": _run_checker,
    "latents": _run_latents,
    "base": _run_unet_stage("base", None),
    "concept-alignment": _run_unet_stage("concept-alignment", "base"),
    "quality": _run_unet_stage("quality", "concept-alignment"),
    "guidance": _run_unet_stage("guidance", "quality"),
    "english": _run_unet_stage("english", "guidance"),
    "community": _run_unet_stage("community", "english"),
}
