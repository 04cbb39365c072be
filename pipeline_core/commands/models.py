"""`multilingual-diffusion models list | check | convert | download | verify`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InvalidRequest
from ..models.specs import MODELS
from .options import Subparsers, byte_bar, model_folders, step_bar

if TYPE_CHECKING:
    from ..outline import Outline


def add_parser(subparsers: Subparsers) -> None:
    """Add the command with its five verbs."""
    parser = subparsers.add_parser("models", help="list, check, convert, download, verify models")
    verbs = parser.add_subparsers(required=True, metavar="verb", dest="verb")
    _add_list(verbs)
    _add_check(verbs)
    _add_convert(verbs)
    _add_download(verbs)
    _add_verify(verbs)


def _add_list(verbs: Subparsers) -> None:
    parser = verbs.add_parser("list", help="the known models, and which of them lie here")
    _add_models_dir(parser)
    parser.set_defaults(run=run_list)


def _add_check(verbs: Subparsers) -> None:
    parser = verbs.add_parser("check", help="what a file or folder is, and what is wrong with it")
    parser.add_argument("model", metavar="NAME|PATH")
    parser.add_argument("--allow-pickle", action="store_true")
    _add_models_dir(parser)
    parser.set_defaults(run=run_check)


def _add_convert(verbs: Subparsers) -> None:
    parser = verbs.add_parser("convert", help="any layout to safetensors, once")
    parser.add_argument("source", metavar="SRC", help="a name or a path")
    parser.add_argument("target", type=Path, metavar="DST")
    parser.add_argument("--layout", choices=("folder", "single"), default="folder")
    parser.add_argument("--dtype", choices=("keep", "fp32", "bf16", "fp16"), default="keep")
    parser.add_argument("--ema", action="store_true", help="take the averaged UNet weights")
    parser.add_argument("--allow-pickle", action="store_true")
    _add_models_dir(parser)
    parser.set_defaults(run=run_convert)


def _add_download(verbs: Subparsers) -> None:
    parser = verbs.add_parser("download", help="fetch a published model: the only network access")
    parser.add_argument("name", choices=[name for name in MODELS if name != "nano"])
    parser.add_argument("--revision", help="a branch, tag or commit of the hub, such as fp16")
    _add_models_dir(parser)
    parser.set_defaults(run=run_download)


def _add_verify(verbs: Subparsers) -> None:
    parser = verbs.add_parser(
        "verify", help="compare a real AltDiffusion folder with published slices of pictures"
    )
    parser.add_argument("path", type=Path)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--allow-pickle", action="store_true")
    parser.set_defaults(run=run_verify)


def _add_models_dir(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--models-dir", type=Path, metavar="FOLDER", help="where models lie")


def run_list(args: argparse.Namespace) -> int:
    """Print the known models, then what lies in the models folders."""
    folders = model_folders(args)
    for spec in MODELS.values():
        where = spec.huggingface_id or spec.modelscope_id or "embedded"
        size = f"{spec.download_bytes / 1e9:.1f} GB" if spec.download_bytes else ""
        print(f"{spec.name:26}{spec.title}")
        print(f"{'':26}{where}  {size}  {spec.licence}")
        print(f"{'':26}{len(spec.languages)} languages: {' '.join(spec.languages)}")
    print(f"\nin {', '.join(str(root) for root in folders.roots)}:")
    for found in folders.list_models():
        print(f"  {found.name}")
    return 0


def run_check(args: argparse.Namespace) -> int:
    """Print what lies at a path; exit code 4 where it will not load."""
    from ..loading.checking import check

    path = model_folders(args).find_model(args.model)
    report = check(path, allow_pickle=args.allow_pickle)
    print(report)
    return 0 if report.ok else 4


def run_convert(args: argparse.Namespace) -> int:
    """Write a model as safetensors."""
    from ..loading.convert import convert

    with byte_bar() as progress:
        report = convert(
            model_folders(args).find_model(args.source),
            args.target,
            dtype=args.dtype,
            layout=args.layout,
            allow_pickle=args.allow_pickle,
            ema=args.ema,
            progress=progress,
        )
    for note in report.notes:
        print(f"note: {note}", file=sys.stderr)
    print(f"{report.path}  {', '.join(report.parts)}  {report.nbytes / 1e9:.2f} GB")
    return 0


def run_download(args: argparse.Namespace) -> int:
    """Fetch a model into the models folder."""
    from ..models.download import download

    with byte_bar() as progress:
        path = download(
            args.name,
            model_folders(args).download_folder,
            revision=args.revision,
            progress=progress,
        )
    print(path)
    return 0


def run_verify(args: argparse.Namespace) -> int:
    """Make the published pictures again; exit code 1 where one differs."""
    from ..assemble import load_pipeline
    from ..golden import MODEL, SLICES, TOLERANCE, compare

    def check(outline: Outline) -> None:
        if outline.spec.name != MODEL:
            raise InvalidRequest(
                f"{args.path} is {outline.spec.name} by its names; slices are published for {MODEL}"
            )

    pipeline = load_pipeline(
        args.path,
        device=args.device,
        dtype="fp32",
        parts=("text_encoder", "tokenizer", "unet", "vae", "scheduler"),
        allow_pickle=args.allow_pickle,
        before_loading=check,
    )
    agreed = True
    for golden in SLICES:
        with step_bar() as on_step:
            found = compare(pipeline, golden, on_step)
        agreed &= found.agrees
        verdict = "agrees" if found.agrees else "DIFFERS"
        print(
            f"{golden.sampler}, {golden.steps} steps: {verdict}, largest difference "
            f"{found.difference:.4f} (allowed {TOLERANCE})"
        )
    return 0 if agreed else 1
