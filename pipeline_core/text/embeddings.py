"""Textual inversion (arXiv 2208.01618): words of a prompt that stand for learned vectors.

`embedding:NAME` (ComfyUI's way) and placeholders such as `<cat-toy>` (diffusers') become tokens
with ids below 0: -1 is row 0 of `EmbeddingTable.vectors`, which takes the word table's place there.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection
from typing import TYPE_CHECKING, NamedTuple, Protocol

from ..errors import WeightsMismatch

if TYPE_CHECKING:
    import torch

# A name ends before a space, a comma or a bracket of any script, and not with a full stop.
_ENDS = r"\s<>,;:|\uff0c\u3001\u060c\uff1b\uff1a"
_NAME = rf"[^{_ENDS}]*[^{_ENDS}.!?\"'\u3002\uff01\uff1f]"
_APART = r"(?<![A-Za-z0-9_])"  # scripts without spaces need none
_NAMED = rf"{_APART}embedding[:\uff1a](?P<name>{_NAME})"
_PLACEHOLDER = r"(?P<placeholder><[^<>\s:]{1,200}>)"
_MADE_FOR = {768: " (768: CLIP of Stable Diffusion 1)", 1280: " (1280: CLIP of SDXL)"}


class EmbeddingSource(Protocol):
    """Where vectors come from: files, or anything in a test."""

    @property
    def words(self) -> Collection[str]:
        """Plain words that stand for vectors wherever they are written."""
        ...

    @property
    def placeholders(self) -> Collection[str]:
        """Words in angle brackets that stand for vectors; asked for where a prompt has any."""
        ...

    def find(self, name: str) -> torch.Tensor:
        """Return the vectors [N, D] of `embedding:NAME`.

        Raises:
            ModelNotFound, FileRefused: there is none, or it cannot be used.
        """
        ...

    def find_word(self, word: str) -> torch.Tensor:
        """Return the vectors [N, D] of one of `words` or `placeholders`.

        Raises:
            FileRefused: it cannot be used.
        """
        ...


class Mention(NamedTuple):
    """Characters `start` to `end` (half open) of a text that stand for vectors [N, D]."""

    start: int
    end: int
    vectors: torch.Tensor


def find_mentions(text: str, source: EmbeddingSource | None) -> list[Mention]:
    """Return what in a prompt's plain text stands for vectors, from left to right.

    Raises:
        ModelNotFound, FileRefused: an embedding that is named is not there or cannot be used.
    """
    if source is None:
        return []
    patterns = [_NAMED, _PLACEHOLDER]
    if source.words:
        words = "|".join(map(re.escape, sorted(source.words, key=len, reverse=True)))
        patterns.append(rf"{_APART}(?P<word>{words})(?![A-Za-z0-9_])")
    placeholders = source.placeholders if "<" in text else ()
    read: dict[str, torch.Tensor] = {}  # a file is opened once, however often it is named
    mentions: list[Mention] = []
    for match in re.finditer("|".join(patterns), text):
        written, kind = match[0], match.lastgroup
        if kind == "placeholder" and written not in placeholders:
            continue
        if written not in read:
            named = kind == "name"
            read[written] = source.find(match["name"]) if named else source.find_word(written)
        mentions.append(Mention(match.start(), match.end(), read[written]))
    return mentions


class EmbeddingTable:
    """The vectors that prompts have named so far; equal ones share their rows."""

    def __init__(self, source: EmbeddingSource, width: int) -> None:
        import torch

        self.source = source
        self.vectors = torch.empty(0, width)  # [rows, D] float32
        self._first_rows: dict[bytes, int] = {}  # by digest: a file may change meanwhile

    def ids_of(self, vectors: torch.Tensor, called: str) -> list[int]:
        """Return the token ids of vectors [N, D], which become rows where they are new.

        Raises:
            WeightsMismatch: they are of another encoder's width.
        """
        import torch

        count, width = vectors.shape
        if width != self.vectors.shape[1]:
            raise WeightsMismatch(
                f"{called} has {width} numbers a vector{_MADE_FOR.get(width, '')} and this text "
                f"encoder takes {self.vectors.shape[1]}; a textual inversion goes with the text "
                "encoder it was trained on"
            )
        vectors = vectors.to("cpu", torch.float32)
        digest = hashlib.sha256(vectors.numpy().tobytes()).digest()
        if digest not in self._first_rows:
            self._first_rows[digest] = len(self.vectors)
            self.vectors = torch.cat([self.vectors, vectors])
        first = self._first_rows[digest]
        return [-1 - row for row in range(first, first + count)]
