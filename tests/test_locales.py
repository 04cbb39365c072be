"""Node texts in ComfyUI's languages: whole, in the tables' order, and true to what must stay."""

from __future__ import annotations

import copy
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from node_texts import (
    LOCALES,
    english_texts,
    every_node,
    flatten,
    inputs_of,
    renew_english,
    to_json,
)

FILES = ("main.json", "nodeDefs.json")
# An encoding made for each language, by ComfyUI's code of it: letters of another do not fit.
ENCODINGS = {
    "en": "ascii", "zh": "gb2312", "zh-TW": "big5", "ja": "cp932", "ko": "cp949",
    "fr": "cp1252", "es": "cp1252", "pt-BR": "cp1252", "ru": "cp1251", "ar": "cp1256",
    "tr": "cp1254",
}  # fmt: skip
SYNTAX = set("{}@|<>")  # read by the front end's message compiler instead of shown
# Titles of ComfyUI's own nodes and names of widgets are shown in the user's language.
TRANSLATED = {"KSampler", "LoraLoader", "SamplerCustom", "UI", "batch_size"}
ENGLISH = english_texts()
LANGUAGES = sorted(path.name for path in LOCALES.iterdir() if path.is_dir())
every_language = pytest.mark.parametrize("language", LANGUAGES)
every_translation = pytest.mark.parametrize(
    "language", [language for language in LANGUAGES if language != "en"]
)


def read_texts(language: str) -> dict[str, dict[str, Any]]:
    return {
        name: json.loads((LOCALES / language / name).read_text(encoding="utf-8")) for name in FILES
    }


def places(texts: dict[str, Any]) -> list[str]:
    return [place for place, _ in flatten(texts)]


def choices_named_by(tooltip: str, choices: list[str]) -> set[str]:
    """Values of a widget that its tooltip names; `replace:` may stand for several."""
    labels = re.findall(r"(?:^|[.;] )((?:[\w-]+, )*[\w-]+): ", tooltip)
    named = {
        choice
        for choice in choices
        if re.search(rf"(?<![\w-]){re.escape(choice)}(?![\w-])", tooltip)
    }
    return named | {word for label in labels for word in label.split(", ")}


def names_and_numbers(text: str) -> set[str]:
    """What reads the same in every language: product names, file and widget values, numbers."""
    names = set(re.findall(r"\b\w*[A-Z]\w*[A-Z]\w*?(?=s?\b)", text))
    codes = set(re.findall(r"%[\w.:-]+%|\w+(?:[_/]\w+)+|(?<=\s)\.\w+|-m\d+|\bSD[\w.-]+", text))
    numbers = set(re.findall(r"\d+(?:\.\d+)?", text))
    return (names | numbers | {code.rstrip(".") for code in codes}) - TRANSLATED


CHOICES = {
    f"{name}.inputs.{each}.tooltip": choices_named_by(options["tooltip"], kind)
    for name, node in every_node().items()
    for each, (kind, options) in inputs_of(node).items()
    if isinstance(kind, list)
}


def lost_words(translated: dict[str, Any]) -> list[str]:
    """Places where a name, a number or a widget's value of the English text is missing."""
    found = dict(flatten(translated))
    return [
        f"{place}: {word}"
        for place, text in flatten(ENGLISH["nodeDefs.json"])
        if not place.endswith(".name")
        for word in sorted(names_and_numbers(text) | CHOICES.get(place, set()))
        if word not in found[place]
    ]


def lost_titles(translated: dict[str, Any]) -> list[str]:
    """Places that mention another node by a title that it does not have in the language."""
    found = dict(flatten(translated))
    titles = {node["display_name"]: name for name, node in ENGLISH["nodeDefs.json"].items()}
    longest_first = re.compile("|".join(sorted(map(re.escape, titles), key=len, reverse=True)))
    return [
        f"{place}: {title}"
        for place, text in flatten(ENGLISH["nodeDefs.json"])
        for title in longest_first.findall(text)
        if translated[titles[title]]["display_name"] not in found[place]
    ]


def test_the_english_texts_are_the_tables() -> None:
    assert read_texts("en") == ENGLISH, "run: python tests/node_texts.py"


