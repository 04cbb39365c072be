"""Prompt syntax to plain text with a weight for each character and the places of new windows.

`(word:1.2)` weighs, `((word))` is 1.1 a bracket, `[word]` is 1/1.1, nested weights multiply, BREAK
as a word of its own starts a new window, a backslash makes the next mark plain text. Full-width
marks work in the same places. Pure Python, linear in the length, no recursion.
"""

from __future__ import annotations

import bisect
import re
from dataclasses import dataclass
from typing import NamedTuple

from ..errors import InvalidRequest, PromptSyntaxError

BRACKET_WEIGHT = 1.1
MAX_WEIGHT = 10.0  # of a character, all brackets around it multiplied
MAX_DEPTH = 1000

_BRACKETS = r"()\[\]\uff08\uff09\uff3b\uff3d"
_MARKS = re.compile(
    rf"(?P<opening>[(\[\uff08\uff3b])|(?P<closing>[)\]\uff09\uff3d])|(?P<colon>[:\uff1a])"
    rf"|(?P<escaped>\\[\\:\uff1a{_BRACKETS}])"
    rf"|(?<![^\s{_BRACKETS}])(?P<word>BREAK)(?![^\s{_BRACKETS}])"
)
_ROUND = "(\uff08)\uff09"
# \d is a decimal digit of any script; full-width sign and point become ASCII first
_NUMBER = re.compile(r"\s*([+-]?(?:\d+(?:\.\d*)?|\.\d+))\s*")
_TO_ASCII = str.maketrans("\uff0b\uff0d\uff0e", "+-.")


class WeightSpan(NamedTuple):
    """Characters `start` to `end` (half open) of the plain text and their weight."""

    start: int
    end: int
    weight: float


@dataclass(frozen=True)
class ParsedPrompt:
    """What a prompt says once its syntax is removed.

    `spans` cover `text` without gaps, in order; `breaks` are positions in `text` where a new window
    starts. `anchors` pairs positions in `text` with positions in the prompt as typed.
    """

    text: str
    spans: tuple[WeightSpan, ...]
    breaks: tuple[int, ...]
    anchors: tuple[tuple[int, int], ...]

    def source_position(self, position: int) -> int:
        """Return where a character of `text` stands in the prompt as typed."""
        row = bisect.bisect_right(self.anchors, position, key=lambda anchor: anchor[0]) - 1
        plain, source = self.anchors[row] if row >= 0 else (0, 0)
        return source + position - plain


def parse(prompt: str) -> ParsedPrompt:
    """Read a prompt.

    Raises:
        PromptSyntaxError: a bracket has no partner, or a weight is outside -10..10; with position.
        InvalidRequest: the prompt is not a string.
    """
    if not isinstance(prompt, str):
        raise InvalidRequest(f"the prompt is {prompt!r}; it must be a string")
    reader = _Reader(prompt)
    done = 0
    for match in _MARKS.finditer(prompt):
        start = match.start()
        if start > done:
            reader.add(prompt[done:start], done)
        _ACTIONS[match.lastgroup or ""](reader, match[0], start)
        done = match.end()
    reader.add(prompt[done:], done)
    return reader.finish()


