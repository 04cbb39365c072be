"""The tokenizer of `nano`: a sentencepiece unigram model under XLM-R's file name and id rule.

Trained on captions of the small world in all languages, and on the alphabets they are written in.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from ...text.tokenizers import SentencePieceTokenizer
from ..world.captions import corpus
from .configs import CONTEXT_LENGTH, VOCABULARY

FILE_NAME = "sentencepiece.bpe.model"
_CORPUS_LINES = 36_000

# Characters a prompt may hold that no caption has: first and last code point of each run.
_ALPHABETS = (
    (0x21, 0x7E),  # ASCII
    (0xC0, 0x17F),  # Latin with marks: west and central Europe, Turkish
    (0x1EA0, 0x1EF9),  # Vietnamese
    (0x410, 0x44F),  # Cyrillic
    (0x621, 0x64A),  # Arabic
    (0x905, 0x939),  # Devanagari
    (0xE01, 0xE3A),  # Thai
    (0x3041, 0x3096),  # hiragana
    (0x30A1, 0x30FA),  # katakana
)


def write_tokenizer(folder: Path) -> Path:
    """Train the model into `folder` and return its file."""
    import sentencepiece

    path = folder / FILE_NAME
    folder.mkdir(parents=True, exist_ok=True)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=_lines(),
        model_prefix=str(path.with_suffix("")),
        vocab_size=VOCABULARY,
        character_coverage=1.0,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        num_threads=1,
        minloglevel=2,
    )
    path.with_suffix(".vocab").unlink()
    return path


def _lines() -> Iterator[str]:
    alphabets = (" ".join(chr(c) for c in range(a, b + 1)) for a, b in _ALPHABETS)
    return itertools.chain(corpus(_CORPUS_LINES, seed=0), alphabets)


class Windows:
    """Texts to ids [B, 77] as the text encoder sees them: start, pieces, end, pads."""

    def __init__(self, path: Path) -> None:
        self.tokenizer = SentencePieceTokenizer(path)
        self._known: dict[str, list[int]] = {}

    def __call__(self, texts: Sequence[str]) -> torch.Tensor:
        """Tokenize; what does not fit a window is cut."""
        table = np.full((len(texts), CONTEXT_LENGTH), self.tokenizer.pad_id, dtype=np.int64)
        for row, text in zip(table, texts, strict=True):
            ids = self._ids(text)
            row[: len(ids)] = ids
        return torch.from_numpy(table)

    def _ids(self, text: str) -> list[int]:
        if text not in self._known:
            pieces = self.tokenizer.tokenize(text).ids[: CONTEXT_LENGTH - 2]
            self._known[text] = [self.tokenizer.start_id, *pieces, self.tokenizer.end_id]
        return self._known[text]
