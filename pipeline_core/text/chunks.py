"""A prompt's tokens and how they are dealt out to windows of the encoder's length.

The rule of a cut: a window is filled, then the cut moves back, by at most a quarter of the window,
to the last place after a comma or a full stop, else to the last start of a word, else it stays.
Scripts without spaces can be cut anywhere, the vectors of one textual inversion nowhere. BREAK
always cuts; windows without tokens are dropped.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from ..errors import PromptTooLong
from .embeddings import EmbeddingTable, find_mentions
from .syntax import ParsedPrompt, parse
from .tokenizers import Tokenizer, Tokens

# ASCII, then the marks of Arabic, Devanagari, CJK and full width
_STOPS = frozenset(
    ",.;:!?\n|\u060c\u061b\u061f\u0964\u3001\u3002\uff0c\uff0e\uff1a\uff1b\uff01\uff1f"
)


class EmbeddingSpan(NamedTuple):
    """Tokens `start` to `end` (half open) that are the vectors of what was `written`."""

    start: int
    end: int
    written: str


@dataclass(frozen=True)
class PromptTokens:
    """The tokens of one prompt: `tokens.spans` count in `parsed.text`; `cuts` come from BREAK."""

    parsed: ParsedPrompt
    tokens: Tokens
    cuts: tuple[int, ...]
    embeddings: tuple[EmbeddingSpan, ...] = ()

    @property
    def text(self) -> str:
        return self.parsed.text

    @property
    def words(self) -> str:
        """The text without what stands for vectors."""
        spans = [self.tokens.spans[each.start] for each in self.embeddings]
        starts = [0, *(end for _, end in spans)]
        ends = [*(start for start, _ in spans), len(self.text)]
        return "".join(self.text[start:end] for start, end in zip(starts, ends, strict=True))

    def cut_before(self, index: int) -> int:
        """Return the nearest cut at or before a token that takes no embedding apart."""
        row = bisect.bisect_left(self.embeddings, index, key=lambda span: span.start) - 1
        inside = row >= 0 and index < self.embeddings[row].end
        return self.embeddings[row].start if inside else index

    def __len__(self) -> int:
        return len(self.tokens.ids)


def tokenize_prompt(
    prompt: str, tokenizer: Tokenizer, table: EmbeddingTable | None = None
) -> PromptTokens:
    """Parse a prompt and tokenize what BREAK and embeddings separate on its own.

    Raises:
        PromptSyntaxError: the prompt does not parse.
        FileRefused: the tokenizer's file or that of an embedding is broken.
        ModelNotFound, WeightsMismatch: an embedding is not there, or of another encoder.
    """
    parsed = parse(prompt)
    tokens, cuts, embeddings = Tokens([], []), list[int](), list[EmbeddingSpan]()
    for start, end in itertools.pairwise((0, *parsed.breaks, len(parsed.text))):
        cuts.append(len(tokens.ids))
        for first, last, ids in _pieces(parsed.text[start:end], table):
            before = len(tokens.ids)
            text = parsed.text[start + first : start + last]
            part = Tokens(ids, [(0, len(text))] * len(ids)) if ids else tokenizer.tokenize(text)
            tokens.ids.extend(part.ids)
            tokens.spans.extend((start + first + a, start + first + b) for a, b in part.spans)
            if ids:
                embeddings.append(EmbeddingSpan(before, len(tokens.ids), text))
    return PromptTokens(parsed, tokens, tuple(cuts[1:]), tuple(embeddings))


def _pieces(text: str, table: EmbeddingTable | None) -> Iterator[tuple[int, int, list[int]]]:
    """Yield (start, end, ids) of the pieces of a text; ids are empty where it is to be read."""
    if table is None:
        yield 0, len(text), []
        return
    done, known = 0, dict[str, list[int]]()
    for mention in find_mentions(text, table.source):
        if text[done : mention.start].strip():
            yield done, mention.start, []
        written = text[mention.start : mention.end]
        if written not in known:
            known[written] = table.ids_of(mention.vectors, written)
        yield mention.start, mention.end, known[written]
        done = mention.end
    if done == 0 or text[done:].strip():
        yield done, len(text), []


def split(prompt: PromptTokens, capacity: int) -> list[range]:
    """Deal the tokens out to windows of at most `capacity`: one range of token indices each.

    A prompt without tokens gives one empty window.

    Raises:
        PromptTooLong: an embedding has more vectors than a window takes.
    """
    for first, last, written in prompt.embeddings:
        if last - first > capacity:
            raise PromptTooLong(
                f"{written} has {last - first} vectors and a window takes {capacity} tokens"
            )
    windows: list[range] = []
    for start, end in itertools.pairwise((0, *prompt.cuts, len(prompt))):
        while end - start > capacity:
            cut = _find_cut(prompt, start, start + capacity)
            windows.append(range(start, cut))
            start = cut
        if end > start:
            windows.append(range(start, end))
    return windows or [range(0)]


def _find_cut(prompt: PromptTokens, start: int, end: int) -> int:
    end = prompt.cut_before(end)
    nearby = range(end, end - (end - start) // 4, -1)
    for is_good in (_follows_stop, _starts_word):
        for cut in nearby:
            if is_good(prompt, cut) and prompt.cut_before(cut) == cut:
                return cut
    return end


def _follows_stop(prompt: PromptTokens, cut: int) -> bool:
    end = prompt.tokens.spans[cut - 1][1]
    return prompt.text[end - 1 : end] in _STOPS


def _starts_word(prompt: PromptTokens, cut: int) -> bool:
    start = prompt.tokens.spans[cut][0]
    return prompt.text[start - 1 : start].isspace()
