"""`multilingual-diffusion demo`: one picture for each of six languages with the embedded model.

No download, seconds on a CPU; writes the pictures and a labelled contact sheet.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from ..values import ImageRequest
from .generate import paint
from .options import Subparsers, check_folder

_PROMPTS = Path(__file__).parent.parent / "assets" / "demo_prompts.json"


def add_parser(subparsers: Subparsers) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "demo", help="draw six prompts in six languages with the embedded model"
    )
    parser.add_argument("--out", type=Path, default=Path("output/demo"), metavar="FOLDER")
    parser.add_argument("--seed", type=int, default=0)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Draw, write, print the paths."""
    from ..assemble import load_pipeline
    from ..images.grid import make_sheet
    from ..images.png import write_png

    check_folder(args.out)
    rows = json.loads(_PROMPTS.read_text(encoding="utf-8"))
    request = ImageRequest(prompts=tuple(row["prompt"] for row in rows), seed=args.seed)
    start = time.perf_counter()
    pipeline = load_pipeline("nano")
    loaded = time.perf_counter()
    images = paint(pipeline, request)
    drawn = time.perf_counter()
    paths = write_png(args.out, images, prefix="demo")
    labels = [f"{row['name']}: {row['prompt']}" for row in rows]
    sheet_image = make_sheet(images, labels, columns=3, codes=[row["name"] for row in rows])
    sheet = write_png(args.out, sheet_image, prefix="demo_sheet")[0]
    for row, path in zip(rows, paths, strict=True):
        print(f"{row['language']}  {path}  {row['prompt']}")
    print(f"sheet  {sheet}")
    print(f"loaded in {loaded - start:.1f} s, {len(paths)} pictures in {drawn - loaded:.1f} s")
    return 0
