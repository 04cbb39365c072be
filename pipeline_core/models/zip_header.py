"""The member list of a torch zip checkpoint, checked before anything in it is read (no torch).

torch stores every member uncompressed; a compressed, encrypted, overlapping or oddly named member
means a bomb or a disguise. The pickle itself is for `loading`, which needs permission for it.
Archive layout: pytorch/caffe2/serialize/inline_container.h
"""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import FileRefused
from .files import file_size

MAX_DIRECTORY = 2**20  # bytes of the central directory; 2,100 tensors take about 200 KB
MAX_MEMBERS = 12_000
MAX_PICKLE = 32 * 2**20  # data.pkl holds names and shapes; real ones take about 300 KB
_ALLOWED_FLAGS = 0x0808  # sizes in a data descriptor, names in UTF-8
_LOCAL_HEADER = struct.Struct("<4s5H3L2H")


@dataclass(frozen=True)
class ZipHeader:
    """Checked members of a torch zip file: full name -> bytes; `root` is their common folder."""

    path: Path
    root: str
    members: Mapping[str, int]


def read_zip_header(path: Path) -> ZipHeader:
    """Read and check the central directory; no member is opened.

    Raises:
        FileRefused: naming the file and the first rule it breaks.
    """
    size = file_size(path)
    try:
        with _SmallReads(path) as file, zipfile.ZipFile(file) as archive:
            infos = archive.infolist()
            _check_members(path, infos, size)
            _check_extents(path, infos, file, size)
    except (
        zipfile.BadZipFile,
        struct.error,
        ValueError,
        OverflowError,
        OSError,
        EOFError,
        NotImplementedError,
    ) as exc:
        raise _refused(path, f"its directory does not parse: {exc}") from exc
    members = {info.filename: info.file_size for info in infos}
    return ZipHeader(path, _find_root(path, members), members)


class _SmallReads(io.FileIO):
    """A file whose reads are bounded, so that a directory of gigabytes is not taken into memory."""

    def read(self, size: int | None = -1, /) -> bytes:
        limit = MAX_DIRECTORY if size is None or size < 0 else size
        if limit > MAX_DIRECTORY:
            raise ValueError(f"a directory of {limit} bytes; {MAX_DIRECTORY} are allowed")
        return super().read(limit) or b""


def _check_members(path: Path, infos: list[zipfile.ZipInfo], size: int) -> None:
    if not 0 < len(infos) <= MAX_MEMBERS:
        raise _refused(path, f"{len(infos)} members; 1..{MAX_MEMBERS} are allowed")
    if len({info.filename for info in infos}) < len(infos):
        raise _refused(path, "a member name is there twice")
    for info in infos:
        name = info.orig_filename
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
            raise _refused(path, f"{name[:80]!r} is compressed")
        if info.flag_bits & ~_ALLOWED_FLAGS:
            raise _refused(path, f"{name[:80]!r} is encrypted or has unknown flags")
        parts = name.split("/")
        if not name.isprintable() or "\\" in name or ":" in name or {"", ".", ".."} & set(parts):
            raise _refused(path, f"the member name {name[:80]!r} is not one torch writes")
    if sum(info.file_size for info in infos) > size:
        raise _refused(path, "its members together are larger than the file")


def _check_extents(path: Path, infos: list[zipfile.ZipInfo], file: io.FileIO, size: int) -> None:
    """Each member must start where its own header says the same name, and overlap no other."""
    position = 0
    for info in sorted(infos, key=lambda info: info.header_offset):
        name = info.orig_filename
        file.seek(info.header_offset)
        local = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
        magic, flags, method, name_length, extra_length = (local[i] for i in (0, 2, 3, 9, 10))
        same = file.read(name_length) == name.encode()
        if magic != b"PK\x03\x04" or not same or method or flags & ~_ALLOWED_FLAGS:
            raise _refused(path, f"{name[:80]!r} differs between its header and the directory")
        start = info.header_offset + _LOCAL_HEADER.size + name_length + extra_length
        if info.header_offset < position or start + info.file_size > size:
            raise _refused(path, f"{name[:80]!r} overlaps another member or the end")
        position = start + info.file_size


def _find_root(path: Path, members: Mapping[str, int]) -> str:
    roots = {name.partition("/")[0] for name in members}
    root = next(iter(roots))
    if len(roots) != 1 or f"{root}/data.pkl" not in members:
        raise _refused(path, "no data.pkl in one common folder, so no torch checkpoint")
    if f"{root}/constants.pkl" in members:
        raise _refused(path, "it is a TorchScript program, not a file of weights")
    if members[f"{root}/data.pkl"] > MAX_PICKLE:
        raise _refused(path, f"its data.pkl is larger than {MAX_PICKLE} bytes")
    return root


def _refused(path: Path, reason: str) -> FileRefused:
    return FileRefused(f"{path}: not a sound torch checkpoint: {reason}; get the file again")
