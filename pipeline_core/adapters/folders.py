"""Where LoRA and textual inversion files lie: a name goes in, a path inside a folder comes out.

Names come from widgets and workflow files, so none can leave its folder; nothing is opened.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..errors import InvalidRequest, ModelNotFound
from ..models.folders import ModelFolders, safe_join

AdapterKind = Literal["loras", "embeddings"]  # as the host calls its folders
_WORDS: dict[AdapterKind, str] = {"loras": "LoRA", "embeddings": "embedding"}

SUFFIXES = (".safetensors", ".pt", ".bin", ".ckpt")  # in order of preference
MAX_DEPTH = 4  # folders below a root that are searched
_SHOWN = 20  # names that an error lists


@dataclass(frozen=True)
class AdapterFolders:
    """Folders of one kind of file, in order of preference."""

    kind: AdapterKind
    roots: tuple[Path, ...]

    @classmethod
    def among(cls, kind: AdapterKind, models: ModelFolders) -> AdapterFolders:
        """Return the folders of that kind in the models folders."""
        return cls(kind, tuple(root / kind for root in models.roots))

    def list_names(self) -> list[str]:
        """Return the names `find` takes: paths below a root with forward slashes, each once."""
        found = {
            path.relative_to(root).as_posix(): None
            for root in self.roots
            for path in _walk(root, MAX_DEPTH)
        }
        return list(found)

    def find(self, name: str) -> Path:
        """Return the file of this name; its suffix may be left out.

        Raises:
            InvalidRequest: the name could leave its folder.
            ModelNotFound: listing what is there.
        """
        for root in self.roots:
            for suffix in ("", *SUFFIXES):
                path = safe_join(root, name + suffix)
                if path.is_file() and path.suffix in SUFFIXES:
                    return path
        names = self.list_names()
        near = difflib.get_close_matches(name, [*names, *map(_without_suffix, names)], n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        shown = ", ".join(names[:_SHOWN]) + ", ..." * (len(names) > _SHOWN) or "none"
        places = ", ".join(map(str, self.roots))
        raise ModelNotFound(
            f"no {_WORDS[self.kind]} {name[:200]!r} in {places}{hint}; found: {shown}"
        )

    def name_of(self, path: Path) -> str:
        """Return what `find` takes for a path; of one that lies elsewhere, the file's name."""
        for root in self.roots:
            if path.is_relative_to(root):
                return path.relative_to(root).as_posix()
        return path.name

    def find_file(self, name_or_path: str | Path) -> Path:
        """Return the file of a name, or the path where a user who may name any path gave one.

        Raises:
            ModelNotFound: it is neither.
        """
        try:
            return self.find(str(name_or_path))
        except (InvalidRequest, ModelNotFound) as exc:
            if os.path.lexists(name_or_path):
                return Path(name_or_path)
            if isinstance(exc, ModelNotFound):
                raise
            raise ModelNotFound(
                f"no {_WORDS[self.kind]} lies at {str(name_or_path)[:200]!r}"
            ) from None


def _walk(folder: Path, depth: int) -> Iterator[Path]:
    try:
        entries = sorted(folder.iterdir())
    except OSError:  # it need not exist
        return
    for path in entries:
        if path.name.startswith("."):
            continue
        if path.is_dir() and depth > 1:
            yield from _walk(path, depth - 1)
        elif path.suffix in SUFFIXES and path.is_file():
            yield path


def _without_suffix(name: str) -> str:
    return name[: -len(Path(name).suffix)]
