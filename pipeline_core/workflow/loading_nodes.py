"""Node classes of further packs, loaded from their folders as the host loads them.

Only packs whose classes import without ComfyUI can run here; loading one runs its code, so the
user must have named it.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from ..errors import WorkflowError
from .node_code import attempt


@dataclass(frozen=True)
class NodePack:
    """The node classes of one pack by id, and their display names."""

    name: str
    classes: Mapping[str, type]
    titles: Mapping[str, str] = field(default_factory=dict)


def load_node_pack(path: Path | str) -> NodePack:
    """Load a pack's `NODE_CLASS_MAPPINGS` from its folder, or from one file.

    Raises:
        WorkflowError: there is no pack, it fails to load (often: it needs ComfyUI), or it has
            no V1 node classes.
    """
    folder = Path(path)
    file = folder / "__init__.py" if folder.is_dir() else folder
    if not file.is_file() or file.suffix != ".py":
        raise WorkflowError(
            f"{folder}: no node pack; name a folder with __init__.py, or a .py file"
        )
    outcome = attempt(lambda: _load(file))
    if outcome.value is None:
        raise WorkflowError(
            f"node pack {folder.name}: cannot be loaded without ComfyUI: {outcome.error}"
        ) from outcome.error
    return _read(outcome.value, folder.stem)


class _PackFinder(MetaPathFinder):
    """Finds packs under names of their own: folders may hold dots, or be called the same."""

    def __init__(self) -> None:
        self._files: dict[str, Path] = {}

    def name(self, file: Path) -> str:
        """Return a new name for the module that lies in `file`."""
        stem = "".join(c if c.isalnum() else "_" for c in file.parent.name)
        name = f"workflow_node_pack_{len(self._files)}_{stem}"
        self._files[name] = file
        return name

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        file = self._files.get(fullname)
        if file is None:
            return None
        places = [str(file.parent)] if file.name == "__init__.py" else None
        return spec_from_file_location(fullname, file, submodule_search_locations=places)


_FINDER = _PackFinder()


def _load(file: Path) -> ModuleType:
    """Import the file as a package, so that its relative imports work."""
    if _FINDER not in sys.meta_path:
        sys.meta_path.append(_FINDER)
    return import_module(_FINDER.name(file))


def _read(module: ModuleType, name: str) -> NodePack:
    classes: Any = getattr(module, "NODE_CLASS_MAPPINGS", None)
    titles: Any = getattr(module, "NODE_DISPLAY_NAME_MAPPINGS", None) or {}
    if not isinstance(classes, Mapping) or not all(isinstance(c, type) for c in classes.values()):
        raise WorkflowError(
            f"node pack {name}: has no NODE_CLASS_MAPPINGS of classes (V3 packs need ComfyUI)"
        )
    return NodePack(name, dict(classes), dict(titles) if isinstance(titles, Mapping) else {})
