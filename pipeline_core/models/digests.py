"""Checksums of files, read piece by piece."""

from __future__ import annotations

import hashlib
from pathlib import Path

_BLOCK = 2**20  # bytes read at a time


def file_digest(path: Path, algorithm: str = "sha256", start: bytes = b"") -> str:
    """Return the hexadecimal checksum of `start` and a file's bytes."""
    digest = hashlib.new(algorithm, start, usedforsecurity=False)
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
