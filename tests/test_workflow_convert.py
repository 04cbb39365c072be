"""Browser workflows to API format: the published templates, and every feature by hand."""

from __future__ import annotations

import json
import random
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from multilingual_diffusion.pipeline_core.workflow import (
    InvalidWorkflow,
    convert,
    definitions_from_classes,
    definitions_from_object_info,
    to_api,
)
from multilingual_diffusion.pipeline_core.workflow.ui_text import choose_prompt

DATA = Path(__file__).parents[2] / "shared" / "data"
TEMPLATES = sorted((DATA / "workflows").glob("*.json"))


@pytest.fixture(scope="module")
def stock() -> dict[str, Any]:
    path = DATA / "object_info_0.33.0.json"
    if not path.exists():
        pytest.skip("the published templates are not on this machine")
    return definitions_from_object_info(json.loads(path.read_text(encoding="utf-8")))


@pytest.mark.skipif(not TEMPLATES, reason="the published templates are not on this machine")
@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_published_templates_convert_as_the_front_end_does(
    path: Path, stock: dict[str, Any]
) -> None:
    golden = json.loads(path.read_text(encoding="utf-8"))
    assert to_api(convert(golden["ui"], stock)) == golden["api"]


@pytest.mark.skipif(not TEMPLATES, reason="the published templates are not on this machine")
def test_the_comparison_sees_one_wrong_place(stock: dict[str, Any]) -> None:
    golden = json.loads((DATA / "workflows" / "wan2.1_fun_inp.json").read_text(encoding="utf-8"))
    node = next(each for each in golden["ui"]["nodes"] if each["type"] == "KSampler")
    del node["widgets_values"][1]  # the companion of the seed
    assert to_api(convert(golden["ui"], stock)) != golden["api"]


class Source:
    """A picture from a text."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "text": ("STRING", {"multiline": True, "dynamicPrompts": True}),
                "seed": ("INT", {"default": 0}),
                "mode": (["fast", "good"],),
                "steps": ("INT", {"default": 20}),
            }
        }

    RETURN_TYPES = ("IMAGE", "MASK")


class Blend:
    """Two pictures in, one out; `amount` is a socket without a widget."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "amount": ("FLOAT", {"forceInput": True}),
                "mask": ("MASK",),
                "one": ("IMAGE",),
                "strength": ("FLOAT", {"default": 1.0}),
            },
            "optional": {"two": ("IMAGE",)},
        }

    RETURN_TYPES = ("IMAGE",)


class SaveImage:
    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"images": ("IMAGE",), "filename_prefix": ("STRING", {})}}

    RETURN_TYPES = ()
    OUTPUT_NODE = True


class Loader:
    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"image": (["a.png"], {"image_upload": True}), "tags": ("COLORS",)}}

    RETURN_TYPES = ("IMAGE",)


CLASSES = {"Source": Source, "Blend": Blend, "SaveImage": SaveImage, "Loader": Loader}
DEFINITIONS = definitions_from_classes(CLASSES, {"Source": "The Source"})


def ui_node(key: int, kind: str, **fields: Any) -> dict[str, Any]:
    """A node as the browser writes it; inputs as {name: link}, outputs as a list of types."""
    inputs = [
        {"name": name, "type": "*", "link": link} for name, link in fields.pop("ins", {}).items()
    ]
    outputs = [{"name": each, "type": each, "links": []} for each in fields.pop("outs", [])]
    values = {"widgets_values": fields.pop("values")} if "values" in fields else {}
    return {"id": key, "type": kind, "inputs": inputs, "outputs": outputs, **values, **fields}


def ui(nodes: list[dict[str, Any]], links: list[Any], **more: Any) -> dict[str, Any]:
    return {"version": 0.4, "last_node_id": 50, "nodes": nodes, "links": links, **more}


def inputs_of(data: dict[str, Any], key: str, **options: Any) -> dict[str, Any]:
    return to_api(convert(data, DEFINITIONS, **options))[key]["inputs"]


def source(key: int = 1, **fields: Any) -> dict[str, Any]:
    values = ["a cat", 7, "randomize", "good", 30]
    return ui_node(key, "Source", **{"values": values, "outs": ["IMAGE", "MASK"], **fields})


def save(key: int, link: int | None) -> dict[str, Any]:
    return ui_node(key, "SaveImage", ins={"images": link}, values=["out"])


