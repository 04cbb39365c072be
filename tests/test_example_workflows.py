"""Every example workflow: well formed, well laid out, and the same picture whenever it runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import workflow_examples as examples
from multilingual_diffusion.__main__ import load_nodes, main
from multilingual_diffusion.pipeline_core.workflow import (
    InvalidWorkflow,
    parse_workflow,
    validate,
)
from PIL import Image

NOTE = "MarkdownNote"
TITLE = 30  # pixels of a node's title, above its position
NODES = load_nodes()
EVERY = pytest.mark.parametrize("path", examples.all_examples(), ids=lambda path: path.stem)
HEADLESS = pytest.mark.parametrize("path", examples.headless_examples(), ids=lambda path: path.stem)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Sum in one order, whatever else this machine does."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def load(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def test_each_example_has_a_thumbnail_and_a_line_in_the_list() -> None:
    names = {path.stem for path in examples.all_examples()}
    assert len(names) >= 12
    assert {path.stem for path in examples.FOLDER.glob("*.jpg")} == names
    listed = (examples.FOLDER / "README.md").read_text(encoding="utf-8")
    assert [name for name in names if f"[{name}]({name}.json)" not in listed] == []
    assert set(examples.need_comfyui()) <= names
    sizes = {path: path.stat().st_size for path in examples.FOLDER.rglob("*") if path.is_file()}
    assert max(size for path, size in sizes.items() if path.suffix == ".jpg") <= 30_000
    assert sum(sizes.values()) < 2**20


@EVERY
def test_the_file_has_the_form_that_the_tool_gives_it(path: Path) -> None:
    assert path.read_text(encoding="utf-8") == examples.tidy(load(path))


@HEADLESS
def test_nodes_are_known_and_widgets_fit_their_tables(path: Path) -> None:
    workflow = load(path)
    assert workflow["version"] == 0.4
    for node in workflow["nodes"]:
        if node["type"] == NOTE:
            continue
        assert node["properties"]["Node name for S&R"] == node["type"]
        node_class = NODES.classes.get(node["type"])
        if node_class is None:
            assert path.stem in examples.need_comfyui(), node["type"]
            continue
        types: dict[str, Any] = getattr(node_class, "INPUT_TYPES")()  # noqa: B009
        declared = {**types["required"], **types.get("optional", {})}
        if node["type"] == "LoadImage":
            declared["upload"] = ("IMAGEUPLOAD",)  # a button of the browser
        widgets = [each["name"] for each in node["inputs"] if "widget" in each]
        assert [name for name in declared if name in widgets] == widgets
        assert {each["name"] for each in node["inputs"]} == set(declared)
        companions = [name for name in widgets if _has_companion(declared[name])]
        values = node.get("widgets_values", [])
        assert len(values) == len(widgets) + len(companions)
        assert values.count("fixed") == len(companions)


def _has_companion(declared: Any) -> bool:
    """Tell whether the browser keeps a second value: what happens to a seed after a run."""
    return len(declared) > 1 and declared[1].get("control_after_generate", False)


@EVERY
def test_a_note_says_what_to_do(path: Path) -> None:
    notes = [node for node in load(path)["nodes"] if node["type"] == NOTE]
    assert len(notes) == 1
    text = notes[0]["widgets_values"][0]
    assert text.startswith("## ") and 25 <= len(text.split()) <= 100
    pictures = [node for node in load(path)["nodes"] if node["type"] == "LoadImage"]
    for node in pictures:
        name = node["widgets_values"][0]
        assert (examples.FOLDER / "input" / name).exists()
        assert f"example_workflows/input/{name}" in text


@EVERY
def test_the_graph_reads_from_left_to_right_without_overlaps(path: Path) -> None:
    workflow = load(path)
    boxes = {node["id"]: _box(node) for node in workflow["nodes"]}
    ids = list(boxes)
    for index, first in enumerate(ids):
        for second in ids[index + 1 :]:
            assert not _overlap(boxes[first], boxes[second]), (first, second)
    for _, source, _, target, _, _ in workflow["links"]:
        assert boxes[source][0] <= boxes[target][0], (source, target)
    groups = [_corners(*group["bounding"]) for group in workflow["groups"]]
    for node in workflow["nodes"]:
        around = [group for group in groups if _overlap(group, boxes[node["id"]])]
        assert len(around) == (0 if node["type"] == NOTE else 1)
        assert all(_union(group, boxes[node["id"]]) == group for group in around)


Box = tuple[float, float, float, float]  # left, top, right, bottom


def _corners(left: float, top: float, width: float, height: float) -> Box:
    return left, top, left + width, top + height


def _box(node: dict[str, Any]) -> Box:
    (left, top), (width, height) = node["pos"], node["size"]
    return _corners(left, top - TITLE, width, height + TITLE)


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _union(one: Box, other: Box) -> Box:
    return (
        min(one[0], other[0]), min(one[1], other[1]), max(one[2], other[2]), max(one[3], other[3])
    )  # fmt: skip


@HEADLESS
def test_the_same_picture_every_time(path: Path, tmp_path: Path) -> None:
    """Run, run again at once, and run from the pictures in a process that knows nothing."""
    runner = examples.Runner(tmp_path / "first")
    ran = runner.run(path)
    assert ran.executed and not ran.node_errors
    assert runner.run(path).executed == []
    pictures = runner.pictures(ran)
    with Image.open(pictures[0]) as image:
        assert json.loads(image.info["workflow"]) == load(path)
        assert json.loads(image.info["prompt"]).keys() == runner.read(path).nodes.keys()
    other = examples.Runner(tmp_path / "second")
    again = other.pictures(other.run(pictures[0]))
    assert len(again) == len(pictures) > 0
    for first, second in zip(pictures, again, strict=True):
        assert np.array_equal(pixels(first), pixels(second))


def test_what_the_meter_says_can_be_read(tmp_path: Path) -> None:
    """The browser shows text only where a node is made for it."""
    ran = examples.Runner(tmp_path).run(examples.FOLDER / "token_meter.json")
    meter, preview = (ui["text"][0] for ui in ran.ui.values() if "text" in ui)
    assert preview == meter and "tokens in 1 window" in meter


def test_the_command_finds_the_pictures_beside_the_workflow(tmp_path: Path) -> None:
    path = examples.FOLDER / "image_to_image.json"
    assert main(["run", str(path), "--output", str(tmp_path), "--dry-run"]) == 0


def test_a_value_in_the_wrong_place_is_seen() -> None:
    """The checks above rest on conversion and validation: neither lets a shift pass."""
    path = examples.FOLDER / "text_to_image.json"
    workflow = load(path)
    sampler = next(node for node in workflow["nodes"] if node["type"] == "MultilingualSampler")
    sampler["widgets_values"].remove("fixed")
    definitions = examples.Runner(Path()).definitions()
    with pytest.raises(InvalidWorkflow):
        validate(parse_workflow(workflow, definitions), NODES.classes)
