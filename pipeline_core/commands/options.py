"""Options that several commands share, and what they mean for an `ImageRequest`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, get_args

from ..models.detection import PartName
from ..values import (
    GuidanceBatching,
    LongPrompt,
    NoiseConvention,
    SafetyPolicy,
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
    group.add_argument("--dtype", default="auto", help="auto, keep, fp32, bf16, fp16")
    group.add_argument("--safety-checker", metavar="PATH", help="a folder that holds a checker")
    group.add_argument("--vae", metavar="PATH", help="take the VAE from another model")
    group.add_argument("--unet", metavar="PATH", help="take the UNet from another model")
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


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: give numbers with commas between") from None
