"""`multilingual-diffusion generate`: prompts in any language in, PNG files out.

Everything that can be wrong in the options is found before a weight is read.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import FileRefused, InvalidRequest
from ..ranges import check_whole
from ..values import CheckedImages, ImageRequest
from .options import (
    Subparsers,
    add_request_options,
    add_source_options,
    check_folder,
    model_folders,
    other_places,
    recorded_loras,
    recorded_place,
    request_fields,
    step_bar,
)

if TYPE_CHECKING:
    import torch

    from ..outline import Outline
    from ..pipeline import TextToImagePipeline


def add_parser(subparsers: Subparsers) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "generate",
        help="make pictures from prompts",
        description="Make pictures from prompts in any language the model speaks.",
    )
    texts = parser.add_argument_group("what to paint")
    texts.add_argument("--prompt", "-p", action="append", default=[], help="repeatable")
    texts.add_argument("--negative", action="append", default=[], help="one for all, or one each")
    texts.add_argument("--from-file", type=Path, metavar="FILE", help="one prompt a line, UTF-8")
    texts.add_argument(
        "--from",
        dest="from_picture",
        type=Path,
        metavar="PNG",
        help="make the picture of a PNG again; other options given here win over its own",
    )
    add_source_options(parser)
    add_request_options(parser)
    images = parser.add_argument_group("starting from a picture")
    images.add_argument("--init-image", type=Path, metavar="FILE", help="resized to the size asked")
    images.add_argument("--mask", type=Path, metavar="FILE", help="white is painted anew")
    output = parser.add_argument_group("output")
    output.add_argument("--out", type=Path, default=Path("output"), metavar="FOLDER")
    output.add_argument("--grid", action="store_true", help="also write all pictures as one")
    output.add_argument(
        "--json", action="store_true", help="one JSON object a picture, a line each"
    )
    output.add_argument("--batch-size", type=int, metavar="N", help="pictures sampled at a time")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Make the pictures, print a line for each."""
    from ..images.convert import pixels_digest

    recipe = read_recipe(args.from_picture) if args.from_picture else {}
    request = read_request(args, recipe)
    check_folder(args.out)
    if args.batch_size is not None:
        check_whole("--batch-size", args.batch_size, 1, 4096)
    inputs: dict[str, torch.Tensor] = {}

    def check(outline: Outline) -> None:
        inputs.update(read_pictures(args, request, outline))
        digests = {name: pixels_digest(pixels) for name, pixels in inputs.items()}
        outline.complete(request, **digests)

    pipeline = open_pipeline(args, recipe, check)
    images = paint(pipeline, request, batch_size=args.batch_size, **inputs)
    report(args, images, write(args, images))
    return 0


def read_recipe(picture: Path) -> dict[str, Any]:
    """Return what a picture of ours says of its model and its request (of a grid: of all).

    Raises:
        FileRefused: no picture, or not one of ours.
        InvalidRequest: it does not say enough to be made again.
    """
    from ..images.metadata import read_metadata

    recipe = read_metadata(picture)
    request, model = recipe.get("request"), recipe.get("model")
    if not isinstance(request, dict) or not isinstance(model, dict):
        raise InvalidRequest(f"{picture.name} does not say how it was made")
    _check_model(picture, model)
    if recipe.get("noise") == "given":
        raise InvalidRequest(
            f"{picture.name} was made from noise that a program gave; its file does not hold it"
        )
    whole = ImageRequest.from_metadata(request)
    return {**recipe, "request": whole.single(recipe["index"]) if "index" in recipe else whole}


_MODEL_FIELDS = {
    "source": str, "dtype": str, "prediction_type": str, "ema": bool, "parts": dict, "loras": list,
}  # fmt: skip


def _check_model(picture: Path, model: dict[str, Any]) -> None:
    wrong = [
        name
        for name, kind in _MODEL_FIELDS.items()
        if not isinstance(model.get(name, kind()), kind)
    ]
    if wrong or not model.get("source"):
        raise FileRefused(f"{picture.name} does not say which model made it: {wrong or 'source'}")


