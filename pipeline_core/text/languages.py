"""Which language a prompt is written in, for a badge and a warning: never for a decision.

Script first; Latin and Cyrillic letters go on to a naive Bayes over character n-grams of the word
lists in `languages.json`, which are written for this purpose. Pure Python, no model.
"""

from __future__ import annotations

import collections
import functools
import json
import math
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_READ = 2000  # characters of a prompt that are looked at
_SCRIPTS = {
    "ja": re.compile("[\u3040-\u30ff\u31f0-\u31ff\uff66-\uff9f]"),
    "ko": re.compile("[\u1100-\u11ff\u3130-\u318f\uac00-\ud7af]"),
    "zh": re.compile("[\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0002ffff]"),
    "th": re.compile("[\u0e01-\u0e5b]"),
    "hi": re.compile("[\u0900-\u097f]"),
    "ar": re.compile("[\u0600-\u06ff\u0750-\u077f\ufb50-\ufdff\ufe70-\ufeff]"),
    "cyrillic": re.compile("[\u0400-\u052f]"),
    "latin": re.compile("[A-Za-z\u00aa-\u024f\u1e00-\u1eff]"),
}
_IDEOGRAPH_WEIGHT = 3  # one of them says as much as three letters
_ALPHABETS = {
    "cyrillic": ("ru", "uk"),
    "latin": ("en", "de", "fr", "es", "it", "pt", "nl", "pl", "tr", "vi"),
}
_WORD = re.compile(r"[^\W\d_]+")
# Chosen on the tuning prompts of the tests, which are not the ones the result is measured on.
_POSSIBLE_GRAMS = {1: 60, 2: 600, 3: 8000}  # by length, for smoothing
_SMOOTHING = 0.3
_GRAM_WEIGHT = 0.25  # n-grams overlap, so each counts less than one observation
_KNOWN_WORD = 4.0  # log-odds of a word in a language's list, divided by the lists that have it
_MARGIN = 0.1  # log-odds by which the best language must lead, else the answer is None
_WARNING_WORDS = 3  # different words; fewer are often names, or the same in many languages
_WARNING_MARGIN = 8.0  # log-odds by which a language must lead those of the model


def detect_language(text: str) -> str | None:
    """Return the BCP-47 tag of the prompt's language, one of 18, or None when it is not clear."""
    text = _normalized(text)
    script = _find_script(text)
    if script in _ALPHABETS:
        return _find_in_alphabet(_words(text), _ALPHABETS[script])
    if script == "zh" and any(character in _data()["japanese_only"] for character in text):
        return "ja"
    return script


def language_warning(text: str, languages: Sequence[str]) -> str | None:
    """Return one line when it is beyond doubt that the prompt's language is none of `languages`.

    A script that none of them uses is beyond doubt; among languages of one alphabet it takes a few
    words and a wide lead, so that `pizza` or `mona lisa` in an English prompt warns nobody.
    """
    foreign = _find_foreign(_normalized(text), languages) if languages else None
    if foreign is None:
        return None
    names: dict[str, str] = _data()["names"]
    known = ", ".join(names.get(tag, tag) for tag in languages)
    foreign = names.get(foreign, f"{foreign.capitalize()} letters")
    return f"the prompt seems to be in {foreign}; this model was trained on {known}"


def _find_foreign(text: str, known: Sequence[str]) -> str | None:
    """Return the language, or the alphabet that no known language uses, of a foreign prompt."""
    script = _find_script(text)
    if script is None or script not in _ALPHABETS:
        language = detect_language(text)
        return None if language in known else language
    rivals = _ALPHABETS[script]
    words = _words(text)
    if not set(rivals) & set(known):
        return script
    if len(set(words)) < _WARNING_WORDS:
        return None
    scores = {language: _score(words, language, rivals) for language in rivals}
    best = max(scores, key=lambda language: scores[language])
    lead = scores[best] - max(scores[language] for language in rivals if language in known)
    return best if lead >= _WARNING_MARGIN else None


def _normalized(text: str) -> str:
    return unicodedata.normalize("NFKC", text[:_READ])


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _find_script(text: str) -> str | None:
    counts = {script: len(pattern.findall(text)) for script, pattern in _SCRIPTS.items()}
    if counts["ja"]:  # Japanese mixes kana with ideographs
        counts["ja"] += counts.pop("zh")
    for script in ("ja", "zh"):
        counts[script] = counts.get(script, 0) * _IDEOGRAPH_WEIGHT
    script = max(counts, key=lambda name: counts[name])
    return script if counts[script] else None


def _find_in_alphabet(words: Sequence[str], languages: tuple[str, ...]) -> str | None:
    scores = {language: _score(words, language, languages) for language in languages}
    ranked = sorted(scores, key=lambda language: scores[language], reverse=True)
    return ranked[0] if scores[ranked[0]] - scores[ranked[1]] >= _MARGIN else None


def _score(words: Iterable[str], language: str, rivals: tuple[str, ...]) -> float:
    """Sum the evidence of all words for one language: n-grams, and the words themselves."""
    profile = _profile(language)
    score = 0.0
    for word in words:
        score += _GRAM_WEIGHT * sum(profile.log_share(gram) for gram in _grams(word))
        if word in profile.words:
            score += _KNOWN_WORD / sum(word in _profile(rival).words for rival in rivals)
    return score


@dataclass(frozen=True)
class _Profile:
    words: frozenset[str]
    grams: collections.Counter[str]
    totals: dict[int, int]  # n-grams of each length

    def log_share(self, gram: str) -> float:
        """Return the log probability of an n-gram among those of its length, smoothed."""
        possible = _POSSIBLE_GRAMS[len(gram)]
        total = self.totals[len(gram)] + _SMOOTHING * possible
        return math.log((self.grams[gram] + _SMOOTHING) / total)


@functools.cache
def _profile(language: str) -> _Profile:
    words = frozenset(_data()["words"][language].split())
    grams = collections.Counter(gram for word in words for gram in _grams(word))
    totals = collections.Counter(len(gram) for gram in grams.elements())
    return _Profile(words, grams, dict(totals))


def _grams(word: str) -> Iterator[str]:
    marked = f" {word} "
    for length in _POSSIBLE_GRAMS:
        for start in range(len(marked) - length + 1):
            yield marked[start : start + length]


@functools.cache
def _data() -> dict[str, Any]:
    with open(Path(__file__).with_name("languages.json"), encoding="utf-8") as file:
        return json.load(file)
