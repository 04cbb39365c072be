"""The command `multilingual-diffusion`; `python -m multilingual_diffusion` is the same.

Exit codes: 0 done; 1 the run failed; 2 wrong usage or option value; 3 blocked by the safety
policy; 4 a model or file is missing, broken or refused; 130 cancelled. Errors are one line on
standard error; results go to standard output.
"""

from __future__ import annotations

import argparse
import io
import logging
import sys
from collections.abc import Sequence
from typing import NoReturn

from . import __version__
from .commands import demo, generate, graft, models, workflows
from .commands.options import Subparsers
from .commands.workflows import Nodes
from .errors import (
    Cancelled,
    FileRefused,
    InvalidRequest,
    ModelNotFound,
    PipelineError,
    UnsafeContent,
    WeightsMismatch,
)

_EXIT_CODES: tuple[tuple[type[PipelineError], int], ...] = (
    (InvalidRequest, 2),
    (UnsafeContent, 3),
    (ModelNotFound, 4),
    (FileRefused, 4),
    (WeightsMismatch, 4),
    (Cancelled, 130),
)


class OneLineParser(argparse.ArgumentParser):
    """A parser whose errors are one line, without the usage above them."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def make_parser(nodes: Nodes | None = None) -> argparse.ArgumentParser:
    """Return the parser with all commands of this installation; with nodes, `run` and `convert`."""
    parser = OneLineParser(prog="multilingual-diffusion", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("-v", "--verbose", action="store_true", help="say why choices were made")
    subparsers = parser.add_subparsers(required=True, metavar="command", dest="command")
    for command in (generate, models, graft, demo):
        command.add_parser(subparsers)
    if nodes is not None:
        workflows.add_parser(subparsers, nodes)
    _add_training(subparsers)
    return parser


def _add_training(subparsers: Subparsers) -> None:
    """Add `train` and `evaluate` where the training room is there; ComfyUI archives have none."""
    try:
        from .training import commands
    except ModuleNotFoundError as exc:
        if exc.name and not exc.name.endswith("training"):
            raise
        return
    commands.add_parser(subparsers)


def main(argv: Sequence[str] | None = None, *, nodes: Nodes | None = None) -> int:
    """Run one command and return its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a console that lacks a prompt's script
            stream.reconfigure(errors="backslashreplace")
    args = make_parser(nodes).parse_args(argv)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("multilingual_diffusion").setLevel(
        logging.INFO if args.verbose else logging.WARNING
    )
    try:
        return args.run(args)
    except PipelineError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return next((code for kind, code in _EXIT_CODES if isinstance(error, kind)), 1)
    except (OSError, MemoryError) as error:
        print(f"error: {' '.join(str(error).split()) or type(error).__name__}", file=sys.stderr)
        return 1
    except RuntimeError as error:
        if "out of memory" not in str(error):  # torch has its own class for accelerators only
            raise
        print("error: out of memory; try --batch-size 1, --vae-tiling or less", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("cancelled; nothing half-written was left", file=sys.stderr)
        return 130
