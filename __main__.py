"""Where the command meets the nodes: `multilingual-diffusion`, or `python -m` with the package."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from .nodes import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS
from .pipeline_core import cli
from .pipeline_core.commands.workflows import Nodes


def use_folders(models: tuple[Path, ...], output: Path) -> AbstractContextManager[None]:
    """Tell the nodes where models lie and pictures go, while the context lasts."""
    from .nodes.host import HeadlessFolders, use_folders

    return use_folders(HeadlessFolders(models=models, output=output))


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command with this pack's nodes and return its exit code."""
    nodes = Nodes(NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS, use_folders)
    return cli.main(argv, nodes=nodes)


if __name__ == "__main__":
    sys.exit(main())
