"""Vary captions as people do, so that prompts are understood in phrasings no template has.

By rule, for every language alike: parts between commas change places, an opening of another
template comes first, the case of the first letter and the full stop come and go. Now and then a
scene is described in two languages.
"""

from __future__ import annotations

import functools
import random
import re
from collections.abc import Sequence
from dataclasses import replace

from ..world.captions import Caption, caption
from ..world.grammar import Pieces, Slot
from ..world.grammar_files import load_grammar
from ..world.mixing import STOPS, join, two_captions
from ..world.scene import Scene

SHUFFLED, OPENED, RECASED = 0.35, 0.25, 0.3  # shares of the captions
MIXED = 0.08  # share of the captions in two languages
_COMMA = re.compile("\\s*[,\uff0c\u3001\u060c]\\s*")
_LEAST_OPENING = 3  # characters
_NO_SPACES = ("zh", "ja", "th")


def describe(
    scene: Scene,
    language: str,
    others: Sequence[str],
    rng: random.Random,
    *,
    detail: str | None = None,
) -> Caption:
    """Describe a scene in a language, varied; now and then in another of `others` as well.

    `detail` as in `caption`.
    """
    if set(others) - {language} and rng.random() < MIXED:
        first, second = two_captions(scene, language, others, rng, detail=detail)
        return join(_varied(first, rng), _varied(second, rng))
    return _varied(caption(scene, language, rng, detail=detail), rng)


def _varied(said: Caption, rng: random.Random) -> Caption:
    shuffled = said.template not in _like_held_out(said.language)
    return replace(said, text=vary(said.text, said.language, rng, shuffled=shuffled))


def vary(text: str, language: str, rng: random.Random, *, shuffled: bool = True) -> str:
    """Return the caption in other words' order; what it claims stays."""
    stop = text[-1:] if text[-1:] in STOPS else ""
    body = text.removesuffix(stop) if stop else text
    commas = _COMMA.findall(body)
    if rng.random() < SHUFFLED and shuffled:
        parts = _COMMA.split(body)
        rng.shuffle(parts)
        body = commas[0].join(parts) if commas else body
    if rng.random() < OPENED and (known := openings(language)):
        body = rng.choice(known) + body
    if rng.random() < RECASED:
        first = body[:1]
        body = (first.lower() if first.isupper() else first.upper()) + body[1:]
        stop = "" if stop else "."
    return body + stop


@functools.cache
def openings(language: str) -> tuple[str, ...]:
    """Return what training templates of a language say before the first word of the thing."""
    found = {
        wording[0]
        for template in load_grammar(language).templates
        if not template.held_out and template.relation is None
        for wording in template.wordings
        if isinstance(wording[0], str) and len(wording[0].strip()) >= _LEAST_OPENING
        if next(piece.role for piece in wording if isinstance(piece, Slot)) != "background"
    }
    space = "" if language in _NO_SPACES else " "
    return tuple(sorted(opening.rstrip() + space for opening in found))


@functools.cache
def _like_held_out(language: str) -> frozenset[str]:
    """Name the training templates whose parts, in another order, are those of a held-out one."""
    templates = load_grammar(language).templates
    held_out = {
        parts for item in templates if item.held_out for parts in map(_parts, item.wordings)
    }
    return frozenset(
        item.name
        for item in templates
        if not item.held_out and not held_out.isdisjoint(map(_parts, item.wordings))
    )


def _parts(wording: Pieces) -> tuple[str, ...]:
    """Return what stands between the commas of a template, sorted."""
    texts = [
        piece if isinstance(piece, str) else f"{{{piece.role} {piece.thing} {piece.form}}}"
        for piece in wording
    ]
    return tuple(sorted(_COMMA.split("".join(texts).rstrip(STOPS).lower())))
