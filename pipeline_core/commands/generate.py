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

from ..errors import InvalidRequest
from ..models.specs import ModelSpec
from ..values import CheckedImages, ImageRequest
from .options import (
    Subparsers,
    add_request_options,
    add_source_options,
    other_places,
    request_fields,
)

if TYPE_CHECKING:
    import torch
    from PIL import Image

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
    from ..images.convert import to_mask, to_pixels

    recipe = read_recipe(args.from_picture) if args.from_picture else {}
    request = read_request(args, recipe)
    if args.batch_size is not None and args.batch_size < 1:
        raise InvalidRequest(f"--batch-size is {args.batch_size}; it must be at least 1")
    init_picture, mask_picture = read_pictures(args)
    pipeline = open_pipeline(args, args.model or _model_of(recipe), request)
    size = (request.width or pipeline.native_size, request.height or pipeline.native_size)
    images = paint(
        pipeline,
        request,
        init_image=_fitted(init_picture, size, to_pixels),
        mask=_fitted(mask_picture, size, to_mask),
        batch_size=args.batch_size,
    )
    report(args, images, write(args, images))
    return 0


def read_recipe(picture: Path) -> dict[str, Any]:
    """Return what a picture of ours says of its model and its request (for it alone).

    Raises:
        FileRefused: no picture, or not one of ours.
    """
    from ..images.metadata import read_metadata

    recipe = read_metadata(picture)
    request, index = recipe.get("request"), recipe.get("index", 0)
    if not isinstance(request, dict) or not isinstance(recipe.get("model"), dict):
        raise InvalidRequest(f"{picture.name} does not say how it was made")
    return {**recipe, "request": ImageRequest.from_metadata(request).single(index).to_metadata()}


def read_request(args: argparse.Namespace, recipe: dict[str, Any]) -> ImageRequest:
    """Return the request of the options, over that of a picture.

    Raises:
        InvalidRequest: an option does not fit.
    """
    fields: dict[str, Any] = {**recipe.get("request", {}), **request_fields(args)}
    prompts = [*args.prompt, *(_lines(args.from_file) if args.from_file else ())]
    if prompts:
        fields["prompts"] = prompts
    if args.negative:
        fields["negative_prompts"] = args.negative
    if not fields.get("prompts"):
        raise InvalidRequest("nothing to paint: give --prompt, --from-file or --from")
    if args.init_image or args.mask:
        fields["init_image"] = fields["mask"] = None  # their own digests, once they are read
    return ImageRequest(**fields)


def _model_of(recipe: dict[str, Any]) -> str:
    return str(recipe.get("model", {}).get("source") or "nano")


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as exc:
        raise InvalidRequest(f"--from-file {path} cannot be read as UTF-8 text: {exc}") from exc
    return [line.strip() for line in text.splitlines() if line.strip()]


def open_pipeline(
    args: argparse.Namespace, model: str, request: ImageRequest
) -> TextToImagePipeline:
    """Load the model of the options; a wrong request fails before a weight is read."""
    from ..assemble import load_pipeline

    return load_pipeline(
        model,
        device=args.device,
        dtype=args.dtype,
        parts=other_places(args) or None,
        models_dir=args.models_dir,
        allow_pickle=args.allow_pickle,
        ema=args.ema,
        prediction_type=args.prediction_type,
        before_loading=lambda spec: _check(request, spec),
    )


def _check(request: ImageRequest, spec: ModelSpec) -> None:
    from ..sampling import SamplingOptions, check_options

    check_options(SamplingOptions.from_request(request, spec))


def read_pictures(args: argparse.Namespace) -> tuple[Image.Image | None, Image.Image | None]:
    """Return the init picture and the mask as they lie on disk."""
    from ..images.convert import open_picture

    if args.mask and not args.init_image:
        raise InvalidRequest("--mask needs --init-image, to keep what it leaves out")
    return (
        open_picture(args.init_image) if args.init_image else None,
        open_picture(args.mask) if args.mask else None,
    )


def _fitted(
    picture: Image.Image | None,
    size: tuple[int, int],
    convert: Callable[[Image.Image], torch.Tensor],
) -> torch.Tensor | None:
    """Return a picture as a tensor at the size of the request."""
    from PIL.Image import Resampling

    return None if picture is None else convert(picture.resize(size, Resampling.LANCZOS))


def paint(pipeline: TextToImagePipeline, request: ImageRequest, **inputs: Any) -> CheckedImages:
    """Run the pipeline under a progress bar on standard error."""
    from tqdm import tqdm

    with tqdm(total=None, unit="step", leave=False, file=sys.stderr) as bar:

        def on_step(step: Any) -> None:
            bar.total = step.total
            bar.update(1)

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
