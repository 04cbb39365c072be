"""The same picture in the server and without it: pixels, metadata, files that go both ways."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import workflow_examples as examples
from comfyui.server import Server
from multilingual_diffusion.pipeline_core.workflow import (
    definitions_from_object_info,
    read_workflow,
    to_api,
)
from PIL import Image

# these name a checkpoint of the user's own: `test_graft_workflows` runs them on one that it makes
OWN_CHECKPOINT = ("dual_conditioning", "graft")
EXAMPLES = [path for path in examples.all_examples() if path.stem not in OWN_CHECKPOINT]


@dataclass
class Headless:
    """What runs without the host showed, and the folder with a folder of pictures for each."""

    shown: dict[str, Any]
    output: Path

    def pictures(self, name: str) -> dict[str, list[bytes]]:
        """Return the PNG files by node id."""
        folders = {"output": self.output / name, "temp": self.output / name / "preview"}
        return {
            node: [
                (folders[each["type"]] / each["subfolder"] / each["filename"]).read_bytes()
                for each in shown.get("images", ())
            ]
            for node, shown in self.shown[name].items()
        }


@pytest.fixture(scope="module")
def definitions(comfyui: Server) -> Any:
    return definitions_from_object_info(comfyui.fetch_json("/object_info"))


@pytest.fixture(scope="module")
def headless(
    comfyui: Server, run_headless: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Headless:
    output, inputs = tmp_path_factory.mktemp("headless"), examples.FOLDER / "input"
    shutil.copytree(inputs, comfyui.base / "input", dirs_exist_ok=True)
    shown = run_headless(
        Path(__file__).with_name("headless.py"), comfyui.base / "models" / "multilingual",
        inputs, output, *examples.headless_examples(),
    )  # fmt: skip
    return Headless(shown, output)


def common(text: dict[str, Any], node: str) -> dict[str, Any]:
    """Return the chunks less what only one of the two writes.

    The host notes `is_changed` in the graph; titles come from its own tables; our stand-ins for its
    nodes write what our saving node writes.
    """
    prompt = {
        key: {name: each[name] for name in ("class_type", "inputs")}
        for key, each in text["prompt"].items()
    }
    more = {**text, "prompt": prompt}
    if not prompt[node]["class_type"].startswith("Multilingual"):
        more.pop("multilingual_diffusion", None)
    return more


def read(png: bytes) -> tuple[np.ndarray, dict[str, Any]]:
    """Return the pixels and the text chunks, JSON read."""
    with Image.open(io.BytesIO(png)) as picture:
        picture.load()
        return np.asarray(picture), {key: json.loads(text) for key, text in picture.text.items()}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_gives_the_same_pictures(
    path: Path, comfyui: Server, headless: Headless, definitions: Any
) -> None:
    prompt = to_api(read_workflow(path, definitions))
    entry = comfyui.run(prompt, workflow=json.loads(path.read_text(encoding="utf-8")))
    found = comfyui.pictures(entry)
    assert any(found.values()) or path.stem == "token_meter"
    if path not in examples.headless_examples():
        return
    wanted = headless.pictures(path.stem)
    assert found.keys() == wanted.keys()
    for node, pictures in found.items():
        assert len(pictures) == len(wanted[node])
        for one, other in zip(pictures, wanted[node], strict=True):
            (pixels, text), (wanted_pixels, wanted_text) = read(one), read(other)
            assert np.array_equal(pixels, wanted_pixels)
            assert common(text, node) == common(wanted_text, node)
        texts = [shown[node].get("text") for shown in (entry["outputs"], headless.shown[path.stem])]
        assert texts[0] == texts[1]


def test_the_comparison_sees_another_seed(comfyui: Server, headless: Headless) -> None:
    png = headless.pictures("text_to_image")
    ((node, (first, *_)),) = png.items()
    pixels, text = read(first)
    (sampler,) = [each["inputs"] for each in text["prompt"].values() if "seed" in each["inputs"]]
    sampler["seed"] += 1
    (other,) = comfyui.pictures(comfyui.run(text["prompt"]))[node]
    assert not np.array_equal(read(other)[0], pixels)


def test_a_picture_of_either_runs_in_the_other(
    comfyui: Server, headless: Headless, run_headless: Callable[..., Any], tmp_path: Path
) -> None:
    ((node, (without, *_)),) = headless.pictures("text_to_image").items()
    pixels, text = read(without)
    entry = comfyui.run(text["prompt"], workflow=text["workflow"])
    (within,) = comfyui.pictures(entry)[node]
    (tmp_path / "within.png").write_bytes(within)
    shown = run_headless(
        Path(__file__).with_name("headless.py"), comfyui.base / "models" / "multilingual",
        examples.FOLDER / "input", tmp_path / "out", tmp_path / "within.png",
    )  # fmt: skip
    (again,) = Headless(shown, tmp_path / "out").pictures("within")[node]
    assert np.array_equal(read(within)[0], pixels) and common(read(within)[1], node) == common(
        text, node
    )
    assert np.array_equal(read(again)[0], pixels) and common(read(again)[1], node) == common(
        text, node
    )
