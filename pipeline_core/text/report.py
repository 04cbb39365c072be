"""How long a prompt is in tokens, and what of it does not fit: for meters and warnings."""

from __future__ import annotations

from dataclasses import dataclass

from .chunks import PromptTokens

_SHOWN = 160  # characters of lost text in a warning


@dataclass(frozen=True)
class TokenReport:
    """The length of one prompt.

    `used` and `limit` count tokens without the special ones: of the prompt, and of what fits in one
    window. `chunks` is the number of windows. `unknown_share` is 0..1 of the used tokens. `lost`
    are half-open ranges of characters of the prompt as typed that do not fit. `embeddings` pairs
    what was written for a textual inversion with the tokens it takes.
    """

    used: int
    limit: int
    chunks: int
    unknown_share: float
    lost: tuple[tuple[int, int], ...] = ()
    embeddings: tuple[tuple[str, int], ...] = ()

    @property
    def fits(self) -> bool:
        """Whether every token reaches the encoder."""
        return not self.lost


def lost_span(prompt: PromptTokens, kept: int) -> tuple[int, int] | None:
    """Return the characters of the plain text after the first `kept` tokens, None when all fit."""
    if kept >= len(prompt):
        return None
    return prompt.tokens.spans[kept][0], len(prompt.text)


def describe_loss(prompt: PromptTokens, kept: int, advice: str) -> str:
    """Return one line for people: how much does not fit, and the words."""
    start, end = lost_span(prompt, kept) or (0, 0)
    words = prompt.text[start:end].strip()
    shown = words if len(words) <= _SHOWN else words[:_SHOWN] + "..."
    return (
        f"the prompt has {len(prompt)} tokens and {kept} fit; {advice}. Beyond, from character "
        f"{prompt.parsed.source_position(start)}: {shown!r}"
    )
