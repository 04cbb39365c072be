"""Random graphs through the executor: an answer in the host's shape, or every node once in order.

Nodes of every kind take part: lists, lazy inputs, blockers, expansion, async, failures, nodes that
refuse; graphs have cycles, wrong slots, missing links, wrong constants, unknown classes, deep
chains, and muted or bypassed nodes of the browser's form. An exception that is not documented is a
failure of the test.
"""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from multilingual_diffusion.pipeline_core.errors import WorkflowError
from multilingual_diffusion.pipeline_core.workflow import (
    ExecutionBlocker,
    Executor,
    InvalidWorkflow,
    NodeFailed,
    RunResult,
    Workflow,
    definitions_from_classes,
    parse_workflow,
)

MANY = settings(max_examples=10_000, deadline=None, suppress_health_check=list(HealthCheck))
FEW = settings(MANY, max_examples=200)

INT = ("INT", {"min": 0, "max": 99, "default": 1})
FREE = ("INT", {})


class Planned(Exception):
    """What a node of the test raises."""


def node_class(
    function: Any,
    required: Mapping[str, Any],
    returns: tuple[Any, ...] = ("INT",),
    optional: Mapping[str, Any] | None = None,
    **attributes: Any,
) -> type:
    """Return a class that notes its node's id whenever it is called."""
    spec = {
        "required": dict(required), "optional": dict(optional or {}), "hidden": {"me": "UNIQUE_ID"}
    }  # fmt: skip
    body = {
        "INPUT_TYPES": classmethod(lambda cls: spec), "RETURN_TYPES": returns, "FUNCTION": "go",
        "go": function, **attributes,
    }  # fmt: skip
    return type("Node", (), body)


@dataclass
class Nodes:
    """The classes, and the ids of the nodes in the order of their calls."""

    calls: list[str] = field(default_factory=list)

    def note(self, me: Any) -> str:
        me = me[0] if isinstance(me, list) else me
        self.calls.append(me)
        return me

    def value(self, node: Any, value: int, me: str) -> tuple[int]:
        self.note(me)
        return (value,)

    def add(self, node: Any, a: int, me: str, b: int = 0) -> tuple[int]:
        self.note(me)
        return ((a + b) % 99,)

    def several(self, node: Any, count: int, me: str) -> tuple[list[int], int]:
        self.note(me)
        return list(range(count % 4)), count

    def total(self, node: Any, values: list[int], me: list[str]) -> tuple[int]:
        self.note(me)
        return (sum(values),)

    def switch(self, node: Any, on: bool, me: str, yes: Any = None, no: Any = None) -> tuple[int]:
        self.note(me)
        return ((yes if on else no) or 0,)

    def gate(self, node: Any, value: int, say: bool, me: str) -> tuple[Any, int]:
        self.note(me)
        return ExecutionBlocker(f"blocked at {value}" if say else None), value

    def grow(self, node: Any, value: int, times: int, me: str) -> dict[str, Any]:
        """Expand to a chain that ends in a node of this class with less to do."""
        self.note(me)
        last: Any = value
        graph: dict[str, Any] = {}
        for number in range(times % 4):
            graph[f"{me}.{number}"] = {"class_type": "Add", "inputs": {"a": last, "b": 1}}
            last = [f"{me}.{number}", 0]
        if times % 4 > 1:
            inputs = {"value": last, "times": times % 4 - 2}
            graph[f"{me}.rest"] = {"class_type": "Grow", "inputs": inputs}
            last = [f"{me}.rest", 0]
        return {"result": (last,), "expand": graph}

    async def later(self, node: Any, value: int, me: str) -> tuple[int]:
        self.note(me)
        await asyncio.sleep(0)
        return (value,)

    def fail(self, node: Any, value: int, me: str) -> tuple[int]:
        self.note(me)
        if value % 3 == 0:
            raise Planned(value)
        return (value,)

    def show(self, node: Any, value: Any, me: str) -> dict[str, Any]:
        self.note(me)
        return {"ui": {"shown": [str(value)]}, "result": (value,)}

    def classes(self) -> dict[str, type]:
        def bind(method: Any) -> Any:
            if inspect.iscoroutinefunction(method):

                async def waiting(node: Any, **inputs: Any) -> Any:
                    return await method(node, **inputs)

                return waiting
            return lambda node, **inputs: method(node, **inputs)

        lazy = ("INT", {"lazy": True})
        needs = lambda self, on, **others: ["yes" if on else "no"]  # noqa: E731
        return {
            "Value": node_class(bind(self.value), {"value": INT}),
            "Add": node_class(bind(self.add), {"a": FREE}, optional={"b": FREE}),
            "Several": node_class(
                bind(self.several), {"count": INT}, ("INT", "INT"), OUTPUT_IS_LIST=(True, False)
            ),
            "Total": node_class(bind(self.total), {"values": FREE}, INPUT_IS_LIST=True),
            "Switch": node_class(
                bind(self.switch), {"on": ("BOOLEAN", {})}, optional={"yes": lazy, "no": lazy},
                check_lazy_status=needs,
            ),
            "Gate": node_class(
                bind(self.gate), {"value": FREE, "say": ("BOOLEAN", {})}, ("INT", "INT")
            ),
            "Grow": node_class(bind(self.grow), {"value": FREE, "times": INT}),
            "Later": node_class(bind(self.later), {"value": FREE}),
            "Fail": node_class(bind(self.fail), {"value": FREE}),
            "Refuse": node_class(
                bind(self.value), {"value": INT},
                VALIDATE_INPUTS=classmethod(lambda cls, value: value != 3 or "not three"),
            ),
            "Choose": node_class(
                bind(self.value), {"value": (["x", "y"],)}, (["x", "y"],)
            ),
            "Show": node_class(bind(self.show), {"value": FREE}, OUTPUT_NODE=True),
            "ShowAny": node_class(bind(self.show), {"value": ("*", {})}, (), OUTPUT_NODE=True),
        }  # fmt: skip


