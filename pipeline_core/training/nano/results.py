"""What the stages of a run left behind: their networks built, loaded and saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import torch

from ...errors import ModelNotFound
from ..autoencoding import build_vae
from ..contrastive import Clip
from ..loop import CHECKPOINT, LoopOptions, Sampler, run_stage
from ..processes import run_once
from ..text_tower import AltClipText
from .checker import HazardNetwork
from .claims import ClaimReader
from .configs import TEXT, UNET, VAE, VISION
from .stage_names import UNET_STAGES
from .text_stages import TeacherNetwork
from .vocabulary import FILE_NAME

RESULT = "result.safetensors"
Network = TypeVar("Network", bound=torch.nn.Module)


def result_name(stage: str) -> str:
    return FILE_NAME if stage == "tokenizer" else RESULT


def save_result(network: torch.nn.Module, folder: Path) -> None:
    """Write a stage's weights, the averages in place, beside its checkpoint; once."""
    run_once(lambda: write_network(network, folder))


def write_network(network: torch.nn.Module, folder: Path) -> None:
    """Write weights as the result of a stage."""
    state = {name: value.detach().contiguous() for name, value in network.state_dict().items()}
    write_result(state, folder)


def write_result(tensors: dict[str, torch.Tensor], folder: Path) -> None:
    """Write what makes a stage a finished one."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / "result.incomplete"
    save_file(tensors, temporary)
    temporary.rename(folder / RESULT)


def finish(task: Any, options: LoopOptions, folder: Path, on_sample: Sampler | None = None) -> None:
    """Run a stage to its end and leave the averaged weights in its network."""
    average = run_stage(task, options, folder, on_sample=on_sample)
    average.write_to(dict(task.network.named_parameters()))


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


def build_checker() -> HazardNetwork:
    """Build the checker, with seeded weights."""
    return HazardNetwork(build_teacher().clip.vision)


def load_checker(folder: Path) -> HazardNetwork:
    """Load what stage `checker` made."""
    return load_result(build_checker(), folder / "checker")


def load_unet(folder: Path, stage: str) -> Any:
    """Load the UNet that a stage made."""
    return load_result(build_unet(), folder / stage)


def load_vae(folder: Path) -> Any:
    """Load the VAE that stage `decoder` made, or, before it, stage `vae`: their encoder is one."""
    done = (folder / "decoder" / RESULT).is_file()
    return load_result(build_vae(VAE), folder / ("decoder" if done else "vae"))


def latest_unet(folder: Path) -> Any:
    """Load the UNet of the last stage that has a result or a checkpoint, averages in place.

    Raises:
        ModelNotFound: no UNet stage has begun.
    """
    for name in reversed(UNET_STAGES):
        if (folder / name / RESULT).is_file():
            return load_unet(folder, name)
        if (folder / name / CHECKPOINT).is_file():
            before = UNET_STAGES[: UNET_STAGES.index(name)]
            unet = load_unet(folder, before[-1]) if before else build_unet()
            state = torch.load(folder / name / CHECKPOINT, map_location="cpu", weights_only=True)
            parameters = dict(unet.named_parameters())
            with torch.no_grad():
                for key, value in state["average"].items():
                    parameters[key].copy_(value)
            return unet.train(False)
    raise ModelNotFound(f"{folder} holds no UNet yet; run the stages from 'base' on")