def test_control_after_generate_takes_a_place_and_is_not_sent() -> None:
    graph = ui([source()], [])
    assert inputs_of(graph, "1") == {"text": "a cat", "seed": 7, "mode": "good", "steps": 30}


def test_a_file_with_too_few_values_gets_defaults() -> None:
    graph = ui([source(values=["a cat"])], [])
    assert inputs_of(graph, "1") == {"text": "a cat", "seed": 0, "mode": "fast", "steps": 20}


def test_values_by_name() -> None:
    graph = ui([source(values={"seed": 3, "text": "x", "unknown": 1})], [])
    assert inputs_of(graph, "1") == {"text": "x", "seed": 3, "mode": "fast", "steps": 20}


def test_a_converted_widget_is_a_link_and_keeps_its_place() -> None:
    blend = ui_node(2, "Blend", ins={"strength": 4}, values=[0.5])
    blend["inputs"][0]["widget"] = {"name": "strength"}
    graph = ui([source(), blend], [[4, 1, 0, 2, 0, "FLOAT"]])
    assert inputs_of(graph, "2") == {"strength": ["1", 0]}


def test_a_converted_widget_that_the_class_lost_is_gone() -> None:
    blend = ui_node(2, "Blend", ins={"old": 4}, values=[0.5])
    blend["inputs"][0]["widget"] = {"name": "old"}
    graph = ui([source(), blend], [[4, 1, 0, 2, 0, "FLOAT"]])
    assert inputs_of(graph, "2") == {"strength": 0.5}


def test_places_of_forced_inputs_in_old_files_are_skipped() -> None:
    assert inputs_of(ui([ui_node(2, "Blend", values=[0.25, 0.5])], []), "2") == {"strength": 0.5}
    assert inputs_of(ui([ui_node(2, "Blend", values=[0.5])], []), "2") == {"strength": 0.5}


def test_lists_are_wrapped_and_upload_buttons_are_not_sent() -> None:
    graph = ui([ui_node(1, "Loader", values=["b.png", ["#fff", "#000"], "image"])], [])
    assert inputs_of(graph, "1") == {
        "image": "b.png",
        "tags": {"__value__": ["#fff", "#000"]},
    }


class CustomCombo:
    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"choice": ("COMBO", {"options": []})}}

    RETURN_TYPES = ("STRING", "INT")


@pytest.mark.parametrize("rest", [["a", "b", ""], ["a", "b"], ["a", "b", "", "c"]])
def test_a_combo_with_options_of_its_own(rest: list[str]) -> None:
    graph = ui([ui_node(1, "CustomCombo", values=["b", 0, *rest])], [])
    definitions = definitions_from_classes({"CustomCombo": CustomCombo})
    assert to_api(convert(graph, definitions))["1"]["inputs"] == {
        "choice": "b", "index": 1, "option1": "a", "option2": "b", "option3": "",
    }  # fmt: skip


