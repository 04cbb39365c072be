"""Rooms of pipeline_core may import only the rooms listed for them here."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CORE = ROOT / "pipeline_core"
BASE = {"errors", "ranges", "values", "models"}
# In the order of the flow; a room may always import itself.
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "ranges": {"errors"},
    "values": {"errors", "ranges"},
    "models": {"errors", "ranges", "values"},
    "text": BASE,
    "sampling": BASE,
    "vae": BASE,
    "safety": BASE,
    "images": BASE,
    "loading": BASE | {"text", "safety"},
    "adapters": BASE | {"loading", "sampling"},
    "outline": BASE | {"text", "sampling", "safety"},
    "grouping": BASE | {"text"},
    "pipeline": BASE | {"text", "sampling", "vae", "safety", "images", "outline", "grouping"},
    "sources": BASE | {"loading"},
    "assemble": BASE
    | {"loading", "text", "sampling", "vae", "safety", "adapters"}
    | {"outline", "pipeline", "sources"},
    "workflow": {"errors"},
}
STANDS_ON_TOP = {"compat", "cli", "training", "graft", "compare", "scale", "golden", "commands"}


def imported_rooms(path: Path, core: Path = CORE) -> Iterator[str]:
    """Names of the rooms a file reaches with relative imports."""
    package = path.relative_to(core).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            target = [*package[: len(package) - node.level + 1], *(node.module or "").split(".")]
            target = [part for part in target if part]
            yield from target[:1] or [alias.name for alias in node.names]


@pytest.mark.parametrize("room", ALLOWED)
def test_room_imports_only_allowed_rooms(room: str) -> None:
    files = [CORE / f"{room}.py", *(CORE / room).rglob("*.py")]
    reached = {name for path in files if path.exists() for name in imported_rooms(path)}
    assert reached <= ALLOWED[room] | {room}


def test_every_room_is_in_the_table() -> None:
    rooms = {path.stem for path in CORE.glob("*.py") if not path.stem.startswith("__")}
    rooms |= {path.name for path in CORE.iterdir() if (path / "__init__.py").exists()}
    assert rooms <= set(ALLOWED) | STANDS_ON_TOP


def test_core_never_imports_nodes_or_the_host() -> None:
    for path in CORE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            heads = {name.split(".")[0] for name in names}
            assert not heads & {"comfy", "nodes", "folder_paths", "multilingual_diffusion"}, path


def test_training_is_imported_by_nothing_but_the_command() -> None:
    users = {
        path.relative_to(CORE).parts[0]
        for path in CORE.rglob("*.py")
        if "training" in set(imported_rooms(path))
    }
    assert users <= {"training", "commands", "cli.py"}


def test_the_guard_sees_a_wrong_import(tmp_path: Path) -> None:
    room = tmp_path / "vae"
    room.mkdir()
    (room / "codec.py").write_text("from ..sampling.loop import sample\n", encoding="utf-8")
    assert "sampling" in set(imported_rooms(room / "codec.py", tmp_path))
