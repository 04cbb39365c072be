"""All stages of `nano` in order, each in a folder of its own; a finished stage is not run again.

The order is that of `STAGES`: tokenizer, VAE, teacher, its student, the checker, the UNet's four.
Killed at any moment, the same call continues bit for bit.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from ...errors import ModelNotFound, UnknownName
from ...models.strict_json import read_json
from ..autoencoding import AutoencodingTask, CropPhase, build_vae, psnr, scale_latents
from ..contrastive import Clip
from ..denoising import DenoisingTask
from ..loop import CHECKPOINT, LoopOptions, Position, Sampler, run_stage
from ..losses import LossWeighting
from ..selection import Selection, train_only
from ..text_tower import AltClipText
from ..world.captions import LANGUAGES
from .checker import CheckerTask, HazardNetwork
from .claims import ClaimReader
from .configs import SCHEDULER, TEXT, UNET, VAE, VISION
from .pictures import CropMaker
from .scenes import BUCKETS, Bucket, WorldSource, load_bucket, make_encoder
from .stage_names import STAGES
from .text_stages import StudentTask, TeacherNetwork, TeacherTask
from .vocabulary import FILE_NAME, Windows, write_tokenizer

_log = logging.getLogger("multilingual_diffusion")

RESULT = "result.safetensors"
Network = TypeVar("Network", bound=torch.nn.Module)


def small(steps: int, **values: Any) -> LoopOptions:
    """Return options that suit networks of a few million parameters and few samples."""
    defaults: dict[str, Any] = {
        "optimizer": "muon",
        "learning_rate": 2e-3,
        "betas": (0.9, 0.99),
        "weight_decay": 0.0,
        "decay": "cosine",
        "mixed_precision": "bf16",
        "checkpoint_every": 100,
    }
    return LoopOptions(steps=steps, **{**defaults, **values})


@dataclass(frozen=True)
class UNetStage:
    """One stage of the UNet: what trains, who reads the prompts, how many captions are dropped."""

    loop: LoopOptions
    pictures: int = 16_000  # cached latents of all buckets together
    selection: Selection = "all"
    encoder: str = "teacher-learning"  # the text stage whose tower reads the prompts
    languages: tuple[str, ...] = LANGUAGES
    dropped: float = 0.0
    weighting: LossWeighting = "balanced"


@dataclass(frozen=True, kw_only=True)
class NanoPlan:
    """How long each stage runs, and on how much."""

    vae: LoopOptions = field(
        default_factory=lambda: small(900, batch_size=16, ema_decay=0.995, sample_every=100)
    )
    vae_crops: tuple[CropPhase, ...] = (CropPhase(0.0, 32, 16), CropPhase(0.78, 64, 8))
    decoder: LoopOptions = field(
        default_factory=lambda: small(
            1500, batch_size=8, matrix_learning_rate=0.01, ema_decay=0.995, sample_every=100
        )
    )
    decoder_crops: tuple[CropPhase, ...] = (CropPhase(0.0, 64, 8), CropPhase(0.8, None, 3))
    teacher: LoopOptions = field(
        default_factory=lambda: small(400, warmup_steps=50, ema_decay=0.99)
    )
    teacher_learning: LoopOptions = field(
        default_factory=lambda: small(450, batch_size=96, warmup_steps=50, ema_decay=0.99)
    )
    checker: LoopOptions = field(
        default_factory=lambda: small(250, batch_size=48, warmup_steps=20, ema_decay=0.98)
    )
    base: UNetStage = field(
        default_factory=lambda: UNetStage(
            small(400, decay="constant"), pictures=3_000, encoder="teacher", languages=("en",)
        )
    )
    concept_alignment: UNetStage = field(
        default_factory=lambda: UNetStage(
            small(100, decay="constant"), selection="cross-attention-kv"
        )
    )
    quality: UNetStage = field(
        default_factory=lambda: UNetStage(small(6000, decay="constant", ema_decay=0.999))
    )
    guidance: UNetStage = field(
        default_factory=lambda: UNetStage(small(3000, ema_decay=0.999), dropped=0.1)
    )


def read_plan(path: Path | None) -> NanoPlan:
    """Return the plan with the numbers of a JSON file put in: {"quality": {"steps": 9000}}.

    Raises:
        UnknownName: the file names a stage or an option that there is not.
    """
    plan = NanoPlan()
    changes = {} if path is None else read_json(path)
    for name, value in changes.items():
        current = getattr(plan, name.replace("-", "_"), None)
        if current is None:
            raise UnknownName("plan entry", name, vars(plan))
        plan = replace(plan, **{name.replace("-", "_"): _changed(current, value)})
    return plan


def _changed(current: Any, value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    loop = current.loop if isinstance(current, UNetStage) else current
    for name in value:
        if name not in vars(loop):
            raise UnknownName("stage option", name, vars(loop))
    loop = replace(loop, **value)
    return replace(current, loop=loop) if isinstance(current, UNetStage) else loop


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
    for name in (until, only or until):
        if name not in STAGES:
            raise UnknownName("stage", name, STAGES)
    plan = plan or NanoPlan()
    for stage in (only,) if only else STAGES[: STAGES.index(until) + 1]:
        if not (folder / stage / _result_name(stage)).is_file():
            _log.info("training stage %s in %s", stage, folder)
            _RUN[stage](folder, plan)


def _result_name(stage: str) -> str:
    return FILE_NAME if stage == "tokenizer" else RESULT


def save_result(network: torch.nn.Module, folder: Path) -> None:
    """Write a stage's weights, the averages in place, beside its checkpoint."""
    from safetensors.torch import save_file

    state = {name: value.detach().contiguous() for name, value in network.state_dict().items()}
    temporary = folder / "result.incomplete"
    save_file(state, temporary)
    temporary.rename(folder / RESULT)


