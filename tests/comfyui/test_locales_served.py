"""The node texts in ComfyUI's languages, as the real server hands them to the front end."""

from __future__ import annotations

from typing import Any

import pytest
from comfyui.server import FOLDER, Server
from test_locales import LANGUAGES, read_texts


@pytest.fixture(scope="module")
def served(comfyui: Server) -> dict[str, Any]:
    return comfyui.fetch_json("/i18n")


def test_every_language_is_served(served: dict[str, Any]) -> None:
    assert set(served) >= set(LANGUAGES)


@pytest.mark.parametrize("language", LANGUAGES)
def test_texts_are_served_as_they_are_written(served: dict[str, Any], language: str) -> None:
    texts = read_texts(language)
    assert served[language]["nodeDefs"] == texts["nodeDefs.json"]
    assert served[language]["nodeCategories"] == texts["main.json"]["nodeCategories"]


def test_texts_are_found_by_the_servers_own_names(comfyui: Server) -> None:
    english = read_texts("en")["nodeDefs.json"]
    for name, node in comfyui.fetch_json("/object_info").items():
        if node["python_module"] != f"custom_nodes.{FOLDER}":
            continue
        texts = english.pop(name)
        types = {**node["input"].get("required", {}), **node["input"].get("optional", {})}
        tooltips = {each: options["tooltip"] for each, (_, options) in types.items()}
        assert {each: text["tooltip"] for each, text in texts["inputs"].items()} == tooltips
        outputs = dict(zip(node["output_name"], node["output_tooltips"], strict=True))
        assert {
            each["name"]: each["tooltip"] for each in texts.get("outputs", {}).values()
        } == outputs
    assert not english
