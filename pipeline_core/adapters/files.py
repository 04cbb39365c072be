"""Where LoRA and textual inversion files lie, and how one is opened.

A name goes in, a path inside one of the folders comes out; nothing is read to list them.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import FileRefused, InvalidRequest, ModelNotFound
from ..loading.tensors import TensorSource, open_weights
from ..models.folders import EMBEDDINGS, LORAS, ModelFolders, safe_join
from ..models.headers import is_pickle

SUFFIXES = (".safetensors", ".pt", ".bin", ".ckpt")  # in order of preference
MAX_DEPTH = 4  # folders below a root that are searched
_SHOWN = 20  # names that an error lists


@dataclass(frozen=True)
class AdapterFolders:
    """Folders of one kind of file, in order of preference; `kind` is a word for messages."""

    kind: str
    roots: tuple[Path, ...]

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
        raise ModelNotFound(f"no {self.kind} {name[:200]!r} in {places}{hint}; found: {shown}")

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
            raise ModelNotFound(f"no {self.kind} lies at {str(name_or_path)[:200]!r}") from None


def lora_folders(models: ModelFolders) -> AdapterFolders:
    """Return the folders for LoRAs among the models."""
    return AdapterFolders("LoRA", tuple(root / LORAS for root in models.roots))


def embedding_folders(models: ModelFolders) -> AdapterFolders:
    """Return the folders for textual inversions among the models."""
    return AdapterFolders("embedding", tuple(root / EMBEDDINGS for root in models.roots))


def open_adapter(path: Path, *, allow_pickle: bool = False) -> TensorSource:
    """Open a small file of tensors; no tensor data is read.

    Raises:
        FileRefused: it is broken, or a pickle that was not allowed.
    """
    if is_pickle(path) and not allow_pickle:
        raise FileRefused(
            f"{path} is a pickle, which can carry code, and pickles were not allowed; take its "
            "safetensors version, or allow pickles (--allow-pickle, allow_pickle) if you trust it"
        )
    return open_weights([path], allow_pickle=allow_pickle)


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
