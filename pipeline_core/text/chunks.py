"""A prompt's tokens and how they are dealt out to windows of the encoder's length.

The rule of a cut: a window is filled, then the cut moves back, by at most a quarter of the window,
to the last place after a comma or a full stop, else to the last start of a word, else it stays.
Scripts without spaces can be cut anywhere. BREAK always cuts; windows without tokens are dropped.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from .syntax import ParsedPrompt, parse
from .tokenizers import Tokenizer, Tokens

# ASCII, then the marks of Arabic, Devanagari, CJK and full width
_STOPS = frozenset(
    ",.;:!?\n|\u060c\u061b\u061f\u0964\u3001\u3002\uff0c\uff0e\uff1a\uff1b\uff01\uff1f"
)


@dataclass(frozen=True)
class PromptTokens:
    """The tokens of one prompt: `tokens.spans` count in `parsed.text`; `cuts` come from BREAK."""

    parsed: ParsedPrompt
    tokens: Tokens
    cuts: tuple[int, ...]

    @property
    def text(self) -> str:
        return self.parsed.text

    def __len__(self) -> int:
        return len(self.tokens.ids)


def tokenize_prompt(prompt: str, tokenizer: Tokenizer) -> PromptTokens:
    """Parse a prompt and tokenize what BREAK separates on its own.

    Raises:
        PromptSyntaxError: the prompt does not parse.
        FileRefused: the tokenizer's file is broken.
    """
    parsed = parse(prompt)
    tokens, cuts = Tokens([], []), list[int]()
    for start, end in itertools.pairwise((0, *parsed.breaks, len(parsed.text))):
        cuts.append(len(tokens.ids))
        part = tokenizer.tokenize(parsed.text[start:end])
        tokens.ids.extend(part.ids)
        tokens.spans.extend((start + first, start + last) for first, last in part.spans)
    return PromptTokens(parsed, tokens, tuple(cuts[1:]))


def split(prompt: PromptTokens, capacity: int) -> list[range]:
    """Deal the tokens out to windows of at most `capacity`: one range of token indices each.

    A prompt without tokens gives one empty window.
    """
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
    nearby = range(end, end - (end - start) // 4, -1)
    for is_good in (_follows_stop, _starts_word):
        for cut in nearby:
            if is_good(prompt, cut):
                return cut
    return end


def _follows_stop(prompt: PromptTokens, cut: int) -> bool:
    end = prompt.tokens.spans[cut - 1][1]
    return prompt.text[end - 1 : end] in _STOPS


def _starts_word(prompt: PromptTokens, cut: int) -> bool:
    start = prompt.tokens.spans[cut][0]
    return prompt.text[start - 1 : start].isspace()