def load_result(network: Network, folder: Path) -> Network:
    """Fill a network from a stage's result; returns it, not training."""
    from safetensors.torch import load_file

    network.load_state_dict(load_file(folder / RESULT))
    return network.train(False)


def build_teacher() -> TeacherNetwork:
    """Build the English CLIP and the reader of claims, with seeded weights."""
    torch.manual_seed(1)
    return TeacherNetwork(Clip(AltClipText(TEXT), VISION), ClaimReader(TEXT["project_dim"]))


def build_unet() -> Any:
    """Build the UNet, with seeded weights."""
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    torch.manual_seed(3)
    return UNet2DConditionModel.from_config(UNET)


def load_tower(folder: Path, stage: str) -> AltClipText:
    """Load the text tower that stage `teacher` or `teacher-learning` made."""
    if stage == "teacher":
        teacher = build_teacher()
        load_result(teacher, folder / stage)
        return teacher.clip.text
    tower = AltClipText(TEXT)
    load_result(tower, folder / stage)
    return tower


def _run_tokenizer(folder: Path, plan: NanoPlan) -> None:
    write_tokenizer(folder / "tokenizer")


def _run_vae(folder: Path, plan: NanoPlan) -> None:
    torch.manual_seed(0)
    vae = build_vae(VAE)
    task = AutoencodingTask(vae, CropMaker(), plan.vae_crops, plan.vae.steps)
    _finish(task, plan.vae, folder / "vae", log_psnr)
    scale_latents(vae, latent_deviation(vae))
    save_result(vae, folder / "vae")


def _run_decoder(folder: Path, plan: NanoPlan) -> None:
    """Go on with the decoder alone: the latents that the UNet learns stay as they are."""
    vae = load_result(build_vae(VAE), folder / "vae")
    for part in (vae.encoder, vae.quant_conv):
        part.requires_grad_(False)
    task = AutoencodingTask(vae, CropMaker(seed=2), plan.decoder_crops, plan.decoder.steps)
    _finish(task, plan.decoder, folder / "decoder", log_psnr)
    save_result(vae, folder / "decoder")


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


def load_checker(folder: Path) -> HazardNetwork:
    """Load what stage `checker` made."""
    network = HazardNetwork(build_teacher().clip.vision)
    load_result(network, folder / "checker")
    return network


def _finish(
    task: Any, options: LoopOptions, folder: Path, on_sample: Sampler | None = None
) -> None:
    """Run a stage to its end and leave the averaged weights in its network."""
    average = run_stage(task, options, folder, on_sample=on_sample)
    average.write_to(dict(task.network.named_parameters()))