# -- graphs

NAMES = ("value", "a", "b", "count", "values", "on", "yes", "no", "say", "times")
IDS = ("0", "1", "2", "3", "4", "5", "6", "7", "8")
LINKS = st.tuples(st.sampled_from([*IDS, *IDS, "99"]), st.sampled_from([0, 0, 0, 0, 1, 2, -1]))
CONSTANTS = st.one_of(
    st.integers(0, 9), st.integers(0, 9), st.booleans(), st.integers(-5, 200), st.text(max_size=3),
    st.none(), st.floats(), st.lists(st.integers(0, 3), max_size=3), st.just({"__value__": [1]}),
    st.just({}), st.sampled_from(["x", "zzz", "7"]),
)  # fmt: skip
CLASS_NAMES = sorted(Nodes().classes())
INPUTS = st.dictionaries(st.sampled_from(NAMES), st.one_of(LINKS.map(list), CONSTANTS))
GIVEN = st.fixed_dictionaries({"a": st.just(1), "value": LINKS.map(list), "on": st.just(True)})


def nodes_of(kinds: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({"class_type": kinds, "inputs": st.one_of(INPUTS, GIVEN)})


LOOSE = st.dictionaries(
    st.sampled_from(IDS), nodes_of(st.sampled_from([*CLASS_NAMES, *["Show"] * 4])), min_size=1
)
NO_NODES = st.sampled_from([{}, None, [], "x", 3, {"inputs": 3}, {"class_type": "Value"}])
MALFORMED = st.one_of(
    NO_NODES,
    st.dictionaries(
        st.sampled_from(IDS),
        st.one_of(nodes_of(st.sampled_from([*CLASS_NAMES, "Nobody", None, 7])), NO_NODES),
    ),
)


@st.composite
def sound_graphs(draw: st.DrawFn) -> dict[str, Any]:
    """Graphs that mostly validate: links lead to earlier nodes, constants fit."""
    graph: dict[str, Any] = {}
    definitions = definitions_from_classes(Nodes().classes())
    count = draw(st.integers(1, 8))
    for number in range(count):
        kind = draw(st.sampled_from([name for name in CLASS_NAMES if name != "Choose"]))
        inputs: dict[str, Any] = {}
        for name, each in definitions[kind].inputs.items():
            if not each.required and draw(st.booleans()):
                continue
            if number and each.type != "BOOLEAN" and draw(st.integers(0, 4)):
                inputs[name] = [str(draw(st.integers(0, number - 1))), 0]
            else:
                inputs[name] = draw(st.integers(0, 5))
        graph[str(number)] = {"class_type": kind, "inputs": inputs}
    for number in draw(st.sets(st.integers(0, count - 1), min_size=1, max_size=3)):
        graph[f"out{number}"] = {"class_type": "Show", "inputs": {"value": [str(number), 0]}}
    return graph


@st.composite
def deep_graphs(draw: st.DrawFn) -> dict[str, Any]:
    """Chains of some hundred nodes, with a shortcut and perhaps a way back."""
    length = draw(st.integers(50, 400))
    graph: dict[str, Any] = {"0": {"class_type": "Value", "inputs": {"value": 1}}}
    for number in range(1, length):
        graph[str(number)] = {"class_type": "Add", "inputs": {"a": [str(number - 1), 0]}}
    place, source = draw(st.tuples(st.integers(1, length - 1), st.integers(0, length - 1)))
    graph[str(place)]["inputs"]["b"] = [str(source), 0]
    graph["out"] = {"class_type": "Show", "inputs": {"value": [str(length - 1), 0]}}
    return graph


def to_ui(graph: Mapping[str, Any], modes: Mapping[str, int]) -> dict[str, Any]:
    """Write a sound graph in the browser's form, nodes muted (2) or bypassed (4) as `modes` say."""
    definitions = definitions_from_classes(Nodes().classes())
    numbers = {key: number for number, key in enumerate(graph, start=1)}
    nodes: dict[str, Any] = {}
    links: list[list[Any]] = []
    for key, node in graph.items():
        definition = definitions[node["class_type"]]
        slots, widgets = [], []
        for name, each in definition.inputs.items():
            value = node["inputs"].get(name)
            slot = {"name": name, "type": each.type, "link": None, "widget": {"name": name}}
            widgets.append(value if not isinstance(value, list) else 1)
            if isinstance(value, list) and nodes[value[0]]["outputs"]:
                slot["link"] = len(links) + 1
                ends = [numbers[value[0]], value[1], numbers[key], len(slots)]
                links.append([len(links) + 1, *ends, "INT"])
            slots.append(slot)
        outputs = [{"name": kind, "type": kind, "links": []} for kind in definition.outputs]
        nodes[key] = {
            "id": numbers[key], "type": node["class_type"], "mode": modes.get(key, 0),
            "inputs": slots, "outputs": outputs, "widgets_values": widgets,
        }  # fmt: skip
    for number, source, slot, *_ in links:
        nodes[list(graph)[source - 1]]["outputs"][slot]["links"].append(number)
    return {"version": 0.4, "nodes": list(nodes.values()), "links": links}


# -- what must hold


def check_shape(refused: InvalidWorkflow, workflow: Workflow | None) -> None:
    """The answer is JSON of the host's form, and speaks of nodes that are there."""
    answer = json.loads(json.dumps(refused.to_json()))
    assert set(answer) == {"error", "node_errors"}
    assert set(answer["error"]) == {"type", "message", "details", "extra_info"}
    assert answer["error"]["type"] in {
        "invalid_prompt", "missing_node_type", "prompt_no_outputs",
        "prompt_outputs_failed_validation",
    }  # fmt: skip
    for key, entry in answer["node_errors"].items():
        assert workflow is not None and key in workflow.nodes
        assert entry["errors"] and entry["dependent_outputs"]
        assert entry["class_type"] == workflow.nodes[key].class_type
        for error in entry["errors"]:
            assert set(error) == {"type", "message", "details", "extra_info"}


def check_run(result: RunResult, nodes: Nodes, workflow: Workflow) -> None:
    """Every needed node ran once, after those it needs; none that nobody needs."""
    definitions = definitions_from_classes(nodes.classes())
    done = [*result.cached, *result.executed]
    assert len(done) == len(set(done))
    assert set(nodes.calls) <= set(done)
    needed: set[str] = set()
    for key in reversed(done):
        if key not in workflow.nodes:  # added by a node that expanded
            assert any(key.startswith(f"{each}.") for each in workflow.nodes)
            continue
        node = workflow.nodes[key]
        definition = definitions[node.class_type or ""]
        assert definition.is_output or key in needed
        for name, link in node.links():
            if name not in definition.inputs:
                continue
            if not definition.inputs[name].options.get("lazy"):
                assert link.node in done and done.index(link.node) < done.index(key)
            needed.add(link.node)
    outputs = {
        key for key in workflow.nodes if definitions[workflow.nodes[key].class_type].is_output
    }  # type: ignore[index]
    refused = {key for entry in result.node_errors.values() for key in entry["dependent_outputs"]}
    assert outputs - refused == outputs & set(done)


def run(data: Any) -> None:
    """Read, run, run again."""
    nodes = Nodes()
    classes = nodes.classes()
    executor = Executor(classes)
    workflow = None
    try:
        workflow = parse_workflow(data, definitions_from_classes(classes))
        result = executor.run(workflow)
    except InvalidWorkflow as exc:
        check_shape(exc, workflow)
        assert not nodes.calls
        return
    except NodeFailed as exc:
        assert isinstance(exc.__cause__, (Planned, WorkflowError)), exc.__cause__
        assert len(nodes.calls) < 2_000
        return
    check_run(result, nodes, workflow)
    before = len(nodes.calls)
    again = executor.run(workflow)
    assert not again.executed and len(nodes.calls) == before
    assert again.ui == result.ui


MODES = st.dictionaries(
    st.sampled_from([*IDS, "out0", "out1", "out2"]), st.sampled_from([0, 2, 4]), max_size=4
)


EVERY_KIND = {
    "malformed": MALFORMED,
    "loose": LOOSE,
    "sound": sound_graphs(),
    "browser": st.builds(to_ui, sound_graphs(), MODES),
}
every_kind = pytest.mark.parametrize("kind", EVERY_KIND)


@every_kind
@FEW
@given(data=st.data())
def test_random_graphs(kind: str, data: st.DataObject) -> None:
    run(data.draw(EVERY_KIND[kind]))


@settings(FEW, max_examples=40)
@given(deep_graphs())
def test_deep_graphs(graph: dict[str, Any]) -> None:
    run(graph)


def test_the_check_sees_a_wrong_run() -> None:
    nodes = Nodes()
    graph = {
        "1": {"class_type": "Value", "inputs": {"value": 1}},
        "2": {"class_type": "Later", "inputs": {"value": ["1", 0]}},
        "3": {"class_type": "Show", "inputs": {"value": ["2", 0]}},
        "4": {"class_type": "Value", "inputs": {"value": 2}},
    }
    workflow = parse_workflow(graph)
    result = Executor(nodes.classes()).run(workflow)
    assert result.executed == ["1", "2", "3"]
    check_run(result, nodes, workflow)
    for wrong in (
        ["1", "2", "3", "2"],
        ["2", "1", "3"],
        ["1", "3"],
        ["1", "2"],
        ["1", "2", "3", "4"],
    ):
        with pytest.raises(AssertionError):
            check_run(dataclasses.replace(result, executed=wrong), nodes, workflow)


@pytest.mark.slow
@every_kind
@MANY
@given(data=st.data())
def test_ten_thousand_random_graphs(kind: str, data: st.DataObject) -> None:
    run(data.draw(EVERY_KIND[kind]))