class Resize:
    """The value of `how` brings further inputs, one of them with a place for its companion."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        sized = {"required": {"width": ("INT", {"default": 8, "control_after_generate": True})}}
        like = {"required": {"model": ("IMAGE",)}, "optional": {"exact": ("BOOLEAN", {})}}
        options = [{"key": "size", "inputs": sized}, {"key": "like", "inputs": like}]
        return {
            "required": {
                "how": ("COMFY_DYNAMICCOMBO_V3", {"options": options}),
                "more": ("COMFY_AUTOGROW_V3", {"template": {"input": {}, "prefix": "p"}}),
                "last": ("INT", {}),
            }
        }

    RETURN_TYPES = ("IMAGE",)


def test_inputs_that_depend_on_a_value_and_inputs_that_grow() -> None:
    definitions = {**DEFINITIONS, **definitions_from_classes({"Resize": Resize})}
    values = {"size": [["size", 64, "fixed", 3]], "like": [["like", True, 3]], "none": [[]]}
    wanted: dict[str, dict[str, Any]] = {
        "size": {"how": "size", "how.width": 64, "last": 3},
        "like": {"how": "like", "how.model": ["1", 0], "how.exact": True, "last": 3},
        "none": {"how": "size", "how.width": 8, "last": 0},
    }
    for name, (saved,) in values.items():
        node = ui_node(2, "Resize", ins={"how.model": 4, "more.p0": 5}, values=saved)
        graph = ui([source(), node], [[4, 1, 0, 2, 0, "IMAGE"], [5, 1, 1, 2, 1, "MASK"]])
        found = to_api(convert(graph, definitions))["2"]["inputs"]
        assert found.pop("more.p0") == ["1", 1]
        if name != "like":
            assert found.pop("how.model") == ["1", 0]  # a socket of the file's own stays
        assert found == wanted[name]


def test_titles() -> None:
    api = to_api(convert(ui([source(), source(2, title="Mine")], []), DEFINITIONS))
    assert [api[key]["_meta"]["title"] for key in "12"] == ["The Source", "Mine"]


def test_reroutes_in_a_row() -> None:
    reroutes = [ui_node(n, "Reroute", ins={"": n}, outs=["*"]) for n in range(10, 2010)]
    links = [[10, 1, 0, 10, 0, "*"]] + [[n, n - 1, 0, n, 0, "*"] for n in range(11, 2011)]
    graph = ui([source(), *reroutes, save(2, 2010)], links)
    assert inputs_of(graph, "2") == {"images": ["1", 0], "filename_prefix": "out"}


def test_a_reroute_loop_is_an_error() -> None:
    reroutes = [ui_node(n, "Reroute", ins={"": 25 - n}, outs=["*"]) for n in (12, 13)]
    graph = ui([*reroutes, save(2, 12)], [[12, 12, 0, 2, 0, "*"], [13, 13, 0, 12, 0, "*"]])
    graph["links"].append([12, 12, 0, 13, 0, "*"])
    with pytest.raises(InvalidWorkflow, match="loop"):
        convert(graph, DEFINITIONS)


def test_a_primitive_writes_into_the_widget() -> None:
    primitive = ui_node(5, "PrimitiveNode", values=[99, "fixed"], outs=["INT"])
    node = source(ins={"seed": 8})
    node["inputs"][0]["widget"] = {"name": "seed"}
    graph = ui([primitive, node], [[8, 5, 0, 1, 1, "INT"]])
    assert inputs_of(graph, "1")["seed"] == 99
    assert "5" not in to_api(convert(graph, DEFINITIONS))


def test_muted_nodes_and_what_hangs_on_them() -> None:
    graph = ui([source(mode=2), save(2, 4)], [[4, 1, 0, 2, 0, "IMAGE"]])
    assert to_api(convert(graph, DEFINITIONS)).keys() == {"2"}
    assert inputs_of(graph, "2") == {"filename_prefix": "out"}


def test_bypass_passes_by_type_and_not_by_place() -> None:
    blend = ui_node(2, "Blend", ins={"mask": 1, "one": 2}, outs=["IMAGE"], values=[1], mode=4)
    links = [[1, 1, 1, 2, 1, "MASK"], [2, 1, 0, 2, 2, "IMAGE"], [3, 2, 0, 3, 0, "IMAGE"]]
    assert inputs_of(ui([source(), blend, save(3, 3)], links), "3")["images"] == ["1", 0]


def test_bypass_without_a_matching_input_gives_nothing() -> None:
    loader = ui_node(2, "Loader", outs=["IMAGE"], mode=4)
    assert inputs_of(ui([loader, save(3, 3)], [[3, 2, 0, 3, 0, "IMAGE"]]), "3") == {
        "filename_prefix": "out"
    }


def test_notes_groups_and_native_reroutes_are_ignored() -> None:
    notes = [ui_node(7, "Note", values=["hi"]), ui_node(8, "MarkdownNote", values=["# hi"])]
    graph = ui([source(), *notes, save(2, 4)], [[4, 1, 0, 2, 0, "IMAGE"]], groups=[{"title": "g"}])
    assert to_api(convert(graph, DEFINITIONS)).keys() == {"1", "2"}


def test_version_1() -> None:
    link = {"id": 4, "origin_id": 1, "origin_slot": 1, "target_id": 2, "target_slot": 0,
            "type": "IMAGE", "parentId": 1}  # fmt: skip
    graph = {
        "version": 1,
        "state": {"lastNodeId": 2, "lastLinkId": 4, "lastGroupid": 0, "lastRerouteId": 1},
        "nodes": [source(), save(2, 4)],
        "links": [link],
        "reroutes": [{"id": 1, "pos": [0, 0], "linkIds": [4]}],
    }
    assert inputs_of(graph, "2")["images"] == ["1", 1]


def subgraph(key: str, nodes: list[Any], links: list[Any], **more: Any) -> dict[str, Any]:
    objects = [
        dict(zip(("id", "origin_id", "origin_slot", "target_id", "target_slot"), link, strict=True))
        for link in links
    ]
    return {"id": key, "name": key, "nodes": nodes, "links": objects, **more}


def boundary(name: str, kind: str, *links: int) -> dict[str, Any]:
    return {"id": name, "name": name, "type": kind, "linkIds": list(links)}


def with_seed_input(node: dict[str, Any]) -> dict[str, Any]:
    node["inputs"][0]["widget"] = {"name": "seed"}
    return node


def maker(key: str = "maker") -> dict[str, Any]:
    """A subgraph: one Source whose seed is shown outside."""
    return subgraph(
        key,
        [with_seed_input(source(5, ins={"seed": 1}))],
        [[1, -10, 0, 5, 1], [2, 5, 0, -20, 0]],
        inputs=[boundary("seed", "INT", 1)],
        outputs=[boundary("image", "IMAGE", 2)],
    )


def host(key: int, kind: str = "maker", **fields: Any) -> dict[str, Any]:
    return ui_node(key, kind, **{"ins": {"seed": None}, "outs": ["IMAGE"], **fields})


def test_subgraph_instances_have_their_own_values() -> None:
    graph = ui(
        [host(1, values=[11]), host(2, values=[22]), host(3), save(9, 4)],
        [[4, 2, 0, 9, 0, "IMAGE"]],
        definitions={"subgraphs": [maker()]},
    )
    api = to_api(convert(graph, DEFINITIONS))
    assert api.keys() == {"1:5", "2:5", "3:5", "9"}
    assert [api[key]["inputs"]["seed"] for key in ("1:5", "2:5", "3:5")] == [11, 22, 7]
    assert api["9"]["inputs"]["images"] == ["2:5", 0]


def test_a_link_into_a_subgraph_beats_its_widget() -> None:
    graph = ui(
        [source(4), host(1, ins={"seed": 6}, values=[11])],
        [[6, 4, 0, 1, 0, "INT"]],
        definitions={"subgraphs": [maker()]},
    )
    assert inputs_of(graph, "1:5")["seed"] == ["4", 0]


def test_nested_subgraphs() -> None:
    outer = subgraph(
        "outer",
        [host(30, ins={"seed": 1})],
        [[1, -10, 0, 30, 0], [2, 30, 0, -20, 0]],
        inputs=[boundary("inner seed", "INT", 1)],
        outputs=[boundary("image", "IMAGE", 2)],
    )
    graph = ui(
        [host(1, "outer", ins={"inner seed": None}, values=[5]), save(2, 4)],
        [[4, 1, 0, 2, 0, "IMAGE"]],
        definitions={"subgraphs": [outer, maker()]},
    )
    api = to_api(convert(graph, DEFINITIONS))
    assert api["1:30:5"]["inputs"]["seed"] == 5
    assert api["2"]["inputs"]["images"] == ["1:30:5", 0]


def test_proxy_widgets_of_older_files() -> None:
    properties = {"proxyWidgets": [["5", "text"], ["5", "seed"], ["5", "control_after_generate"]]}
    graph = ui(
        [host(1, values=["a dog", 44, "fixed"], properties=properties)],
        [],
        definitions={"subgraphs": [maker()]},
    )
    assert inputs_of(graph, "1:5") == {"text": "a dog", "seed": 44, "mode": "good", "steps": 30}


@pytest.mark.parametrize("proxy", [["30", "seed"], ["30", "5: seed"]])
def test_proxy_widgets_of_nested_subgraphs(proxy: list[str]) -> None:
    outer = subgraph("outer", [host(30, ins={"shown": None})], [], inputs=[], outputs=[])
    inner = maker()
    inner["inputs"][0]["name"] = "shown"  # the input shows the widget under another name
    node = host(1, "outer", ins={}, values=[44], properties={"proxyWidgets": [proxy]})
    graph = ui([node], [], definitions={"subgraphs": [outer, inner]})
    assert inputs_of(graph, "1:30:5")["seed"] == 44


def test_proxy_widgets_of_primitives_and_of_the_host_itself() -> None:
    primitive = ui_node(6, "PrimitiveNode", values=[99, "fixed"], outs=["INT"])
    inner = subgraph(
        "maker",
        [primitive, with_seed_input(source(5, ins={"seed": 1}))],
        [[1, 6, 0, 5, 1], [2, -10, 0, 5, 3]],
        inputs=[boundary("steps", "INT", 2)],
        outputs=[],
    )
    inner["nodes"][1]["inputs"].append({"name": "steps", "type": "INT", "link": 2})
    for proxies, seed in (
        ([["6", "value"], ["-1", "steps"]], 44),
        ([["6", "value"], ["-1", "steps"], ["6", "control_after_generate"]], 99),
    ):
        node = host(1, ins={"steps": None}, values=[44, 50], properties={"proxyWidgets": proxies})
        graph = ui([node], [], definitions={"subgraphs": [inner]})
        found = inputs_of(graph, "1:5")
        assert (found["seed"], found["steps"]) == (seed, 50)


def test_an_id_that_is_taken_is_given_anew_as_in_the_browser() -> None:
    graph = ui([host(5, values=[1])], [], definitions={"subgraphs": [maker(), maker("other")]})
    assert to_api(convert(graph, DEFINITIONS)).keys() == {"5:51"}


def test_a_subgraph_in_itself_is_an_error() -> None:
    loop = subgraph("loop", [host(30, "loop", ins={})], [], inputs=[], outputs=[])
    graph = ui([host(1, "loop", ins={})], [], definitions={"subgraphs": [loop]})
    with pytest.raises(InvalidWorkflow, match="holds itself"):
        convert(graph, DEFINITIONS)


def test_subgraphs_that_multiply_are_an_error() -> None:
    levels = [
        subgraph(f"s{n}", [ui_node(100 * n + k, f"s{n + 1}") for k in range(2, 12)], [])
        for n in range(30)
    ]
    graph = ui(
        [ui_node(1, "s0")], [], definitions={"subgraphs": [*levels, subgraph("s30", [], [])]}
    )
    with pytest.raises(InvalidWorkflow, match="more than"):
        convert(graph, DEFINITIONS)


def test_unknown_classes_are_all_named() -> None:
    with pytest.raises(InvalidWorkflow, match="Nope1, Nope2") as caught:
        convert(ui([ui_node(1, "Nope2"), ui_node(2, "Nope1")], []), DEFINITIONS)
    assert caught.value.error["type"] == "missing_node_type"
    assert caught.value.error["extra_info"]["node_id"] == "1"
    assert not convert(ui([ui_node(1, "Nope2", mode=2)], []), DEFINITIONS).nodes


@pytest.mark.parametrize(
    "broken",
    [
        {"nodes": [{"id": 1}]},
        {"nodes": [1]},
        {"nodes": [ui_node(1, "Source"), ui_node(1, "Source")]},
        {"nodes": [], "links": [[1, 2]]},
        {"nodes": [], "links": 3},
        {"nodes": [], "definitions": {"subgraphs": [{}]}},
        {"nodes": [{**source(), "properties": [1]}]},
        {"nodes": [save(1, 77)]},
        {"nodes": [save(1, 77)], "links": [[77, 5, 0, 1, 0, "IMAGE"]]},
        {"nodes": [save(1, 77)], "links": [[77, -10, 0, 1, 0, "IMAGE"]]},
        [],
        None,
    ],
)
def test_broken_files_are_one_clear_error(broken: Any) -> None:
    with pytest.raises(InvalidWorkflow):
        convert(broken, DEFINITIONS)


def test_prompt_choices() -> None:
    text = "a {red|{dark|light} blue} cat \\{x\\} // note\n/* more\nlines */{one|"
    seen = {choose_prompt(text, random.Random(seed)) for seed in range(200)}
    assert {line.split("\n")[0] for line in seen} == {
        f"a {colour} cat {{x}} " for colour in ("red", "dark blue", "light blue")
    }
    deep = "{" * 5_000 + "x" + "}" * 5_000
    assert choose_prompt(deep, random.Random(0)) == "x"


def test_choices_and_names_are_replaced_in_the_workflow() -> None:
    node = source(values=["{a|b}", 7, "fixed", "good", 30], title="My Source")
    saving = ui_node(2, "SaveImage", values=["%date:yyyy-MM-dd%/%My Source.mode%_%width%_%x.y%"])
    graph = ui([node, saving], [])
    texts = {inputs_of(graph, "1", seed=seed)["text"] for seed in range(20)}
    assert texts == {"a", "b"}
    name = inputs_of(graph, "2", now=datetime(2026, 3, 4))["filename_prefix"]
    assert name == "2026-03-04/good_%width%_%x.y%"
