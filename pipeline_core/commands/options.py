"""Options that several commands share, and what they mean for an `ImageRequest`."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

from ..errors import InvalidRequest, ModelNotFound
from ..models.detection import PartName
from ..models.folders import ModelFolders
from ..values import (
    GuidanceBatching,
    LongPrompt,
    NoiseConvention,
    SafetyPolicy,
    Step,
    StepCallback,
    TimestepRule,
    Weighting,
)

Subparsers = Any  # argparse names the type of its sub-parsers privately


def add_source_options(parser: argparse.ArgumentParser) -> None:
    """Add what says which model runs where."""
    group = parser.add_argument_group("model")
    group.add_argument("--model", "-m", metavar="NAME|PATH", help="a name, a folder or a file")
    group.add_argument("--models-dir", type=Path, metavar="FOLDER", help="where models lie")
    group.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps, xpu")
    group.add_argument("--dtype", help="auto, keep, fp32, bf16, fp16")
    group.add_argument("--safety-checker", metavar="PATH", help="a folder that holds a checker")
    group.add_argument("--vae", metavar="PATH", help="take the VAE from another model")
    group.add_argument("--unet", metavar="PATH", help="take the UNet from another model")
    group.add_argument(
        "--lora",
        action="append",
        dest="loras",
        type=_lora,
        metavar="FILE[:STRENGTH]",
        help="change the UNet by a LoRA, a file or a name in the loras folder; repeatable",
    )
    group.add_argument(
        "--prediction-type",
        choices=("epsilon", "v_prediction"),
        help="what the UNet predicts, where its files do not say",
    )
    group.add_argument("--ema", action="store_true", help="take a checkpoint's averaged weights")
    group.add_argument(
        "--allow-pickle",
        action="store_true",
        help="open .bin, .ckpt and .pt files (with weights_only; better: convert them once)",
    )


def other_places(args: argparse.Namespace) -> dict[PartName, str | Path]:
    """Return the parts that come from another model."""
    places: dict[PartName, str | None] = {
        "unet": args.unet,
        "vae": args.vae,
        "safety_checker": args.safety_checker,
    }
    return {name: place for name, place in places.items() if place}


@contextlib.contextmanager
def step_bar() -> Iterator[StepCallback]:
    """Yield a step callback that draws a bar on standard error, if that is a terminal."""
    from tqdm import tqdm

    with tqdm(unit="step", leave=False, file=sys.stderr, disable=None) as bar:

        def on_step(step: Step) -> None:
            bar.total = step.total
            bar.update(1)

        yield on_step


def model_folders(args: argparse.Namespace) -> ModelFolders:
    """Return the models folder of the options, or the user's."""
    return ModelFolders([args.models_dir]) if args.models_dir else ModelFolders()


def recorded_place(folders: ModelFolders, name: object, option: str) -> Path:
    """Return where a model lies that a picture names: inside the models folder and nowhere else.

    Raises:
        ModelNotFound: it is not there; the text names the option that says where it is.
    """
    try:
        return folders.find_name(str(name))
    except (InvalidRequest, ModelNotFound) as exc:
        raise ModelNotFound(
            f"the picture was made with {str(name)[:100]!r}, which is not in the models folder; "
            f"say where it is with {option}"
        ) from exc


def recorded_loras(folders: ModelFolders, loras: list[Any]) -> list[tuple[Path, float]]:
    """Return the LoRAs that a picture names, out of the loras folder and from nowhere else.

    Raises:
        InvalidRequest: the picture's words are no name and strength.
        ModelNotFound: one is not there; the text names the option that says where it is.
    """
    from ..adapters.folders import AdapterFolders

    places = AdapterFolders.among("loras", folders)
    found: list[tuple[Path, float]] = []
    for lora in loras:
        if not isinstance(lora, dict) or not isinstance(lora.get("name"), str):
            raise InvalidRequest(
                f"the picture was made with a LoRA it does not name: {lora!r:.100}"
            )
        try:
            found.append((places.find(lora["name"]), lora.get("strength", 1.0)))
        except (InvalidRequest, ModelNotFound) as exc:
            raise ModelNotFound(f"{exc}; say where the picture's LoRAs are with --lora") from exc
    return found


