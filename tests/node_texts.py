"""The texts of the nodes' tables, as ComfyUI's translations hold them (`locales/<language>/`).

`python tests/node_texts.py` writes the English files anew after a table has changed, and says which
texts the other languages have to follow.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from multilingual_diffusion.nodes import NODE_CLASS_MAPPINGS, bridges, host

LOCALES = Path(__file__).parent.parent / "locales"
# Words of node menus that ComfyUI translates itself; a pack's word would take the place of its own.
HOST_CATEGORIES = {"loaders", "sampling", "text"}
_NO_MODELS = host.HeadlessFolders(models=(LOCALES / "none",))


def every_node() -> dict[str, Any]:
    """Return the nodes, those that are there in ComfyUI only after the others."""
    return {**NODE_CLASS_MAPPINGS, **{node.__name__: node for node in bridges.NODES}}


def inputs_of(node: Any) -> dict[str, tuple[Any, dict[str, Any]]]:
    """Return the type and the options of each input that people see, whatever models are there."""
    with host.use_folders(_NO_MODELS):
        types = node.INPUT_TYPES()
    return {**types["required"], **types.get("optional", {})}


def english_texts() -> dict[str, dict[str, Any]]:
    """Return what the tables say, by file name."""
    words = {word for node in every_node().values() for word in node.CATEGORY.split("/")}
    categories = {word: word for word in sorted(words - HOST_CATEGORIES)}
    nodes = {name: _node_texts(node) for name, node in every_node().items()}
    return {"main.json": {"nodeCategories": categories}, "nodeDefs.json": nodes}


def _node_texts(node: Any) -> dict[str, Any]:
    inputs = {
        name: {"name": name, "tooltip": options["tooltip"]}
        for name, (_, options) in inputs_of(node).items()
    }
    named = zip(getattr(node, "RETURN_NAMES", ()), node.OUTPUT_TOOLTIPS, strict=True)
    outputs = {
        str(place): {"name": name, "tooltip": tip} for place, (name, tip) in enumerate(named)
    }
    texts = {"display_name": node.DISPLAY_NAME, "description": node.DESCRIPTION, "inputs": inputs}
    return {**texts, "outputs": outputs} if outputs else texts


def flatten(texts: Mapping[str, Any], place: tuple[str, ...] = ()) -> Iterator[tuple[str, str]]:
    """Yield each text with its place, such as `MultilingualGraft.inputs.base.tooltip`."""
    for key, value in texts.items():
        if isinstance(value, Mapping):
            yield from flatten(value, (*place, key))
        else:
            yield ".".join((*place, key)), value


def to_json(texts: Mapping[str, Any]) -> str:
    """Return the text of a file: two spaces, UTF-8 as it is written, in the order of the tables."""
    return json.dumps(texts, ensure_ascii=False, indent=2) + "\n"


def renew_english(folder: Path) -> list[str]:
    """Write the English files; return the places of texts that are new or changed."""
    changed: list[str] = []
    folder.mkdir(parents=True, exist_ok=True)
    for name, texts in english_texts().items():
        path = folder / name
        before = (
            dict(flatten(json.loads(path.read_text(encoding="utf-8")))) if path.exists() else {}
        )
        changed += [place for place, text in flatten(texts) if before.get(place) != text]
        path.write_text(to_json(texts), encoding="utf-8", newline="\n")
    return changed


if __name__ == "__main__":
    for changed_place in renew_english(LOCALES / "en"):
        sys.stdout.write(f"to translate: {changed_place}\n")
