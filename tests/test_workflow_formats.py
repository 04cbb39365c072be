"""Reading workflows from files and pictures, names of saved files, and packs from their folders."""

from __future__ import annotations

import io
import json
import os
import struct
import time
import zlib
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from multilingual_diffusion.pipeline_core.errors import UnknownName, WorkflowError
from multilingual_diffusion.pipeline_core.workflow import (
    Executor,
    InvalidWorkflow,
    Link,
    definitions_from_classes,
    definitions_from_object_info,
    expand_prefix,
    load_node_pack,
    parse_api,
    parse_workflow,
    read_workflow,
    to_api,
)
from PIL import Image
from PIL.PngImagePlugin import PngInfo

API = {
    "1": {"class_type": "Value", "inputs": {"value": 3}, "_meta": {"title": "A value"}},
    "2:5": {
        "class_type": "Show",
        "inputs": {"value": ["1", 0], "many": {"__value__": [1]}},
        "_meta": {"title": "Show"},
    },
}
UI = {
    "version": 0.4,
    "nodes": [
        {"id": 1, "type": "Value", "inputs": [], "outputs": [], "widgets_values": [4]},
    ],
    "links": [],
}


class Value:
    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"value": ("INT", {"default": 0})}}

    RETURN_TYPES = ("INT",)


DEFINITIONS = definitions_from_classes({"Value": Value})


def write(path: Path, data: Any) -> Path:
    path.write_text(json.dumps(data), encoding="utf-8")
    return path


def picture(path: Path, **chunks: Any) -> Path:
    info = PngInfo()
    for key, value in chunks.items():
        info.add_text(key, json.dumps(value))
    Image.new("RGB", (4, 4)).save(path, pnginfo=info)
    return path


def test_api_format_both_ways(tmp_path: Path) -> None:
    workflow = read_workflow(write(tmp_path / "flow.json", API))
    assert workflow.nodes["2:5"].inputs["value"] == Link("1", 0)
    assert workflow.nodes["1"].title == "A value"
    assert to_api(workflow) == API


def test_a_request_to_the_server_is_a_workflow_too(tmp_path: Path) -> None:
    body = {"prompt": API, "extra_data": {"extra_pnginfo": {"workflow": UI}}}
    workflow = read_workflow(write(tmp_path / "request.json", body))
    assert to_api(workflow) == API and workflow.ui == UI


def test_browser_format_needs_definitions(tmp_path: Path) -> None:
    path = write(tmp_path / "flow.json", UI)
    workflow = read_workflow(path, DEFINITIONS)
    assert workflow.nodes["1"].inputs == {"value": 4} and workflow.ui == UI
    with pytest.raises(InvalidWorkflow, match="takes the node definitions"):
        read_workflow(path)


def test_pictures_as_the_host_writes_them(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png", prompt=API, workflow=UI)
    assert to_api(read_workflow(path)) == API and read_workflow(path).ui == UI
    only_ui = picture(tmp_path / "b.png", workflow=UI)
    assert read_workflow(only_ui, DEFINITIONS).nodes["1"].inputs == {"value": 4}
    with_nan = picture(tmp_path / "c.png", prompt={"1": {**API["1"], "is_changed": [float("nan")]}})
    assert read_workflow(with_nan).nodes["1"].inputs == {"value": 3}
    with pytest.raises(InvalidWorkflow, match="carries no workflow"):
        read_workflow(picture(tmp_path / "d.png"))


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


@pytest.mark.parametrize(
    "chunk",
    [
        (b"tEXt", b"prompt\0" + json.dumps(API).encode()),
        (b"zTXt", b"prompt\0\0" + zlib.compress(json.dumps(API).encode())),
        (b"iTXt", b"prompt\0\0\0en\0key\0" + json.dumps(API).encode()),
        (b"iTXt", b"prompt\0\1\0\0\0" + zlib.compress(json.dumps(API).encode())),
    ],
)
def test_every_kind_of_text_chunk(tmp_path: Path, chunk: tuple[bytes, bytes]) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png((b"IHDR", b"x" * 13), chunk, (b"IEND", b"")))
    assert to_api(read_workflow(path)) == API


