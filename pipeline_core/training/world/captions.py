"""Captions of scenes in 18 languages: a scene and a language in, a text and what it claims out.

Everything a language needs lies in `languages/<tag>.json` (see the README there); this file
chooses a template, fills it and says what the text asserts.
"""

from __future__ import annotations

import functools
import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from ...errors import InvalidRequest, UnknownName
from .grammar import Template, pick
from .grammar_files import LANGUAGES, WORDS_OF, load_grammar
from .scene import RELATIONS, ClaimedThing, Claims, Scene, random_hazard_scene, random_scene

Split = Literal["train", "held-out", "all"]  # of templates: held-out ones are never trained on

__all__ = [
    "LANGUAGES",
    "Caption",
    "Split",
    "all_words",
    "caption",
    "corpus",
    "details",
    "parallel",
    "word",
]

_WORDS_IN_CORPUS = 0.05  # share of bare words; the rest are captions
_HAZARDS_IN_CORPUS = 0.02  # share of captions of the hazard sign


@dataclass(frozen=True)
class Caption:
    """A text and what it asserts; `template` is the kind and position in the language file."""

    text: str
    language: str
    claims: Claims
    template: str


def caption(
    scene: Scene,
    language: str,
    rng: random.Random,
    *,
    split: Split = "train",
    detail: str | None = None,
) -> Caption:
    """Describe `scene` in `language` with a template drawn from `split`.

    `detail` is "short" (shape and colour), "full" (also background, size, place), or what is said
    beside shape and colour, such as "background" or "background+size"; `details` lists those a
    language has. None draws from all. Two things always come with their relation, never places.

    Raises:
        UnknownName: the language, the split or the detail is unknown.
    """
    templates = _templates(language, scene.relation, split, detail)
    return _render(scene, language, templates[int(rng.random() * len(templates))], rng)


def parallel(
    scene: Scene,
    rng: random.Random,
    *,
    languages: Sequence[str] = LANGUAGES,
    split: Split = "train",
    detail: str | None = None,
) -> dict[str, str]:
    """Return one text for each language, all with the same claims.

    Raises:
        UnknownName: a language, the split or the detail is unknown.
    """
    if not languages:
        raise InvalidRequest("languages is empty; give at least one")
    if detail is None:
        shared = _shared_details(tuple(languages), scene.relation, split)
        detail = shared[int(rng.random() * len(shared))]
    return {
        language: caption(scene, language, rng, split=split, detail=detail).text
        for language in languages
    }


def details(language: str, relation: str | None = None, split: Split = "all") -> tuple[str, ...]:
    """List the values of `detail` that `language` has for one thing, or two in `relation`."""
    return tuple(sorted({item.detail for item in _templates(language, relation, split, None)}))


def word(language: str, name: str) -> str:
    """Return the bare word for a colour or a shape, as a negative prompt takes it.

    Raises:
        UnknownName: the language is unknown, or `name` is no shape and no colour.
    """
    grammar = load_grammar(language)
    known = (*WORDS_OF["shape"], *WORDS_OF["colour"])
    if name not in known:
        raise UnknownName("shape or colour", name, known)
    forms = grammar.words[name][0]
    return forms.get("word", forms.get("*", ""))


@functools.cache
def all_words(language: str) -> tuple[str, ...]:
    """Return every form of every word of a language, each once, sorted."""
    forms = {
        text
        for synonyms in load_grammar(language).words.values()
        for synonym in synonyms
        for form, text in synonym.items()
        if form != "is"
    }
    return tuple(sorted(forms))


def corpus(n: int, seed: int, *, languages: Sequence[str] = LANGUAGES) -> Iterator[str]:
    """Yield `n` lines to train a tokenizer on: captions with train templates, and bare words.

    The languages take turns; the same `n` and `seed` give the same lines.
    """
    rng = random.Random(f"corpus {seed}")
    words = {
        tag: itertools.cycle(rng.sample(all_words(tag), len(all_words(tag)))) for tag in languages
    }
    for language in itertools.islice(itertools.cycle(languages), n):
        if rng.random() < _WORDS_IN_CORPUS:
            yield next(words[language])
        else:
            hazard = rng.random() < _HAZARDS_IN_CORPUS
            scene = random_hazard_scene(rng) if hazard else random_scene(rng, split="any")
            yield caption(scene, language, rng).text


@functools.cache
def _templates(
    language: str, relation: str | None, split: Split, detail: str | None
) -> tuple[Template, ...]:
    if relation not in (None, *RELATIONS):
        raise UnknownName("relation", relation, RELATIONS)
    if split not in get_args(Split):
        raise UnknownName("split", split, get_args(Split))
    of_kind = [
        template
        for template in load_grammar(language).templates
        if template.relation == relation and split in ("all", _split(template))
    ]
    found = tuple(template for template in of_kind if detail in (None, template.detail))
    if not found:
        known = sorted({template.detail for template in of_kind})
        raise UnknownName(f"detail of {language} ({relation or 'one thing'})", detail, known)
    return found


def _split(template: Template) -> Split:
    return "held-out" if template.held_out else "train"


@functools.cache
def _shared_details(
    languages: tuple[str, ...], relation: str | None, split: Split
) -> tuple[str, ...]:
    shared = set.intersection(*(set(details(tag, relation, split)) for tag in languages))
    if not shared:
        raise InvalidRequest(f"{', '.join(languages)} share no detail in split {split!r}")
    return tuple(sorted(shared))


def _render(scene: Scene, language: str, template: Template, rng: random.Random) -> Caption:
    ids: list[Mapping[str, str]] = [
        {
            "shape": thing.shape,
            "colour": thing.colour,
            "size": thing.size,
            "place": thing.place,
            "background": scene.background,
        }
        for thing in scene.things
    ]
    text = load_grammar(language).fill(pick(template.wordings, rng), ids, rng)
    return Caption(text, language, _claims(scene, template), template.name)


def _claims(scene: Scene, template: Template) -> Claims:
    said = template.detail
    full = said == "full"
    things = tuple(
        ClaimedThing(
            shape=thing.shape,
            colour=thing.colour,
            size=thing.size if full or "size" in said else None,
            place=thing.place if scene.relation is None and (full or "place" in said) else None,
        )
        for thing in scene.things
    )
    background = scene.background if full or "background" in said else None
    return Claims(things=things, background=background, relation=scene.relation)