def _run_latents(folder: Path, plan: NanoPlan) -> None:
    from safetensors.torch import save_file

    buckets = load_buckets(folder, plan.quality.pictures)
    counts = {f"{h}x{w}": torch.tensor(len(b.scenes)) for (h, w), b in buckets.items()}
    save_file(counts, folder / "latents" / RESULT)


def load_buckets(folder: Path, pictures: int) -> dict[tuple[int, int], Bucket]:
    """Return the latents of all buckets, from the cache or from the VAE stage's result."""
    vae = load_result(build_vae(VAE), folder / "vae")
    encode = make_encoder(vae)
    return {
        size: load_bucket(folder / "latents", size, round(pictures * share), encode)
        for size, share in BUCKETS.items()
    }


def _run_unet_stage(name: str, before: str | None) -> Callable[..., None]:
    def run(folder: Path, plan: NanoPlan) -> None:
        from diffusers.models.attention_processor import AttnProcessor

        stage: UNetStage = getattr(plan, name.replace("-", "_"))
        unet = build_unet()
        if before is not None:
            load_result(unet, folder / before)
        source = WorldSource(
            load_buckets(folder, stage.pictures),
            load_tower(folder, stage.encoder),
            Windows(folder / "tokenizer" / FILE_NAME),
            dict.fromkeys(stage.languages, 1.0),
            dropped=stage.dropped,
        )
        train_only(unet, stage.selection)
        if not torch.cuda.is_available():
            unet.set_attn_processor(AttnProcessor())  # flash attention is slow backward on a CPU
        task = DenoisingTask(unet, source, SCHEDULER, weighting=stage.weighting)
        _finish(task, stage.loop, folder / name)
        save_result(unet, folder / name)

    return run


_RUN: dict[str, Callable[[Path, NanoPlan], None]] = {
    "tokenizer": _run_tokenizer,
    "vae": _run_vae,
    "decoder": _run_decoder,
    "teacher": _run_teacher,
    "teacher-learning": _run_teacher_learning,
    "checker": _run_checker,
    "latents": _run_latents,
    "base": _run_unet_stage("base", None),
    "concept-alignment": _run_unet_stage("concept-alignment", "base"),
    "quality": _run_unet_stage("quality", "concept-alignment"),
    "guidance": _run_unet_stage("guidance", "quality"),
}


def latest_unet(folder: Path) -> Any:
    """Load the UNet of the last stage that has a result or a checkpoint, averages in place.

    Raises:
        ModelNotFound: no UNet stage has begun.
    """
    unet = build_unet()
    for name in reversed(STAGES[STAGES.index("base") :]):
        if (folder / name / RESULT).is_file():
            return load_result(unet, folder / name)
        if (folder / name / CHECKPOINT).is_file():
            before = STAGES[STAGES.index(name) - 1]
            if name != "base":
                load_result(unet, folder / before)
            state = torch.load(folder / name / CHECKPOINT, map_location="cpu", weights_only=True)
            parameters = dict(unet.named_parameters())
            with torch.no_grad():
                for key, value in state["average"].items():
                    parameters[key].copy_(value)
            return unet.train(False)
    raise ModelNotFound(f"{folder} holds no UNet yet; run the stages from 'base' on")


def export_run(folder: Path, target: Path) -> int:
    """Write a run as the published folder, as far as it has come; return the bytes of its files."""
    from .export import export

    return export(
        target,
        tokenizer=folder / "tokenizer" / FILE_NAME,
        text=load_tower(folder, "teacher-learning"),
        unet=latest_unet(folder),
        vae=load_result(build_vae(VAE), folder / _latest(folder, "decoder", "vae")),
        checker=load_checker(folder),
    )


def _latest(folder: Path, *stages: str) -> str:
    """Return the first of the stages that has a result.

    Raises:
        ModelNotFound: none has.
    """
    for stage in stages:
        if (folder / stage / RESULT).is_file():
            return stage
    raise ModelNotFound(f"{folder} has no result of {' or '.join(stages)}")