BOMB = zlib.compress(b"[" * (40 * 2**20))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (png((b"zTXt", b"prompt\0\0" + BOMB)), "above 32 MB"),
        (png((b"zTXt", b"prompt\0\0" + b"no zlib")), "damaged"),
        (png((b"tEXt", b"prompt\0{}"))[:-2] + b"xx", "damaged"),
        (png((b"tEXt", b"prompt\0{}"))[:-9], "damaged|no workflow"),
        (png(*[(b"abcd", b"")] * 10_001), "chunks"),
        (b"\x89PNG\r\n\x1a\n", "no workflow"),
        (b"", "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b"[1, 2]", "neither"),
        (b'{"1": 5}', "neither"),
        (b'{"1": {"class_type": "A", "inputs": []}}', "no object with inputs"),
        (b'{"1": {"inputs": {}}, "1": {"inputs": {}}}', "'1' is there twice"),
        (b'{"a": ' * 5_000 + b"1" + b"}" * 5_000, "nested too deeply|neither"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"1": {"inputs": {"a": ' + b"9" * 10_000 + b"}}}", "not valid JSON"),
        (b" " * (33 * 2**20), "larger than 32 MB"),
    ],
    ids=lambda value: value[:12] if isinstance(value, str) else "",
)
def test_hostile_files_are_one_clear_error(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "flow"
    path.write_bytes(data)
    start = time.perf_counter()
    with pytest.raises(InvalidWorkflow, match=message) as caught:
        read_workflow(path, DEFINITIONS)
    assert caught.value.to_json()["error"]["type"] == "invalid_prompt"
    assert time.perf_counter() - start < 2


def test_files_that_are_not_there(tmp_path: Path) -> None:
    for path in (tmp_path / "none.json", tmp_path, "a\0b", "x" * 5_000):
        with pytest.raises(InvalidWorkflow, match="cannot be read"):
            read_workflow(path)


def test_deep_constants_do_not_break_the_executor() -> None:
    deep: Any = 1
    for _ in range(5_000):
        deep = {"a": deep}
    show = type(
        "Show", (),
        {"INPUT_TYPES": classmethod(lambda cls: {"required": {"value": ("*", {})}}),
         "RETURN_TYPES": (), "FUNCTION": "go", "OUTPUT_NODE": True,
         "go": lambda self, value: ()},
    )  # fmt: skip
    workflow = parse_api({"1": {"class_type": "Show", "inputs": {"value": deep}}})
    assert Executor({"Show": show}).run(workflow).executed == ["1"]


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-20, 20), st.floats(), st.text(max_size=4),
              st.sampled_from(["Value", "maker", "-10", "1", "2"])),
    lambda inner: st.one_of(
        st.lists(inner, max_size=5),
        st.dictionaries(
            st.sampled_from(["id", "type", "nodes", "links", "inputs", "outputs", "name", "link",
                             "widget", "mode", "definitions", "subgraphs", "class_type", "linkIds",
                             "properties", "proxyWidgets", "widgets_values", "version", "1", "2"]),
            inner, max_size=6,
        ),
    ),
    max_leaves=30,
)  # fmt: skip
WORDS = st.sampled_from(["0", "1", "2", "3", "-1", "value", "1: value"])
PROXIES = st.fixed_dictionaries(
    {"proxyWidgets": st.one_of(JSON, st.lists(st.lists(WORDS, min_size=2, max_size=3), max_size=3))}
)
SLOT = st.fixed_dictionaries({"name": st.just("value"), "link": JSON}, optional={"widget": JSON})
NODE = st.fixed_dictionaries(
    {"id": st.integers(0, 3), "type": st.sampled_from(["Value", "Reroute", "PrimitiveNode", "s"])},
    optional={"inputs": st.lists(SLOT, max_size=2), "mode": JSON, "widgets_values": JSON,
              "properties": st.one_of(JSON, PROXIES), "outputs": JSON},
)  # fmt: skip
LINK = st.lists(st.integers(-10, 3), min_size=5, max_size=6)
SUBGRAPH = st.fixed_dictionaries(
    {"id": st.just("s"), "nodes": st.lists(NODE, max_size=3), "links": st.lists(LINK, max_size=3)},
    optional={"inputs": JSON, "outputs": JSON},
)
FILES = st.one_of(
    JSON,
    st.fixed_dictionaries(
        {"nodes": st.lists(NODE, max_size=4), "links": st.lists(LINK, max_size=4)},
        optional={"definitions": st.fixed_dictionaries({"subgraphs": st.lists(SUBGRAPH)})},
    ),
)


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(FILES)
def test_any_json_is_a_workflow_or_refused(data: Any) -> None:
    try:
        workflow = parse_workflow(data, DEFINITIONS)
    except InvalidWorkflow:
        return
    assert parse_api(to_api(workflow)).nodes.keys() == workflow.nodes.keys()