def check_folder(folder: Path) -> None:
    """Refuse an output folder that cannot be made or written, before anything is computed.

    Raises:
        InvalidRequest: saying what is in the way.
    """
    there = folder.absolute()
    while not os.path.lexists(there):
        there = there.parent
    if not there.is_dir():
        raise InvalidRequest(f"--out {folder}: {there} is not a folder")
    if not os.access(there, os.W_OK):
        raise InvalidRequest(f"--out {folder}: {there} cannot be written")


def add_request_options(parser: argparse.ArgumentParser) -> None:
    """Add one option for each field of `ImageRequest`; none has a default but the model's."""
    group = parser.add_argument_group("picture", "what is left out is the model's own")
    add = group.add_argument
    add("--n", type=int, dest="images_per_prompt", metavar="N", help="pictures for each prompt")
    add("--width", type=int, help="pixels, a multiple of 8")
    add("--height", type=int, help="pixels, a multiple of 8")
    add("--steps", type=int, help="2..999 for most samplers")
    add("--sampler", help="ddim, plms, dpmpp_2m, unipc, euler, ...; a wrong name lists them")
    add("--schedule", help="model, karras, normal, simple, ddim_uniform")
    add("--sigmas", type=_numbers, metavar="A,B,...", help="explicit noise levels, falling")
    add("--guidance", type=float, dest="guidance_scale", metavar="SCALE", help="1: no guidance")
    add("--seed", type=int, help="picture i takes seed + i")
    add("--noise", choices=get_args(NoiseConvention), help="how the noise is drawn")
    add("--eta", type=float, help="DDIM only, 0..1")
    add("--timestep-rule", choices=get_args(TimestepRule), help="flagai: its DDIM table")
    add("--strength", type=float, help="img2img: 0..1, the share of the steps that run")
    add("--weighting", choices=get_args(Weighting), help="what (word:1.2) does")
    add("--long-prompt", choices=get_args(LongPrompt), help="what a prompt too long does")
    add("--guidance-batching", choices=get_args(GuidanceBatching), help="both sides at once?")
    add("--vae-tiling", action="store_true", default=None, help="decode in tiles: less memory")
    add("--safety", choices=get_args(SafetyPolicy), help="what happens to a flagged picture")
    add("--safety-adjustment", type=float, help="above 0 is stricter, -1..1")


_FIELDS = (
    "images_per_prompt", "width", "height", "steps", "sampler", "schedule", "sigmas",
    "guidance_scale", "seed", "noise", "eta", "timestep_rule", "strength", "weighting",
    "long_prompt", "guidance_batching", "vae_tiling", "safety", "safety_adjustment",
)  # fmt: skip


def request_fields(args: argparse.Namespace) -> dict[str, Any]:
    """Return the fields that were given."""
    given = {name: getattr(args, name) for name in _FIELDS}
    return {name: value for name, value in given.items() if value is not None}


def _lora(text: str) -> tuple[str, float]:
    """Read FILE[:STRENGTH]; the colon of a drive is none of ours."""
    place, colon, strength = text.rpartition(":")
    if not (colon and place) or "/" in strength or "\\" in strength:
        return text, 1.0
    try:
        return place, float(strength)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: the strength is no number") from None


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: give numbers with commas between") from None


def write_text(path: Path, text: str) -> None:
    """Write a new file whole, or nothing; nothing is overwritten.

    Raises:
        InvalidRequest: the name is taken or refused.
        PipelineError: the folder is full or read-only.
    """
    from ..images.folders import open_folder, safe_parts

    (name,) = safe_parts(path.name)
    with open_folder(path.parent) as folder:
        folder.write_new([name], f"{text}\n".encode())


@contextlib.contextmanager
def byte_bar() -> Iterator[Callable[[int, int], None]]:
    """Yield a progress function that draws a bar on standard error."""
    from tqdm import tqdm

    with tqdm(unit="B", unit_scale=True, leave=False, file=sys.stderr, disable=None) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield progress
