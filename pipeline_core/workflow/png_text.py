"""The text chunks of a PNG file, read without decoding a pixel and with every length capped.

Format: PNG specification (third edition), chunks tEXt, zTXt and iTXt.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Collection, Iterator
from typing import BinaryIO

from .failures import malformed
from .json_text import MAX_BYTES

SIGNATURE = b"\x89PNG\r\n\x1a\n"

_MAX_CHUNKS = 10_000
_TEXT_KINDS = (b"tEXt", b"zTXt", b"iTXt")


def read_text_chunks(file: BinaryIO, where: str, keys: Collection[str]) -> dict[str, bytes]:
    """Return the text under each of `keys` that the file has; the first one of a key counts.

    Raises:
        InvalidWorkflow: not a PNG file, or one of its text chunks is damaged or too large.
    """
    if file.read(len(SIGNATURE)) != SIGNATURE:
        raise malformed(where, "not a PNG file")
    found: dict[str, bytes] = {}
    for kind, data in _text_chunks(file, where):
        key, _, rest = data.partition(b"\0")
        name = key.decode("latin-1")
        if name in keys and name not in found:
            found[name] = _text(kind, rest, where)
    return found


def _text_chunks(file: BinaryIO, where: str) -> Iterator[tuple[bytes, bytes]]:
    for _ in range(_MAX_CHUNKS):
        head = file.read(8)
        if len(head) < 8:
            return  # cut short: what was there before counts
        length, kind = struct.unpack(">I4s", head)
        if kind == b"IEND":
            return
        if kind not in _TEXT_KINDS:
            file.seek(length + 4, 1)
            continue
        if length > MAX_BYTES:
            raise malformed(where, f"a text chunk of {length >> 20} MB")
        data, checksum = file.read(length), file.read(4)
        if checksum != struct.pack(">I", zlib.crc32(kind + data)):
            raise malformed(where, "a text chunk is damaged")
        yield kind, data
    raise malformed(where, f"more than {_MAX_CHUNKS} chunks")


def _text(kind: bytes, rest: bytes, where: str) -> bytes:
    """Return a chunk's text as UTF-8, given what follows its keyword."""
    if kind == b"tEXt":
        return rest.decode("latin-1").encode("utf-8")
    if kind == b"zTXt":
        return _inflate(rest[1:], where).decode("latin-1").encode("utf-8")
    compressed = rest[:1] == b"\1"
    text = rest[2:].split(b"\0", 2)[-1]  # after the language and the translated keyword
    return _inflate(text, where) if compressed else text


def _inflate(data: bytes, where: str) -> bytes:
    inflater = zlib.decompressobj()
    try:
        text = inflater.decompress(data, MAX_BYTES)
    except zlib.error as exc:
        raise malformed(where, f"a text chunk is damaged: {exc}") from exc
    if not inflater.eof:
        raise malformed(where, f"a text chunk is cut short or above {MAX_BYTES >> 20} MB")
    return text