class _Reader:
    """The state of one reading: pieces of plain text so far, and every bracket met by its row."""

    def __init__(self, prompt: str) -> None:
        self.prompt = prompt
        self.pieces: list[str] = []
        self.length = 0
        self.anchors: list[tuple[int, int]] = []
        self.breaks: list[int] = []
        self.sources: list[int] = []  # of brackets, in the order of opening
        self.factors: list[float] = []
        self.open: list[int] = []  # rows of the brackets around this place
        self.edges: list[tuple[int, int]] = []  # position in the text, row of the bracket or _END
        self.last_colon: tuple[int, int, int] | None = None  # piece, position in text, in prompt

    def add(self, text: str, source: int) -> None:
        self.pieces.append(text)
        self.anchors.append((self.length, source))
        self.length += len(text)

    def escaped(self, mark: str, source: int) -> None:
        self.last_colon = None
        self.add(mark[1:], source + 1)

    def word(self, mark: str, source: int) -> None:
        self.last_colon = None
        self.breaks.append(self.length)

    def colon(self, mark: str, source: int) -> None:
        self.last_colon = len(self.pieces), self.length, source
        self.add(mark, source)

    def opening(self, mark: str, source: int) -> None:
        if len(self.open) == MAX_DEPTH:
            raise PromptSyntaxError(f"brackets nest deeper than {MAX_DEPTH}", source)
        self.last_colon = None
        row = len(self.sources)
        self.sources.append(source)
        self.factors.append(BRACKET_WEIGHT if mark in _ROUND else 1 / BRACKET_WEIGHT)
        self.open.append(row)
        self.edges.append((self.length, row))

    def closing(self, mark: str, source: int) -> None:
        if not self.open:
            raise PromptSyntaxError(
                f"{mark!r} closes nothing; write \\{mark} for the mark itself", source
            )
        row = self.open.pop()
        opening = self.prompt[self.sources[row]]
        if (opening in _ROUND) != (mark in _ROUND):
            raise PromptSyntaxError(
                f"{mark!r} cannot close the {opening!r} of character {self.sources[row]}; "
                f"write \\{mark} for the mark itself",
                source,
            )
        if self.last_colon is not None:
            self.take_weight(row, self.last_colon, source)
            self.last_colon = None
        self.edges.append((self.length, _END))

    def take_weight(self, row: int, colon: tuple[int, int, int], end: int) -> None:
        """Move the number of `:1.2)` out of the text; "(note: blue)" stays as it is."""
        piece, length, source = colon
        number = _NUMBER.fullmatch(self.prompt[source + 1 : end].translate(_TO_ASCII))
        if number is None:
            return
        if self.prompt[end] not in _ROUND:
            raise PromptSyntaxError(
                "[...] takes no number; write (word:0.9) to weigh less, or \\: for a colon", source
            )
        self.factors[row] = float(number[1])
        _check_weight(self.factors[row], source + 1)
        del self.pieces[piece:], self.anchors[piece:]
        self.length = length

    def finish(self) -> ParsedPrompt:
        if self.open:
            source = self.sources[self.open[-1]]
            mark = self.prompt[source]
            raise PromptSyntaxError(
                f"{mark!r} is never closed; write \\{mark} for the mark itself", source
            )
        text = "".join(self.pieces)
        return ParsedPrompt(text, self.spans(), tuple(self.breaks), tuple(self.anchors))

    def spans(self) -> tuple[WeightSpan, ...]:
        """Multiply the brackets around each character; equal neighbours become one span."""
        runs: list[tuple[int, float]] = []  # end, weight
        products = [1.0]
        done = 0
        for position, row in self.edges:
            if position > done:
                _extend(runs, position, products[-1])
                done = position
            if row == _END:
                products.pop()
            else:
                products.append(products[-1] * self.factors[row])
                _check_weight(products[-1], self.sources[row])
        if self.length > done:
            _extend(runs, self.length, 1.0)
        starts = [0, *(end for end, _ in runs)]
        return tuple(WeightSpan(start, *run) for start, run in zip(starts, runs, strict=False))


_END = -1
_ACTIONS = {
    "opening": _Reader.opening,
    "closing": _Reader.closing,
    "colon": _Reader.colon,
    "escaped": _Reader.escaped,
    "word": _Reader.word,
}


def _extend(runs: list[tuple[int, float]], end: int, weight: float) -> None:
    if runs and runs[-1][1] == weight:
        runs.pop()
    runs.append((end, weight))


def _check_weight(weight: float, position: int) -> None:
    if abs(weight) > MAX_WEIGHT:
        raise PromptSyntaxError(
            f"the weight is {weight:.6g}, brackets around it included; it must lie in "
            f"{-MAX_WEIGHT:g}..{MAX_WEIGHT:g}",
            position,
        )
