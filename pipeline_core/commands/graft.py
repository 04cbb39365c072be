"""`multilingual-diffusion graft diff | apply`: see the room `graft`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ..graft.recipe import MODES, GraftRecipe, Strengths
from .options import Subparsers, byte_bar

if TYPE_CHECKING:
    from ..sources import LoadOptions


def add_parser(subparsers: Subparsers) -> None:
    """Add the command with its two verbs."""
    parser = subparsers.add_parser(
        "graft", help="put a multilingual cross-attention into another checkpoint of its family"
    )
    verbs = parser.add_subparsers(required=True, metavar="verb", dest="verb")
    _add_diff(verbs)
    _add_apply(verbs)


def _add_diff(verbs: Subparsers) -> None:
    parser = verbs.add_parser("diff", help="which UNet tensors training changed, and by how much")
    parser.add_argument("base", metavar="BASE", help="what the multilingual model was trained from")
    parser.add_argument("multilingual", metavar="MULTILINGUAL")
    _add_common(parser)
    parser.set_defaults(run=run_diff)


def _add_apply(verbs: Subparsers) -> None:
    parser = verbs.add_parser(
        "apply",
        help="write a grafted model",
        description="A target named .safetensors is one file: the community checkpoint with its "
        "UNet grafted, for ComfyUI's loaders and for --unet and --vae here. Any other target is a "
        "folder that holds a whole multilingual model.",
    )
    parser.add_argument("community", metavar="COMMUNITY", help="the checkpoint that receives it")
    parser.add_argument("multilingual", metavar="MULTILINGUAL", help="the model that lends it")
    parser.add_argument("target", type=Path, metavar="TARGET")
    parser.add_argument(
        "--base", metavar="BASE", help="what the multilingual model was trained from, for delta-*"
    )
    parser.add_argument(
        "--mode", choices=MODES, help="usual: delta-all with --base, replace-attn2 without"
    )
    parser.add_argument("--strength", type=float, default=1.0, metavar="S", help="0..1")
    for side in ("down", "mid", "up"):
        parser.add_argument(
            f"--{side}", type=float, default=1.0, metavar="S",
            help=f"share of the strength in the {side} blocks, 0..1",
        )  # fmt: skip
    parser.add_argument(
        "--prediction-type",
        choices=("epsilon", "v_prediction"),
        help="what those UNets predict whose files do not say (plain SD2.x checkpoints)",
    )
    _add_common(parser)
    parser.set_defaults(run=run_apply)


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--allow-pickle", action="store_true", help="open .bin and .ckpt files")
    parser.add_argument("--models-dir", type=Path, metavar="FOLDER", help="where models lie")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of text")


def run_diff(args: argparse.Namespace) -> int:
    """Print what changed."""
    from ..graft.diff import diff_parents
    from ..graft.parents import open_parent

    options = _options(args)
    # epsilon only where a file does not say: a report compares numbers, not predictions
    base = open_parent("base", args.base, options, "epsilon")
    multilingual = open_parent("multilingual", args.multilingual, options, base.prediction_type)
    report = diff_parents(base, multilingual)
    print(json.dumps(report.to_json(), allow_nan=False) if args.json else report)
    return 0


def run_apply(args: argparse.Namespace) -> int:
    """Write a graft."""
    from ..graft.parents import open_parents
    from ..graft.write import write_graft

    recipe, options = _recipe(args), _options(args)
    recipe.check_base(args.base)
    parents = open_parents(
        args.community, args.multilingual, args.base, options, args.prediction_type
    )
    with byte_bar() as progress:
        report = write_graft(
            parents, recipe, args.target, allow_pickle=args.allow_pickle, progress=progress
        )
    if args.json:
        print(json.dumps(report.to_json(), allow_nan=False))
        return 0
    for note in report.notes:
        print(f"note: {note}", file=sys.stderr)
    print(
        f"{report.path}  {recipe.mode}: {report.grafted} UNet tensors grafted, {report.kept} kept, "
        f"{report.nbytes / 1e9:.2f} GB"
    )
    return 0


def _options(args: argparse.Namespace) -> LoadOptions:
    from ..sources import LoadOptions

    return LoadOptions(allow_pickle=args.allow_pickle, models_dir=args.models_dir)


def _recipe(args: argparse.Namespace) -> GraftRecipe:
    strengths = Strengths.of(args.strength, down=args.down, mid=args.mid, up=args.up)
    return GraftRecipe(args.mode or ("delta-all" if args.base else "replace-attn2"), strengths)
