"""Where the command meets the nodes: `multilingual-diffusion`, or `python -m` with the package."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from .pipeline_core import cli
from .pipeline_core.commands.workflows import Nodes

if TYPE_CHECKING:
    from .pipeline_core.workflow import NodePack


def load_nodes() -> NodePack:
    """Return this pack's nodes, with the stand-ins for the host's."""
    from .nodes import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS
    from .nodes.stock import STOCK_CLASS_MAPPINGS, STOCK_DISPLAY_NAME_MAPPINGS
    from .pipeline_core.workflow import NodePack

    return NodePack(
        "multilingual_diffusion",
        {**STOCK_CLASS_MAPPINGS, **NODE_CLASS_MAPPINGS},
        {**STOCK_DISPLAY_NAME_MAPPINGS, **NODE_DISPLAY_NAME_MAPPINGS},
    )


def use_folders(
    models: tuple[Path, ...], input_folder: Path, output: Path
) -> AbstractContextManager[None]:
    """Tell the nodes where models and pictures lie and pictures go, while the context lasts."""
    from .nodes.host import HeadlessFolders, use_folders

    return use_folders(HeadlessFolders(models=models, input=input_folder, output=output))


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command with this pack's nodes and return its exit code."""
    return cli.main(argv, nodes=Nodes(load_nodes, use_folders))


if __name__ == "__main__":
    sys.exit(main())
