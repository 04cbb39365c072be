"""One language of the small world: `languages/<tag>.json` in, templates ready to fill out.

The rules of a language (agreement, case, articles, elision) are data; nothing here knows a
language. `languages/README.md` explains the files to whoever edits them. A file is checked as a
whole when it is read: every form that a template asks for must exist for every word.
"""

from __future__ import annotations

import functools
import itertools
import json
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ...errors import FileRefused, UnknownName
from .palette import COLOURS
from .scene import HAZARD, PLACES, RELATIONS, SHAPES, SIZES

LANGUAGES = (
    "en", "zh", "ja", "th", "ko", "hi", "uk", "ar", "tr",
    "vi", "pl", "nl", "pt", "it", "es", "de", "fr", "ru",
)  # fmt: skip
KINDS = ("one", *RELATIONS)  # of templates: one thing, or two in a relation

WORDS_OF: dict[str, tuple[str, ...]] = {  # which words may fill a slot
    "shape": (*SHAPES, HAZARD),
    "colour": tuple(COLOURS),
    "background": tuple(COLOURS),
    "size": tuple(SIZES),
    "place": tuple(PLACES),
}
_FOLDER = Path(__file__).parent / "languages"
_SLOT = re.compile(r"\{([a-z]+)([01]?)(?::([^{}\s]+))?\}")
_CLASS = "is"  # the key of a noun's agreement class; "@" in a form stands for it
_USUAL = 0.7  # share of the first of several synonyms; the others divide the rest evenly
_KEYS = {"language", "patterns", "words", "phrases", "joins", "respell", "templates"}
_MAX_DEPTH = 8  # of phrases within phrases

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

    `detail` says which optional claims it makes: "short" (none), "full" (all), or their names
    joined by "+" in the order background, size, place.
    """

    name: str  # "above/3": the kind and the position in the file
    relation: str | None
    held_out: bool
    detail: str
    wordings: tuple[Pieces, ...]


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
        text = self.join("".join(parts))
        if self.respell and rng.random() >= _USUAL:
            for letters, others in self.respell:
                text = text.replace(letters, others)
        return text

    def join(self, text: str) -> str:
        """Apply the rules for neighbouring sounds, and a capital to what ends with a full stop."""
        for pattern, replacement in self.joins:
            text = pattern.sub(replacement, text)
        return text[0].upper() + text[1:] if text.endswith(".") else text


def pick(options: Sequence[Item], rng: random.Random) -> Item:
    """Return the first, usual option in 70 % of the draws, one of the others else."""
    if len(options) == 1 or rng.random() < _USUAL:
        return options[0]
    return options[1 + int(rng.random() * (len(options) - 1))]


def inflect(word: Word, form: str, noun: Word) -> str:
    """Return `word` in `form`, where "@" takes the agreement class of `noun`.

    Raises:
        KeyError: the word lacks the form.
    """
    key = form.replace("@", noun.get(_CLASS, ""))
    return word[key] if key in word else word["*"]


@functools.cache
def load_grammar(language: str) -> Grammar:
    """Read and check `languages/<language>.json`.

    Raises:
        UnknownName: not one of `LANGUAGES`.
        FileRefused: the file is broken; the message names the template, the word and the form.
    """
    if language not in LANGUAGES:
        raise UnknownName("language", language, LANGUAGES)
    path = _FOLDER / f"{language}.json"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return parse_grammar(language, data)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise FileRefused(f"{path.name}: {error!r}; see languages/README.md") from error


def parse_grammar(language: str, data: Mapping[str, Any]) -> Grammar:
    """Make a grammar of the JSON value of a language file.

    Raises:
        FileRefused: a slot, phrase, word or form is missing.
    """
    unknown = sorted(set(data) - _KEYS)
    if unknown or data["language"] != language:
        raise FileRefused(f"{language}.json: unknown keys {unknown} or another language's file")
    words = {
        name: tuple(_word(entry, data.get("patterns", {})) for entry in _as_list(value))
        for name, value in data["words"].items()
    }
    templates = tuple(
        _template(f"{kind}/{index}", kind, entry, data.get("phrases", {}))
        for kind in KINDS
        for index, entry in enumerate(data["templates"][kind])
    )
    joins = tuple((re.compile(find), replace) for find, replace in data.get("joins", []))
    respell = tuple((letters, others) for letters, others in data.get("respell", []))
    grammar = Grammar(language, words, templates, joins, respell)
    _check_words(grammar)
    for template in templates:
        for wording in template.wordings:
            _check_wording(grammar, template, wording)
    return grammar


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _word(entry: str | dict[str, str], patterns: Mapping[str, Mapping[str, str]]) -> Word:
    """Return all forms of a word: a bare string has one; `like` names a pattern over stem "~"."""
    if isinstance(entry, str):
        return {"*": entry}
    forms = dict(entry)
    pattern = patterns[forms.pop("like")] if "like" in forms else {}
    stem = forms.pop("~", "")
    return {**{name: text.replace("~", stem) for name, text in pattern.items()}, **forms}


def _template(name: str, kind: str, entry: str | dict[str, str], phrases: Any) -> Template:
    if isinstance(entry, str):
        entry = {"text": entry}
    relation = None if kind == "one" else kind
    wordings = tuple(dict.fromkeys(_wordings(entry["text"], phrases)))
    details = {_detail(wording, relation) for wording in wordings}
    if len(details) != 1:
        raise FileRefused(f"template {name}: its wordings claim different things: {details}")
    split = entry.get("split", "train")
    if split not in ("train", "held-out"):
        raise FileRefused(f"template {name}: split is {split!r}; it must be train or held-out")
    return Template(name, relation, split == "held-out", details.pop(), wordings)


def _wordings(text: str, phrases: Mapping[str, Any], depth: int = 0) -> Iterator[Pieces]:
    """Yield every way to expand the phrases of `text`, the usual one first."""
    if depth > _MAX_DEPTH:
        raise FileRefused(f"the phrases of {text!r} contain each other")
    parts: list[list[Pieces]] = []
    position = 0
    for match in _SLOT.finditer(text):
        parts.append([(text[position : match.start()],)])
        name, thing, form = match.groups()
        if name in phrases:
            options = [_for_thing(option, thing, form) for option in _as_list(phrases[name])]
            parts.append([w for option in options for w in _wordings(option, phrases, depth + 1)])
        else:
            parts.append([(Slot(name, int(thing or 0), form or "word"),)])
        position = match.end()
    parts.append([(text[position:],)])
    for choice in itertools.product(*parts):
        yield tuple(piece for pieces in choice for piece in pieces if piece != "")


def _for_thing(phrase: str, thing: str, form: str | None) -> str:
    """Hand the thing and the form ("$" in the phrase) of a phrase slot down to its own slots."""

    def handed_down(slot: re.Match[str]) -> str:
        name, own_thing, own_form = slot.groups()
        own_form = (own_form or "").replace("$", form or "$")
        return f"{{{name}{own_thing or thing}{':' if own_form else ''}{own_form}}}"

    return _SLOT.sub(handed_down, phrase)


def _detail(wording: Pieces, relation: str | None) -> str:
    """Name the optional claims of a wording; what every wording must claim is checked here."""
    slots = {(piece.role, piece.thing) for piece in wording if isinstance(piece, Slot)}
    things = (0,) if relation is None else (0, 1)
    needed = {(role, thing) for role in ("shape", "colour") for thing in things}
    sizes = {("size", thing) for thing in things}
    if needed - slots:
        raise FileRefused(f"{wording} does not name {sorted(needed - slots)}")
    if sizes & slots and sizes - slots:
        raise FileRefused(f"{wording} names the size of one thing only")
    optional = ("background", "size") if relation else ("background", "size", "place")
    roles = {role for role, _ in slots}
    named = [role for role in optional if role in roles]
    return "full" if len(named) == len(optional) else "+".join(named) or "short"


def _check_words(grammar: Grammar) -> None:
    for role, names in WORDS_OF.items():
        for name in names:
            if not grammar.words.get(name):
                raise FileRefused(f"{grammar.language}: no word for {role} {name}")
            if role in ("shape", "colour"):
                for word in grammar.words[name]:
                    _check_form(grammar, word, "word", {}, f"{role} {name}")


def _check_wording(grammar: Grammar, template: Template, wording: Pieces) -> None:
    """Check that every word has every form that the slots of `wording` may ask for."""
    where = f"template {template.name}"
    nouns = [noun for shape in WORDS_OF["shape"] for noun in grammar.words[shape]]
    for piece in wording:
        if isinstance(piece, str):
            if set(piece) & set("{}"):
                raise FileRefused(f"{grammar.language} {where}: bad slot in {piece!r}")
            continue
        if "$" in piece.form:
            raise FileRefused(f"{grammar.language} {where}: a phrase with $ needs a form: {piece}")
        for name in WORDS_OF.get(piece.role, (piece.role,)):
            if name not in grammar.words:
                raise FileRefused(f"{grammar.language} {where}: no word or phrase {name!r}")
            for word in grammar.words[name]:
                own = [word] if piece.role == "shape" else nouns
                for noun in own if "@" in piece.form else own[:1]:
                    _check_form(grammar, word, piece.form, noun, where)


def _check_form(grammar: Grammar, word: Word, form: str, noun: Word, where: str) -> None:
    try:
        inflect(word, form, noun)
    except KeyError:
        key = form.replace("@", noun.get(_CLASS, ""))
        raise FileRefused(
            f"{grammar.language} {where}: no form {key!r} of the word {dict(word)}"
        ) from None
