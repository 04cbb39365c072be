"""New files in one folder tree: names stay inside it, contents appear whole or not at all.

Names are refused, never repaired. Where the system can (not on Windows), every folder is opened
through its parent and links are not followed, so a link swapped in midway leads nowhere.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..errors import InvalidRequest, PipelineError
from ..models.names import fault_of_part

MAX_NAME_BYTES = 180  # leaves room for a counter and a suffix within the usual 255

_HAS_FOLDER_HANDLES = {os.open, os.mkdir, os.link, os.unlink, os.rename} <= os.supports_dir_fd


def safe_parts(name: str) -> tuple[str, ...]:
    """Split a relative name such as `portraits/cat` and check every part; any script is welcome.

    Raises:
        InvalidRequest: the name could leave the folder or does not work on every system.
    """
    if not isinstance(name, str):
        raise InvalidRequest(f"file name {name!r}: it must be a string")
    parts = tuple(name.split("/"))
    for part in parts:
        reason = fault_of_part(part, MAX_NAME_BYTES)
        if reason:
            raise InvalidRequest(f"file name {name[:80]!r}: {reason}; use a plain relative name")
    return parts


class Folder:
    """One open folder; writes new files into it, never over old ones."""

    def __init__(self, path: Path, handle: int | None) -> None:
        self.path = path
        self._handle = handle

    def names(self) -> list[str]:
        """List the folder."""
        return os.listdir(self.path if self._handle is None else self._handle)

    def write_new(self, names: Iterable[str], data: bytes) -> Path:
        """Write `data` under the first of `names` that is free; it appears whole or not at all.

        Raises:
            InvalidRequest: every name is taken.
            PipelineError: the folder is full or read-only; nothing was left behind.
        """
        temporary = f".{secrets.token_hex(8)}.tmp"
        try:
            self._write(temporary, data)
            return self.path / self._publish(temporary, names)
        except OSError as error:
            raise PipelineError(
                f"cannot write into {self.path}: {error.strerror}; "
                "free space or choose another folder"
            ) from error
        finally:
            with contextlib.suppress(OSError):
                os.unlink(self._at(temporary), dir_fd=self._handle)

    def _write(self, name: str, data: bytes) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        handle = os.open(self._at(name), flags, 0o644, dir_fd=self._handle)
        with os.fdopen(handle, "wb") as file:
            file.write(data)

    def _publish(self, temporary: str, names: Iterable[str]) -> str:
        name = ""
        for name in names:
            try:
                self._link(temporary, name)
            except FileExistsError:
                continue
            return name
        raise InvalidRequest(f"{self.path / name} exists already; nothing is overwritten")

    def _link(self, temporary: str, name: str) -> None:
        """Give a finished file its name, failing where the name is taken."""
        source, target, at = self._at(temporary), self._at(name), self._handle
        try:
            os.link(source, target, src_dir_fd=at, dst_dir_fd=at)
        except FileExistsError:
            raise
        except OSError:  # no hard links here (exFAT, some network shares): reserve, then replace
            os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644, dir_fd=at))
            os.replace(source, target, src_dir_fd=at, dst_dir_fd=at)

    def _at(self, name: str) -> str:
        return name if self._handle is not None else str(self.path / name)


@contextlib.contextmanager
def open_folder(root: Path | str, parts: Iterable[str] = ()) -> Iterator[Folder]:
    """Open `root/parts...`, making what is missing; below `root` no link is followed.

    Raises:
        PipelineError: a part is a link or a file, or a folder cannot be made.
    """
    path = Path(os.path.realpath(root))
    with contextlib.ExitStack() as handles:
        try:
            path.mkdir(parents=True, exist_ok=True)
            handle = _open_directory(path, None)
            for part in parts:
                if handle is not None:
                    handles.callback(os.close, handle)
                path = path / part
                handle = _enter(path, handle)
        except OSError as error:
            raise PipelineError(
                f"cannot open the folder {path}: {error.strerror}; choose another folder"
            ) from error
        if handle is not None:
            handles.callback(os.close, handle)
        yield Folder(path, handle)


def _enter(path: Path, parent: int | None) -> int | None:
    """Make and open the folder `path` through its open parent."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(path if parent is None else path.name, dir_fd=parent)
    if parent is None and os.path.realpath(path) != str(path):
        raise NotADirectoryError(0, "a part of it is a link")
    return _open_directory(path if parent is None else Path(path.name), parent)


def _open_directory(path: Path, parent: int | None) -> int | None:
    if not _HAS_FOLDER_HANDLES:
        return None
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
