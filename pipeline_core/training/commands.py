"""`multilingual-diffusion train` and `evaluate`; see `commands_tuning` and `commands_evaluate`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..models.folders import ModelFolders
from .commands_evaluate import add_measures
from .commands_tuning import add_recipes
from .cpu import tuned_cpu
from .nano.stage_names import COMMUNITY_MODELS, COMMUNITY_STAGES, STAGES

Subparsers = Any  # argparse names the type of its sub-parsers privately


def add_parser(subparsers: Subparsers) -> None:
    """Add the commands `train` and `evaluate`."""
    train = subparsers.add_parser("train", help="teach a model a language, or make nano again")
    recipes = train.add_subparsers(required=True, metavar="recipe", dest="recipe")
    _add_nano(recipes)
    add_recipes(recipes)
    add_measures(subparsers.add_parser("evaluate", help="measure what a model understands"))


def _add_nano(recipes: Subparsers) -> None:
    parser = recipes.add_parser("nano", help="make nano from nothing; continues where it stopped")
    parser.add_argument("--folder", type=Path, default=Path("runs/nano"), help="checkpoints")
    stages = (*STAGES, *COMMUNITY_STAGES)
    parser.add_argument(
        "--from",
        dest="model",
        metavar="MODEL",
        help="start from a finished nano: its parts are results; then --only details trains on",
    )
    parser.add_argument("--until", choices=stages, default=STAGES[-1], help="the last stage to run")
    parser.add_argument("--only", choices=stages, help="one stage, its forerunners being done")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: all)")
    parser.add_argument("--plan", type=Path, help="JSON: other lengths of the stages")
    parser.add_argument("--export", type=Path, metavar="FOLDER", help="write the finished model")
    parser.add_argument(
        "--export-stage", choices=COMMUNITY_MODELS, help="write this model of the run, not nano"
    )
    parser.set_defaults(run=run_nano)


@tuned_cpu()
def run_nano(args: argparse.Namespace) -> int:
    """Train nano's stages, and export the result where asked."""
    import torch

    from .nano.plan import read_plan
    from .nano.recipe import train_nano
    from .nano.start import start_from
    from .processes import run_once

    if args.threads:
        torch.set_num_threads(args.threads)
    if args.model is not None:
        model = ModelFolders().find_model(args.model)
        run_once(lambda: start_from(model, args.folder))
    train_nano(args.folder, read_plan(args.plan), until=args.until, only=args.only)
    if args.export is not None:
        run_once(lambda: _export(args))
    return 0


def _export(args: argparse.Namespace) -> None:
    from .nano.export import export_run

    size = export_run(args.folder, args.export, args.export_stage)
    print(f"{args.export}: {size / 1e6:.2f} MB")
