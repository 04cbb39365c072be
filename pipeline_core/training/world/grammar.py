"""Words, templates and how they become a text; nothing here knows a language.

A `Grammar` comes from `grammar_files.load_grammar`. `languages/README.md` explains words, forms
and slots.
"""

from __future__ import annotations

import random
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

CLASS = "is"  # the key of a noun's agreement class; "@" in a form stands for it
_USUAL = 0.7  # share of the first of several synonyms; the others divide the rest evenly

Word = Mapping[str, str]  # form -> text; "*" is any other form
Item = TypeVar("Item")


@dataclass(frozen=True)
class Slot:
    """A gap of a template: the word of `role` for thing 0 or 1, in `form`."""

    role: str
    thing: int
    form: str


Pieces = tuple[str | Slot, ...]


@dataclass(frozen=True)
class Template:
    """One phrasing; `wordings` are its spellings with other fixed words, the usual one first.

    `detail` says which optional claims it makes; see `detail_name`.
    """

    name: str  # "above/3": the kind and the position in the file
    relation: str | None
    held_out: bool
    detail: str
    wordings: tuple[Pieces, ...]


def detail_name(claimed: Collection[str], relation: str | None) -> str:
    """Name the optional claims among `claimed`: "short" (none), "full" (all), or joined by "+".

    They are background, size and place, in this order; two things in a relation have no place.
    """
    optional = ("background", "size") if relation else ("background", "size", "place")
    named = [name for name in optional if name in claimed]
    return "full" if len(named) == len(optional) else "+".join(named) or "short"


@dataclass(frozen=True)
class Grammar:
    """A whole language file, checked."""

    language: str
    words: Mapping[str, tuple[Word, ...]]  # id or function word -> synonyms, the usual one first
    templates: tuple[Template, ...]
    joins: tuple[tuple[re.Pattern[str], str], ...]
    respell: tuple[tuple[str, str], ...]  # another way to spell whole texts

    def fill(self, pieces: Pieces, ids: Sequence[Mapping[str, str]], rng: random.Random) -> str:
        """Return the text of a template for `ids`: role -> word id, one mapping a thing."""
        chosen: dict[str, Word] = {}  # one synonym a word and text

        def choose(name: str) -> Word:
            if name not in chosen:
                chosen[name] = pick(self.words[name], rng)
            return chosen[name]

        parts: list[str] = []
        for piece in pieces:
            if isinstance(piece, str):
                parts.append(piece)
            else:
                of_thing = ids[piece.thing]
                word = choose(of_thing.get(piece.role, piece.role))
                parts.append(inflect(word, piece.form, choose(of_thing["shape"])))
        return self._finish("".join(parts), rng)

    def _finish(self, text: str, rng: random.Random) -> str:
        """Join neighbouring sounds, spell, and begin a sentence with a capital."""
        for pattern, replacement in self.joins:
            text = pattern.sub(replacement, text)
        if self.respell and rng.random() >= _USUAL:
            for letters, others in self.respell:
                text = text.replace(letters, others)
        return text[0].upper() + text[1:] if text.endswith(".") else text


def pick(options: Sequence[Item], rng: random.Random) -> Item:
    """Return the first, usual option in 70 % of the draws, one of the others else."""
    if len(options) == 1 or rng.random() < _USUAL:
        return options[0]
    return options[1 + int(rng.random() * (len(options) - 1))]


def inflect(word: Word, form: str, noun: Word) -> str:
    """Return `word` in `form`, agreeing with `noun`.

    Raises:
        KeyError: the word lacks the form.
    """
    key = agreed(form, noun)
    return word[key] if key in word else word["*"]


def agreed(form: str, noun: Word) -> str:
    """Return `form` with "@" replaced by the agreement class of `noun`."""
    return form.replace("@", noun.get(CLASS, ""))