def read_request(args: argparse.Namespace, recipe: dict[str, Any]) -> ImageRequest:
    """Return the request of the options, over that of a picture.

    Raises:
        InvalidRequest: an option does not fit.
    """
    fields: dict[str, Any] = request_fields(args)
    if recipe:
        fields = {**recipe["request"].to_metadata(), **fields}
    prompts = [*args.prompt, *(_lines(args.from_file) if args.from_file else ())]
    if prompts:
        fields["prompts"] = prompts
    if args.negative:
        fields["negative_prompts"] = args.negative
    if not fields.get("prompts"):
        raise InvalidRequest("nothing to paint: give --prompt, --from-file or --from")
    for name in ("init_image", "mask"):
        if getattr(args, name):
            fields[name] = None  # its own digest, once it is read
    if args.mask and not args.init_image:
        raise InvalidRequest("--mask needs --init-image, to keep what it leaves out")
    if args.init_image and fields.get("mask"):
        raise InvalidRequest("the picture was painted under a mask; give it again with --mask")
    return ImageRequest(**fields)


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as exc:
        raise InvalidRequest(f"--from-file {path} cannot be read as UTF-8 text: {exc}") from exc
    return [line.strip() for line in text.splitlines() if line.strip()]


def open_pipeline(
    args: argparse.Namespace, recipe: dict[str, Any], check: Callable[[Outline], None]
) -> TextToImagePipeline:
    """Load the model of the options or of a recipe; `check` runs before a weight is read."""
    from ..assemble import load_pipeline

    made = recipe.get("model", {})
    folders = model_folders(args)
    parts = {
        name: recorded_place(folders, place, f"--{name.replace('_', '-')}")
        for name, place in (made.get("parts") or {}).items()
    }
    loras = args.loras
    if loras is None:
        loras = recorded_loras(folders, made.get("loras", []))
    model = args.model
    if model is None:
        model = recorded_place(folders, made["source"], "--model") if recipe else "nano"
    return load_pipeline(
        model,
        device=args.device,
        dtype=args.dtype or made.get("dtype") or "auto",
        parts={**parts, **other_places(args)} or None,
        models_dir=args.models_dir,
        allow_pickle=args.allow_pickle,
        ema=args.ema or made.get("ema") is True,
        prediction_type=args.prediction_type or made.get("prediction_type"),
        loras=loras,
        before_loading=check,
    )


def read_pictures(
    args: argparse.Namespace, request: ImageRequest, outline: Outline
) -> dict[str, torch.Tensor]:
    """Return the pictures that were given, at the size of the request, by name."""
    from ..images.convert import open_mask, open_pixels

    size = (request.width or outline.native_size, request.height or outline.native_size)
    pictures: dict[str, torch.Tensor] = {}
    if args.init_image:
        pictures["init_image"] = open_pixels(args.init_image, size)
    if args.mask:
        pictures["mask"] = open_mask(args.mask, size)
    return pictures


def paint(pipeline: TextToImagePipeline, request: ImageRequest, **inputs: Any) -> CheckedImages:
    """Run the pipeline under a progress bar on standard error."""
    with step_bar() as on_step:
        return pipeline(request, on_step=on_step, **inputs)


def write(args: argparse.Namespace, images: CheckedImages) -> list[Path]:
    """Write the pictures, and the grid behind them where one was asked for."""
    from ..images.grid import make_grid
    from ..images.png import write_png

    paths = write_png(args.out, images)
    if args.grid:
        columns = math.ceil(math.sqrt(len(paths)))
        paths += write_png(args.out, make_grid(images, columns), prefix="grid")
    return paths


def report(args: argparse.Namespace, images: CheckedImages, paths: list[Path]) -> None:
    """Print a line for each file; warnings go to standard error."""
    for warning in images.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    for index, path in enumerate(paths):
        if not args.json:
            print(path)
            continue
        row: dict[str, Any] = {"path": str(path), "grid": index >= len(images.verdicts)}
        if not row["grid"]:
            verdict = images.verdicts[index]
            row |= {"index": index, "flagged": verdict.flagged, **images.metadata}
        row["warnings"] = list(images.warnings)
        print(json.dumps(row, ensure_ascii=False, allow_nan=False))
