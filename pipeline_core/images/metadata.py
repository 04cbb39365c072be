"""What a PNG says of itself: strict JSON in a text chunk, small, and without paths of the machine.

Reading trusts nothing: it walks the chunks itself, decodes no pixel, and caps every length.
Format: PNG specification (third edition), chunks iTXt and tEXt.
"""

from __future__ import annotations

import json
import math
import re
import stat
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import FileRefused, InvalidRequest
from ..models.strict_json import parse_json

METADATA_KEY = "multilingual_diffusion"
MAX_CHUNK_BYTES = 2**20

_MAX_CHUNKS = 10_000
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_FREE_TEXT = ("prompts", "negative_prompts")  # the user's own words may look like anything
_ABSOLUTE_PATH = re.compile(r"(?:file:/|~?/(?=\S)|[A-Za-z]:[\\/]|\\\\)")


def to_metadata_text(metadata: Mapping[str, Any]) -> str:
    """Return strict JSON in readable Unicode; absolute paths keep only their last part.

    Raises:
        InvalidRequest: a value is no JSON, not finite, or the whole is above 1 MB.
    """

    def refuse(value: float) -> float:
        raise InvalidRequest(f"metadata holds {value!r}, which strict JSON cannot; leave it out")

    plain = _plain(metadata, refuse, keep_paths=False)
    text = json.dumps(plain, ensure_ascii=False, allow_nan=False)
    # a lone surrogate is no UTF-8; its backslash form is the same character in JSON
    return _capped(METADATA_KEY, text.encode("utf-8", "backslashreplace").decode("utf-8"))


def to_host_text(key: str, value: Any) -> str:
    """Return what a host gave for a chunk of its own (`prompt`, `workflow`) as strict ASCII JSON.

    Hosts write NaN into theirs, which breaks readers; it becomes null.

    Raises:
        InvalidRequest: the key cannot be one, a value is no JSON, or the text is above 1 MB.
    """
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,79}", key) or key == METADATA_KEY:
        raise InvalidRequest(f"text chunk {key!r}: use 1..79 plain letters, not {METADATA_KEY!r}")
    plain = _plain(value, lambda number: None, keep_paths=True)
    return _capped(key, json.dumps(plain, allow_nan=False))


def read_metadata(path: Path | str) -> dict[str, Any]:
    """Return what `to_metadata_text` wrote into a PNG file.

    Raises:
        FileRefused: no such file, no PNG, no metadata of ours, or something is wrong with it.
    """
    path = Path(path)
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise FileRefused(f"{path.name}: not a regular file")
        with open(path, "rb") as file:
            text = _find_text(file, path.name)
    except (OSError, ValueError) as error:
        if isinstance(error, FileRefused):
            raise
        raise FileRefused(f"{str(path)[:200]!r} cannot be read: {error}") from error
    return parse_json(text, f"{path.name}: its metadata")


def _find_text(file: BinaryIO, name: str) -> bytes:
    if file.read(8) != _SIGNATURE:
        raise FileRefused(f"{name}: not a PNG file")
    for kind, data in _chunks(file, name):
        if kind == b"iTXt" and data.startswith(METADATA_KEY.encode() + b"\0"):
            _, _, rest = data.partition(b"\0")
            if rest[:2] != b"\0\0":
                raise FileRefused(f"{name}: its metadata is compressed; we write it plain")
            return rest[2:].split(b"\0", 2)[-1]  # after the language and the translated key
    raise FileRefused(f"{name}: holds no {METADATA_KEY} metadata")


def _chunks(file: BinaryIO, name: str) -> Iterator[tuple[bytes, bytes]]:
    """Yield the text chunks; the data of all others is skipped unread."""
    for _ in range(_MAX_CHUNKS):
        head = file.read(8)
        if len(head) < 8:
            raise FileRefused(f"{name}: cut short; holds no {METADATA_KEY} metadata")
        length, kind = struct.unpack(">I4s", head)
        if kind == b"IEND":
            return
        if kind != b"iTXt" or length > MAX_CHUNK_BYTES + 1024:
            file.seek(length + 4, 1)
            continue
        data, checksum = file.read(length), file.read(4)
        if checksum != struct.pack(">I", zlib.crc32(kind + data)):
            raise FileRefused(f"{name}: a text chunk is damaged")
        yield kind, data
    raise FileRefused(f"{name}: more than {_MAX_CHUNKS} chunks")


def _plain(value: Any, on_not_finite: Callable[[float], Any], *, keep_paths: bool) -> Any:
    """Copy a JSON value, tuples as lists."""
    if isinstance(value, float) and not math.isfinite(value):
        return on_not_finite(value)
    if isinstance(value, str):
        return value if keep_paths or not _ABSOLUTE_PATH.match(value) else _last_part(value)
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, (list, tuple)):
        return [_plain(item, on_not_finite, keep_paths=keep_paths) for item in value]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {
            key: _plain(item, on_not_finite, keep_paths=keep_paths or key in _FREE_TEXT)
            for key, item in value.items()
        }
    raise InvalidRequest(
        f"metadata holds {type(value).__name__} {str(value)[:60]!r}: no JSON value"
    )


def _last_part(path: str) -> str:
    return re.split(r"[\\/]+", path.rstrip("\\/"))[-1]


def _capped(key: str, text: str) -> str:
    size = len(text.encode())
    if size > MAX_CHUNK_BYTES:
        raise InvalidRequest(
            f"text chunk {key!r} is {size / 2**20:.1f} MB; a PNG takes 1 MB, leave something out"
        )
    return text
