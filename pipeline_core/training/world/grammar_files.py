"""Language files: `languages/<tag>.json` in, a checked `Grammar` out.

The rules of a language (agreement, case, articles, elision) are data; `languages/README.md`
explains the files to whoever edits them. A file is checked as a whole when it is read: every form
that a template asks for must exist for every word.
"""

from __future__ import annotations

import functools
import itertools
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ...errors import FileRefused, UnknownName
from .grammar import Grammar, Pieces, Slot, Template, Word, agreed, detail_name, inflect
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
_KEYS = {"language", "patterns", "words", "phrases", "joins", "respell", "templates"}
_MAX_DEPTH = 8  # of phrases within phrases


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
    except FileRefused as error:
        raise FileRefused(f"{path.name}: {error}; see languages/README.md") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise FileRefused(f"{path.name}: {error!r}; see languages/README.md") from error


def parse_grammar(language: str, data: Mapping[str, Any]) -> Grammar:
    """Make a grammar of the JSON value of a language file.

    Raises:
        FileRefused: a slot, phrase, word or form is missing.
    """
    unknown = sorted(set(data) - _KEYS)
    if unknown or data["language"] != language:
        raise FileRefused(f"unknown keys {unknown}, or not the file of {language}")
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
    details = {_detail(name, wording, relation) for wording in wordings}
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


def _detail(template: str, wording: Pieces, relation: str | None) -> str:
    """Name the optional claims of a wording; what it must and must not claim is checked here."""
    slots = {(piece.role, piece.thing) for piece in wording if isinstance(piece, Slot)}
    roles = {role for role, _ in slots}
    things = (0,) if relation is None else (0, 1)
    needed = {(role, thing) for role in ("shape", "colour") for thing in things}
    sizes = {("size", thing) for thing in things}
    if needed - slots:
        raise FileRefused(f"template {template} does not name {sorted(needed - slots)}")
    if any(thing not in things for _, thing in slots):
        raise FileRefused(f"template {template} speaks of a second thing where there is one")
    if sizes & slots and sizes - slots:
        raise FileRefused(f"template {template} names the size of one thing only")
    if relation and "place" in roles:
        raise FileRefused(f"template {template} names a place, but two things have a relation only")
    return detail_name(roles, relation)


def _check_words(grammar: Grammar) -> None:
    for role, names in WORDS_OF.items():
        for name in names:
            if not grammar.words.get(name):
                raise FileRefused(f"no word for {role} {name}")
            if role in ("shape", "colour"):
                for word in grammar.words[name]:
                    _check_form(word, "word", {}, f"{role} {name}")


def _check_wording(grammar: Grammar, template: Template, wording: Pieces) -> None:
    """Check that every word has every form that the slots of `wording` may ask for."""
    where = f"template {template.name}"
    nouns = [noun for shape in WORDS_OF["shape"] for noun in grammar.words[shape]]
    for piece in wording:
        if isinstance(piece, str):
            if set(piece) & set("{}"):
                raise FileRefused(f"{where}: bad slot in {piece!r}")
            continue
        if "$" in piece.form:
            raise FileRefused(f"{where}: a phrase with $ needs a form: {piece}")
        for name in WORDS_OF.get(piece.role, (piece.role,)):
            if name not in grammar.words:
                raise FileRefused(f"{where}: no word or phrase {name!r}")
            for word in grammar.words[name]:
                own = [word] if piece.role == "shape" else nouns
                for noun in own if "@" in piece.form else own[:1]:
                    _check_form(word, piece.form, noun, where)


def _check_form(word: Word, form: str, noun: Word, where: str) -> None:
    try:
        inflect(word, form, noun)
    except KeyError:
        key = agreed(form, noun)
        raise FileRefused(f"{where}: no form {key!r} of the word {dict(word)}") from None
