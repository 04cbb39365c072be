"""A glossary: terms in a prompt become what the user wants to say instead.

Lines of `term = replacement`. The longest term wins, letter case and full width do not count, and
nothing inside `<lora:...>`, `embedding:name` or a weight is touched. Pure Python.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ..errors import InvalidRequest

MAX_TERMS = 2000

# Scripts that put no space between words, and Hangul, which hangs particles on them
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1100-\u11ff\u1780-\u17ff\u3040-\u30ff\u3130-\u318f"
    "\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff"
)
_LETTER = re.compile(rf"[^\W_{_UNSPACED}]")
# Searched in folded text, where full-width marks are ASCII
_PROTECTED = re.compile(
    r"<[^<>]*>|embedding:[^\s,()\[\]]+|:\s*[+-]?[\d.]+\s*\)|\\.|(?<!\w)break(?!\w)"
)


@dataclass(frozen=True)
class Glossary:
    """Replacements by folded term; make one with `read_glossary`."""

    replacements: Mapping[str, str]

    def apply(self, prompt: str) -> tuple[str, int]:
        """Return the prompt with its terms replaced, once each, and how many were."""
        folded, sources = _fold(prompt)
        lengths = sorted({len(term) for term in self.replacements}, reverse=True)
        pieces, done, place, count = list[str](), 0, 0, 0
        while place < len(folded):
            if protected := _PROTECTED.match(folded, place):
                place = protected.end()
                continue
            ends = (place + length for length in lengths)
            end = next((end for end in ends if self._is_term(folded, place, end, sources)), None)
            if end is None:
                place += 1
                continue
            pieces += [prompt[done : sources[place]], self.replacements[folded[place:end]]]
            done, place, count = sources[end], end, count + 1
        return "".join([*pieces, prompt[done:]]), count

    def _is_term(self, folded: str, start: int, end: int, sources: Mapping[int, int]) -> bool:
        """Tell whether a term stands here that is no part of a longer word or character."""
        if folded[start:end] not in self.replacements or not {start, end} <= sources.keys():
            return False
        return not any(
            _LETTER.match(folded, edge - 1) and _LETTER.match(folded, edge)
            for edge in (start, end)
            if edge
        )


def read_glossary(text: str) -> Glossary:
    """Read lines of `term = replacement`; blank lines and those that start with # are skipped.

    Raises:
        InvalidRequest: a line has no `=` or no term, a term comes twice, or there are too many.
    """
    replacements: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        term, sign, replacement = line.replace("\uff1d", "=", 1).partition("=")
        folded = _fold(term.strip())[0]
        if not sign or not folded:
            raise InvalidRequest(
                f"line {number} of the glossary is {line[:80]!r}; write: term = replacement"
            )
        if folded in replacements:
            raise InvalidRequest(f"line {number} of the glossary has {term.strip()[:80]!r} again")
        replacements[folded] = replacement.strip()
    if len(replacements) > MAX_TERMS:
        raise InvalidRequest(f"the glossary has {len(replacements)} terms; at most {MAX_TERMS}")
    return Glossary(replacements)


def _fold(text: str) -> tuple[str, dict[int, int]]:
    """Return the text as it is compared, and where its places lie in the text as typed."""
    folded, sources = list[str](), dict[int, int]()
    length = source = 0
    for cluster in _clusters(text):
        sources[length] = source
        folded.append(unicodedata.normalize("NFKC", cluster).casefold())
        length += len(folded[-1])
        source += len(cluster)
    sources[length] = source
    return "".join(folded), sources


def _clusters(text: str) -> Iterator[str]:
    """Yield characters with the marks that combine with them."""
    start = 0
    for place in range(1, len(text)):
        if not unicodedata.combining(text[place]):
            yield text[start:place]
            start = place
    if text:
        yield text[start:]