def test_setting_an_input() -> None:
    workflow = parse_api(API)
    changed = workflow.with_input("1", "value", 9).with_input("2:5", "many", [1, 2])
    assert changed.nodes["1"].inputs == {"value": 9} and workflow.nodes["1"].inputs == {"value": 3}
    assert changed.nodes["2:5"].inputs["many"] == {"__value__": [1, 2]}
    with pytest.raises(UnknownName, match="node '7'"):
        workflow.with_input("7", "value", 9)


def test_definitions_are_the_same_from_a_class_and_from_object_info() -> None:
    class Node:
        INPUT_TYPES = classmethod(
            lambda cls: {
                "required": {"b": ("INT", {"min": 1}), "a": (["x", "y"],)},
                "optional": {"c": ("IMAGE",)},
                "hidden": {"id": "UNIQUE_ID"},
            }
        )
        RETURN_TYPES = ("IMAGE", ["x", "y"])
        OUTPUT_IS_LIST = (True, False)
        INPUT_IS_LIST = True
        OUTPUT_NODE = True

    info = {
        "input": {
            "required": {"a": [["x", "y"]], "b": ["INT", {"min": 1}]},
            "optional": {"c": ["IMAGE"]},
            "hidden": {"id": ["UNIQUE_ID"]},
        },
        "input_order": {"required": ["b", "a"], "optional": ["c"]},
        "output": ["IMAGE", ["x", "y"]],
        "output_is_list": [True, False],
        "is_input_list": True,
        "output_node": True,
        "display_name": "My node",
    }
    one = definitions_from_classes({"Node": Node}, {"Node": "My node"})["Node"]
    other = definitions_from_object_info({"Node": info})["Node"]
    assert one == other and list(one.inputs) == ["b", "a", "c"]


@pytest.mark.parametrize("entry", [5, {}, {"input": []}, {"input": {"required": {"a": 5}}}])
def test_broken_object_info_names_the_entry(entry: Any) -> None:
    with pytest.raises(WorkflowError, match="Bad"):
        definitions_from_object_info({"Bad": entry})


# -- names of saved files

NOW = datetime(2026, 3, 4, 5, 6, 7)


@pytest.mark.parametrize(
    ("prefix", "wanted"),
    [
        ("plain", "plain"),
        ("%date:yyyy-MM-dd%/x", "2026-03-04/x"),
        ("%date:yy M d hh:mm:ss%", "26 3 4 05_06_07"),
        ("%date:yyyyMMdd_yyy_q%", "20260304_yyy_q"),
        ("%year%%month%%day%-%hour%%minute%%second%", "20260304-050607"),
        ("%width%x%height%_%batch_num%", "512x768_2"),
        ("%A value.value%", "3"),
        ("%show.many%", "[1]"),
        ("%Show.value%_%Nope.value%_%what%", "%Show.value%_%Nope.value%_%what%"),
        ("100%", "100%"),
    ],
)
def test_tokens(prefix: str, wanted: str) -> None:
    name = expand_prefix(
        prefix, width=512, height=768, batch_number=2, now=NOW, workflow=parse_api(API)
    )
    assert name == wanted


