"""`multilingual-diffusion run` and `convert`: workflow files without a server.

The node classes are handed in by the entry point, since the core knows no nodes; they are loaded
only by these commands.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InvalidRequest, UnknownName
from .options import Subparsers, check_folder, write_text

if TYPE_CHECKING:
    from ..workflow import NodeDefinition, NodePack, Workflow


@dataclass(frozen=True)
class Nodes:
    """How the node classes are loaded, and how they are told their folders.

    `use_folders(model folders, input folder, output folder)` holds while its context lasts.
    """

    load: Callable[[], NodePack]
    use_folders: Callable[[tuple[Path, ...], Path, Path], AbstractContextManager[None]]


def add_parser(subparsers: Subparsers, nodes: Nodes) -> None:
    """Add both commands."""
    run_parser = subparsers.add_parser(
        "run", help="run a workflow file, or the workflow in a picture, without a server"
    )
    run_parser.add_argument("workflow", type=Path, metavar="FLOW.json|PICTURE.png")
    run_parser.add_argument(
        "--set", action="append", default=[], metavar="NODE.INPUT=VALUE", dest="changes"
    )
    run_parser.add_argument("--output", type=Path, default=Path("output"), metavar="FOLDER")
    run_parser.add_argument(
        "--input-dir", type=Path, metavar="FOLDER",
        help="pictures to load; else the folder `input` beside the workflow, or here",
    )  # fmt: skip
    run_parser.add_argument("--models-dir", type=Path, metavar="FOLDER")
    run_parser.add_argument("--only", metavar="NODE", help="run this node and what it needs")
    run_parser.add_argument("--dry-run", action="store_true", help="validate, run nothing")
    run_parser.add_argument("--json", action="store_true", help="every event as a JSON line")
    _add_nodes(run_parser)
    run_parser.set_defaults(run=lambda args: run(args, nodes))
    convert_parser = subparsers.add_parser("convert", help="a browser's workflow to API format")
    convert_parser.add_argument("workflow", type=Path, metavar="FLOW.json|PICTURE.png")
    convert_parser.add_argument(
        "--object-info", type=Path, metavar="FILE", help="definitions from a server's dump"
    )
    convert_parser.add_argument("--output", type=Path, metavar="FILE", help="else to the screen")
    _add_nodes(convert_parser)
    convert_parser.set_defaults(run=lambda args: convert(args, nodes))


def _add_nodes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--nodes", type=Path, action="append", default=[], metavar="PATH", dest="packs",
        help="a further pack whose nodes import without ComfyUI; its code runs",
    )  # fmt: skip


def run(args: argparse.Namespace, nodes: Nodes) -> int:
    """Validate and run; print what the output nodes show."""
    import torch

    from ..workflow import Executor, InvalidWorkflow, json_lines, validate

    pictures = _input_folder(args)
    models = (args.models_dir,) if args.models_dir else ()
    classes, titles = _with_packs(args, nodes)
    workflow = _changed(_read(args.workflow, classes, titles), args.changes)
    check_folder(args.output)
    with nodes.use_folders(models, pictures, args.output), torch.inference_mode():
        try:
            if args.dry_run:
                checked = validate(workflow, classes, only=args.only, titles=titles)
                print(f"{args.workflow.name} is valid: {len(checked.outputs)} outputs would run")
                return 0
            on_event = json_lines(sys.stdout) if args.json else None
            executor = Executor(classes, titles=titles, on_event=on_event)
            result = executor.run(workflow, only=args.only)
        except InvalidWorkflow as error:
            print(json.dumps(error.to_json(), ensure_ascii=False, indent=2), file=sys.stderr)
            raise
    if not args.json:
        for node_id, shown in result.ui.items():
            print(f"{node_id}  {json.dumps(shown, ensure_ascii=False, default=str)}")
    return 0


def convert(args: argparse.Namespace, nodes: Nodes) -> int:
    """Write a workflow in API format."""
    from ..models.strict_json import read_json
    from ..workflow import definitions_from_object_info, read_workflow, to_api

    if args.object_info:
        definitions = definitions_from_object_info(
            read_json(args.object_info, max_bytes=64 * 2**20)
        )
    else:
        definitions = _definitions(*_with_packs(args, nodes))
    api = to_api(read_workflow(args.workflow, definitions))
    text = json.dumps(api, ensure_ascii=False, indent=2)
    if args.output is None:
        print(text)
    else:
        write_text(args.output, text)
    return 0


def _input_folder(args: argparse.Namespace) -> Path:
    """Return the folder asked for, else `input` beside the workflow, else that of this folder."""
    if args.input_dir is None:
        beside = args.workflow.parent / "input"
        return beside if beside.is_dir() else Path("input")
    if not args.input_dir.is_dir():
        raise InvalidRequest(f"--input-dir {args.input_dir}: there is no such folder")
    return args.input_dir


def _with_packs(
    args: argparse.Namespace, nodes: Nodes
) -> tuple[Mapping[str, type], Mapping[str, str]]:
    from ..workflow import load_node_pack

    classes, titles = dict[str, type](), dict[str, str]()
    for pack in (nodes.load(), *map(load_node_pack, args.packs)):
        classes |= pack.classes
        titles |= pack.titles
    return classes, titles


def _definitions(
    classes: Mapping[str, type], titles: Mapping[str, str]
) -> Mapping[str, NodeDefinition]:
    from ..workflow import definitions_from_classes

    return definitions_from_classes(classes, titles)


def _read(path: Path, classes: Mapping[str, type], titles: Mapping[str, str]) -> Workflow:
    from ..workflow import read_workflow

    return read_workflow(path, _definitions(classes, titles))


def _changed(workflow: Workflow, changes: list[str]) -> Workflow:
    """Return the workflow with `NODE.INPUT=VALUE` changes; a value is JSON, or else plain text."""
    for change in changes:
        place, equals, text = change.partition("=")
        node_id, dot, name = place.partition(".")
        if not (equals and dot and name):
            raise InvalidRequest(f"--set {change!r}: write NODE.INPUT=VALUE")
        if node_id not in workflow.nodes:
            raise UnknownName("node", node_id, workflow.nodes)
        try:
            value: Any = json.loads(text)
        except ValueError:
            value = text
        workflow = workflow.with_input(node_id, name, value)
    return workflow