def test_renewing_says_what_changed(tmp_path: Path) -> None:
    assert renew_english(tmp_path) == [place for name in FILES for place in places(ENGLISH[name])]
    path = tmp_path / "nodeDefs.json"
    path.write_text(path.read_text("utf-8").replace('"Images to check;', '"Pictures;'), "utf-8")
    assert renew_english(tmp_path) == ["MultilingualSafetyCheck.inputs.images.tooltip"]
    assert json.loads(path.read_text("utf-8")) == ENGLISH["nodeDefs.json"]


def test_only_languages_of_the_front_end() -> None:
    assert set(LANGUAGES) <= set(ENCODINGS)
    assert {path.name for path in LOCALES.rglob("*.json")} == set(FILES)


@every_language
def test_every_text_is_there_and_no_other(language: str) -> None:
    for name, texts in read_texts(language).items():
        assert places(texts) == places(ENGLISH[name])
        assert all(text and text == text.strip() for _, text in flatten(texts))


@every_language
def test_files_are_in_one_form(language: str) -> None:
    for name, texts in read_texts(language).items():
        # a key given twice would be written once
        assert (LOCALES / language / name).read_bytes().decode() == to_json(texts)


@every_language
def test_the_front_end_shows_every_text_as_it_is(language: str) -> None:
    for texts in read_texts(language).values():
        assert not [text for _, text in flatten(texts) if SYNTAX & set(text) or "\n" in text]


@every_language
def test_letters_are_of_the_language(language: str) -> None:
    for texts in read_texts(language).values():
        for _, text in flatten(texts):
            assert text.encode(ENCODINGS[language], errors="replace").count(b"?") == text.count("?")


@every_translation
def test_sentences_are_translated(language: str) -> None:
    english = dict(flatten(ENGLISH["nodeDefs.json"]))
    texts = dict(flatten(read_texts(language)["nodeDefs.json"]))
    assert not [place for place, text in texts.items() if " " in text and text == english[place]]


@every_language
def test_nodes_have_titles_of_their_own(language: str) -> None:
    titles = Counter(
        node["display_name"] for node in read_texts(language)["nodeDefs.json"].values()
    )
    assert max(titles.values()) == 1


@every_language
def test_nodes_are_mentioned_by_their_titles(language: str) -> None:
    assert not lost_titles(read_texts(language)["nodeDefs.json"])


def test_a_title_of_another_name_is_seen() -> None:
    texts = copy.deepcopy(ENGLISH["nodeDefs.json"])
    texts["MultilingualSafetyCheck"]["display_name"] = "Multilingual Gate"
    mentioning = {place.split(".")[0] for place in lost_titles(texts)}
    assert mentioning == {"MultilingualSafetyCheckerLoader", "MultilingualSaveImage"}


@every_translation
def test_names_numbers_and_values_stay(language: str) -> None:
    assert not lost_words(read_texts(language)["nodeDefs.json"])


def test_what_stays_is_found_in_english() -> None:
    lora = (
        "Also open .bin, .ckpt and .pt files, always with weights_only, for LoRAs of SD 2.1-base."
    )
    assert names_and_numbers(lora) == {
        ".bin", ".ckpt", ".pt", "weights_only", "LoRA", "SD", "2.1",
    }  # fmt: skip
    assert names_and_numbers("AltDiffusion and -m9 of SD1.x, as KSampler; %width%.") == {
        "AltDiffusion", "-m9", "9", "SD1", "SD1.x", "1", "%width%",
    }  # fmt: skip
    policy = "For flagged images. block: stop the run; black, blur: hide them."
    assert choices_named_by(policy, ["block", "black", "blur", "off"]) == {"block", "black", "blur"}
    assert choices_named_by("replace: all; delta: some.", ["replace-kv"]) == {"replace", "delta"}


@pytest.mark.parametrize(
    ("place", "old", "new"),
    [
        ("MultilingualSafetyCheck.inputs.policy.tooltip", "blur", "soften"),
        ("MultilingualGraft.inputs.base.tooltip", "SD 1.4", "SD 1.5"),
        ("MultilingualUNetToModel.description", "ControlNet", "control net"),
        ("MultilingualModelLoader.inputs.allow_pickle.tooltip", ".ckpt", "checkpoint"),
    ],
)
def test_a_lost_word_is_seen(place: str, old: str, new: str) -> None:
    texts = copy.deepcopy(ENGLISH["nodeDefs.json"])
    assert not lost_words(texts)
    *way, last = place.split(".")
    table = texts
    for key in way:
        table = table[key]
    table[last] = table[last].replace(old, new)
    found = lost_words(texts)
    assert len(found) == 1 and found[0].startswith(place)