def test_values_cannot_lead_elsewhere() -> None:
    workflow = parse_api(API).with_input("1", "value", "../../etc/passwd")
    name = expand_prefix("%A value.value%", width=1, height=1, workflow=workflow)
    assert name == ".._.._etc_passwd"


BAD = [
    "../x", "a/../../x", "/etc/x", "\\\\server\\x", "C:\\x", "c:x", "~/x", "..", "a/..", "a\\..\\x",
    "x\0y", "x\ny", ". ./x", ".. /x", "a/ .. /x", "...", "/",
]  # fmt: skip


@pytest.mark.parametrize("prefix", BAD)
def test_names_that_lead_outside_are_refused(prefix: str) -> None:
    with pytest.raises(InvalidWorkflow, match="leads out of"):
        expand_prefix(prefix, width=1, height=1)


@settings(max_examples=500, deadline=None)
@given(st.text(alphabet=st.sampled_from("./\\~ab:% \0\n\u202e\u4e2d"), max_size=12))
def test_any_name_is_inside_or_refused(prefix: str) -> None:
    try:
        name = expand_prefix(prefix, width=1, height=1, now=NOW)
    except InvalidWorkflow:
        return
    for separators in (name, name.replace("\\", "/")):
        path = os.path.normpath(os.path.join("/output", separators))
        assert path == "/output" or path.startswith("/output/")


# -- packs

PACK = """
from .inner.nodes import Value
NODE_CLASS_MAPPINGS = {"PackValue": Value}
NODE_DISPLAY_NAME_MAPPINGS = {"PackValue": "A value"}
"""
INNER = """
class Value:
    INPUT_TYPES = classmethod(lambda cls: {"required": {}})
    RETURN_TYPES = ("INT",)
    FUNCTION = "go"
    OUTPUT_NODE = True
    def go(self):
        from .more import NUMBER
        return (NUMBER,)
"""


def make_pack(folder: Path, number: int) -> Path:
    (folder / "inner").mkdir(parents=True)
    (folder / "__init__.py").write_text(PACK, encoding="utf-8")
    (folder / "inner" / "nodes.py").write_text(INNER, encoding="utf-8")
    (folder / "inner" / "more.py").write_text(f"NUMBER = {number}\n", encoding="utf-8")
    return folder


def test_packs_with_relative_imports_and_the_same_name(tmp_path: Path) -> None:
    for number in (1, 2):
        pack = load_node_pack(make_pack(tmp_path / str(number) / "my-pack.v2", number))
        assert pack.titles == {"PackValue": "A value"}
        flow = parse_api({"1": {"class_type": "PackValue", "inputs": {}}})
        assert Executor(pack.classes).run(flow).outputs == {"1": [[number]]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import comfy_that_is_not_there", "without ComfyUI: No module named"),
        ("1 / 0", "division by zero"),
        ("def (", "cannot be loaded"),
        ("x = 1", "NODE_CLASS_MAPPINGS"),
        ("NODE_CLASS_MAPPINGS = {'a': 5}", "NODE_CLASS_MAPPINGS"),
    ],
)
def test_packs_that_do_not_load_say_why(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "pack.py"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(WorkflowError, match=message):
        load_node_pack(path)
    with pytest.raises(WorkflowError, match="no node pack"):
        load_node_pack(tmp_path)


def test_json_text_is_never_a_pixel(tmp_path: Path) -> None:
    """A picture is read without decoding it: a broken image still gives its workflow."""
    buffer = io.BytesIO(png((b"tEXt", b"prompt\0" + json.dumps(API).encode()), (b"IDAT", b"junk")))
    path = tmp_path / "x.png"
    path.write_bytes(buffer.getvalue())
    assert to_api(read_workflow(path)) == API
