"""Open a file that somebody else wrote: it must be there, be a regular file and be readable.

A pipe or a device would block for ever, a dangling link or a loop says nothing useful by itself.
Links are followed: the hub's own cache is made of them.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

from ..errors import FileRefused


def file_size(path: Path) -> int:
    """Return the bytes of a regular file.

    Raises:
        FileRefused: nothing is there, or it is a folder, a pipe, a device or a broken link.
    """
    try:
        status = path.stat()
    except FileNotFoundError as exc:
        what = "is a link to nothing" if path.is_symlink() else "does not exist"
        raise FileRefused(f"{path} {what}") from exc
    except (OSError, ValueError, RuntimeError) as exc:  # loops, names with NUL, no permission
        raise FileRefused(f"{str(path)!r} cannot be opened: {exc}") from exc
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file"
        raise FileRefused(f"{path} is {kind}; a file is needed here")
    return status.st_size


def open_file(path: Path) -> BinaryIO:
    """Open a regular file for reading.

    Raises:
        FileRefused: as `file_size`, or the file cannot be read.
    """
    file_size(path)
    try:
        return path.open("rb")
    except OSError as exc:
        raise FileRefused(f"{path} cannot be read: {exc.strerror}") from exc


def read_at_most(path: Path, limit: int) -> bytes:
    """Return the whole file.

    Raises:
        FileRefused: as `open_file`, or the file is longer than `limit` bytes.
    """
    with open_file(path) as file:
        if os.fstat(file.fileno()).st_size > limit:
            raise FileRefused(f"{path} is larger than the {limit} bytes such a file may have")
        return file.read(limit)


def list_folder(folder: Path) -> list[Path]:
    """Return what lies in a folder, sorted by name.

    Raises:
        FileRefused: it cannot be listed.
    """
    try:
        return sorted(folder.iterdir())
    except OSError as exc:
        raise FileRefused(f"{folder} cannot be listed: {exc.strerror}") from exc
