"""Execution: the host's semantics one by one, caching, events, speed, and random graphs."""

from __future__ import annotations

import asyncio
import io
import json
import math
import threading
import time
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from multilingual_diffusion.pipeline_core.errors import Cancelled, InvalidRequest
from multilingual_diffusion.pipeline_core.workflow import (
    ExecutionBlocker,
    Executor,
    InvalidWorkflow,
    NodeFailed,
    RunResult,
    Workflow,
    json_lines,
    parse_api,
    report_progress,
)

ANY = "*"


def node_class(
    function: Any,
    required: dict[str, Any] | None = None,
    returns: tuple[Any, ...] = ("INT",),
    hidden: dict[str, str] | None = None,
    **attributes: Any,
) -> type:
    spec = {"required": required or {}, "hidden": hidden or {}}
    body = {
        "INPUT_TYPES": classmethod(lambda cls: spec),
        "RETURN_TYPES": returns,
        "FUNCTION": "go",
        "go": function,
        **attributes,
    }
    return type("Node", (), body)


def show(self: Any, value: Any) -> dict[str, Any]:
    return {"ui": {"shown": [value]}}


def fail(self: Any, value: Any) -> Any:
    raise OSError(f"no {value} today")


def work(self: Any, value: Any) -> Any:
    for step in range(3):
        report_progress(step + 1, 3)
    return (value,)


INT = {"value": ("INT", {"default": 0})}
TWO = {"a": ("INT", {}), "b": ("INT", {})}
CLASSES: dict[str, type] = {
    "Value": node_class(lambda self, value: (value,), INT),
    "Add": node_class(lambda self, a, b: (a + b,), TWO),
    "Show": node_class(show, {"value": (ANY, {})}, (), OUTPUT_NODE=True),
    "Fail": node_class(fail, INT),
    "Work": node_class(work, INT),
}


def graph(**nodes: tuple[Any, ...]) -> Workflow:
    """A workflow from n<id>=(class, inputs)."""
    return parse_api(
        {key[1:]: {"class_type": kind, "inputs": inputs} for key, (kind, inputs) in nodes.items()}
    )


def run(workflow: Workflow, **classes: Any) -> RunResult:
    return Executor({**CLASSES, **classes}).run(workflow)


def shown(result: RunResult, key: str = "9") -> Any:
    return result.ui[key]["shown"]


SUM = graph(
    n1=("Value", {"value": 1}), n2=("Value", {"value": 2}),
    n3=("Add", {"a": ["1", 0], "b": ["2", 0]}), n9=("Show", {"value": ["3", 0]}),
)  # fmt: skip


def test_a_run_and_its_result() -> None:
    result = run(SUM)
    assert shown(result) == [3]
    assert result.executed == ["1", "2", "3", "9"] and result.cached == []
    assert result.outputs == {"9": []}
    assert result.node_errors == {}


def test_only_one_node() -> None:
    result = Executor(CLASSES).run(SUM, only="3")
    assert result.outputs == {"3": [[3]]} and result.executed == ["1", "2", "3"]


def test_outputs_with_errors_are_left_out() -> None:
    result = run(graph(n1=("Show", {"value": 1}), n2=("Show", {})))
    assert result.executed == ["1"] and result.node_errors.keys() == {"2"}


# -- caching


def test_a_second_run_executes_nothing() -> None:
    executor = Executor(CLASSES)
    executor.run(SUM)
    again = executor.run(parse_api(json.loads(json.dumps(api(SUM)))))
    assert again.executed == [] and again.cached == ["9"] and shown(again) == [3]


def api(workflow: Workflow) -> dict[str, Any]:
    return {
        key: {"class_type": node.class_type, "inputs": dict(node.inputs)}
        for key, node in workflow.nodes.items()
    }


def test_only_what_changed_runs_again_and_only_that_is_hashed() -> None:
    executor = Executor(CLASSES)
    executor.run(SUM)
    hashed = executor._memory.signatures.hashed
    assert hashed == 4
    changed = executor.run(SUM.with_input("2", "value", 5))
    assert changed.executed == ["2", "3", "9"] and shown(changed) == [6]
    assert executor._memory.signatures.hashed - hashed == 3


def test_one_is_not_true_and_not_one_point_zero() -> None:
    executor = Executor(CLASSES)
    for value in (1, 1.0, True, "1"):
        result = executor.run(graph(n9=("Show", {"value": value})))
        assert result.executed == ["9"] and repr(shown(result)) == repr([value])


def test_ids_do_not_matter_unless_the_node_asks() -> None:
    executor = Executor(
        {
            **CLASSES,
            "Id": node_class(lambda self, my: (my,), {}, ("STRING",), hidden={"my": "UNIQUE_ID"}),
            "Dice": node_class(lambda self: (4,), {}, NOT_IDEMPOTENT=True),
        }
    )
    executor.run(graph(n1=("Value", {"value": 1}), n9=("Show", {"value": ["1", 0]})))
    moved = executor.run(graph(n5=("Value", {"value": 1}), n6=("Show", {"value": ["5", 0]})))
    assert moved.executed == [] and shown(moved, "6") == [1]
    ids = graph(
        n1=("Id", {}), n2=("Id", {}), n3=("Dice", {}), n4=("Dice", {}),
        n5=("Show", {"value": ["1", 0]}), n6=("Show", {"value": ["2", 0]}),
        n7=("Show", {"value": ["3", 0]}), n8=("Show", {"value": ["4", 0]}),
    )  # fmt: skip
    result = executor.run(ids)
    assert shown(result, "5") == ["1"] and shown(result, "6") == ["2"]
    assert {"3", "4"} <= set(result.executed)


def test_is_changed() -> None:
    answer: list[Any] = [1]
    asked: list[dict[str, Any]] = []

    def is_changed(cls: type, **inputs: Any) -> Any:
        asked.append(inputs)
        return answer[0]() if callable(answer[0]) else answer[0]

    watched = node_class(lambda self, a, b: (a,), TWO, IS_CHANGED=classmethod(is_changed))
    executor = Executor({**CLASSES, "Watched": watched})
    flow = graph(
        n1=("Value", {"value": 1}), n2=("Watched", {"a": ["1", 0], "b": 7}),
        n9=("Show", {"value": ["2", 0]}),
    )  # fmt: skip
    executor.run(flow)
    assert asked == [{"a": None, "b": 7}]
    for said, runs in ((1, False), (True, True), (True, False), (b"x", True), (math.nan, True),
                       (math.nan, True), (lambda: 1 / 0, True), (object(), True), (2, True),
                       (2, False)):  # fmt: skip
        answer[0] = said
        assert executor.run(flow).executed == (["2", "9"] if runs else []), said


def test_constants_that_cannot_be_compared_run_every_time() -> None:
    executor = Executor(CLASSES)
    flow = SUM.with_input("9", "value", object())
    assert executor.run(flow).executed == ["9"]
    assert executor.run(flow).executed == ["9"]


@pytest.mark.parametrize(("limit", "runs_again"), [(None, 4), (8, 0), (0, 4)])
def test_cache_limits(limit: int | None, runs_again: int) -> None:
    executor = Executor(CLASSES, cache_limit=limit)
    executor.run(SUM)
    executor.run(graph(n1=("Value", {"value": 77}), n9=("Show", {"value": ["1", 0]})))
    assert len(executor.run(SUM).executed) == runs_again


def test_the_least_recently_used_result_goes_first() -> None:
    executor = Executor(CLASSES, cache_limit=2)
    for value in (1, 2, 1, 3):  # 2 is the oldest when 3 comes
        executor.run(graph(n9=("Show", {"value": value})))
    ran = [bool(executor.run(graph(n9=("Show", {"value": v}))).executed) for v in (1, 3, 2)]
    assert ran == [False, False, True]
    with pytest.raises(InvalidRequest, match="cache limit -1"):
        Executor(CLASSES, cache_limit=-1)


def test_instances_stay_with_their_node() -> None:
    def count(self: Any, value: int) -> Any:
        self.calls = getattr(self, "calls", 0) + 1
        return (self.calls,)

    executor = Executor({**CLASSES, "Count": node_class(count, INT)})
    flow = graph(n1=("Count", {"value": 1}), n9=("Show", {"value": ["1", 0]}))
    assert shown(executor.run(flow)) == [1]
    assert shown(executor.run(flow.with_input("1", "value", 2))) == [2]
    executor.run(SUM)
    assert shown(executor.run(flow)) == [1]


# -- lazy inputs, lists, blockers


def lazy_switch(check: bool = True) -> type:
    def status(self: Any, on: bool, yes: Any = None, no: Any = None) -> list[str]:
        return ["yes"] if on else ["no"]

    spec = {"on": ("BOOLEAN", {}), "yes": ("INT", {"lazy": True}), "no": ("INT", {"lazy": True})}
    more = {"check_lazy_status": status} if check else {}
    return node_class(lambda self, on, yes=None, no=None: ((yes, no),), spec, (ANY,), **more)


SWITCH = graph(
    n1=("Value", {"value": 1}), n2=("Value", {"value": 2}),
    n3=("Switch", {"on": True, "yes": ["1", 0], "no": ["2", 0]}),
    n9=("Show", {"value": ["3", 0]}),
)  # fmt: skip


def test_lazy_inputs_run_only_when_asked_for() -> None:
    result = run(SWITCH, Switch=lazy_switch())
    assert result.executed == ["1", "3", "9"] and shown(result) == [(1, None)]
    other = run(SWITCH.with_input("3", "on", False), Switch=lazy_switch())
    assert other.executed == ["2", "3", "9"] and shown(other) == [(None, 2)]
    assert shown(run(SWITCH, Switch=lazy_switch(check=False))) == [(None, None)]


def test_lists_are_mapped_and_the_last_value_is_repeated() -> None:
    numbers = node_class(lambda self, value: (list(range(value)),), INT, OUTPUT_IS_LIST=(True,))
    total = node_class(lambda self, value: (sum(value),), INT, INPUT_IS_LIST=True)
    flow = graph(
        n1=("Numbers", {"value": 4}), n2=("Numbers", {"value": 2}),
        n3=("Add", {"a": ["1", 0], "b": ["2", 0]}), n4=("Total", {"value": ["3", 0]}),
        n5=("Total", {"value": 7}),
        n6=("Show", {"value": ["3", 0]}), n7=("Show", {"value": ["4", 0]}),
        n8=("Show", {"value": ["5", 0]}),
    )  # fmt: skip
    result = run(flow, Numbers=numbers, Total=total)
    assert shown(result, "6") == [0, 2, 3, 4]
    assert shown(result, "7") == [9] and shown(result, "8") == [7]


def test_an_empty_list_is_named() -> None:
    none = node_class(lambda self: ([],), {}, OUTPUT_IS_LIST=(True,))
    flow = graph(n1=("None", {}), n2=("Show", {"value": ["1", 0]}))
    with pytest.raises(NodeFailed, match=r"node 2 \(Show\) failed: input 'value' got an empty"):
        run(flow, **{"None": none})


def test_blockers() -> None:
    events: list[Any] = []
    gate = node_class(lambda self, value: (value, ExecutionBlocker("closed")), INT, ("INT", "INT"))
    flow = graph(
        n1=("Gate", {"value": 1}), n2=("Add", {"a": ["1", 0], "b": ["1", 1]}),
        n3=("Show", {"value": ["2", 0]}), n9=("Show", {"value": ["1", 0]}),
    )  # fmt: skip
    result = Executor({**CLASSES, "Gate": gate}, on_event=events.append).run(flow)
    assert result.ui.keys() == {"9"} and shown(result) == [1]
    told = [event["data"] for event in events if event["type"] == "execution_error"]
    assert [each["node_id"] for each in told] == ["2"]
    assert told[0]["exception_message"] == "Execution Blocked: closed"
    assert events[-1]["type"] == "execution_success"
    whole = node_class(lambda self, value: ExecutionBlocker(), INT)
    assert not run(
        graph(n1=("Whole", {"value": 1}), n9=("Show", {"value": ["1", 0]})), Whole=whole
    ).ui


# -- hidden inputs


def test_hidden_inputs() -> None:
    kinds = {"my": "UNIQUE_ID", "prompt": "PROMPT", "png": "EXTRA_PNGINFO", "dyn": "DYNPROMPT",
             "token": "AUTH_TOKEN_COMFY_ORG"}  # fmt: skip
    seen: dict[str, Any] = {}

    def look(self: Any, **hidden: Any) -> Any:
        seen.update(hidden)
        return ()

    peek = node_class(look, {}, (), kinds, OUTPUT_NODE=True)
    flow = graph(n7=("Peek", {}))
    executor = Executor({"Peek": peek})
    executor.run(Workflow(flow.nodes, {"nodes": []}))
    assert seen["my"] == "7" and seen["token"] is None
    assert seen["prompt"]["7"]["class_type"] == "Peek"
    assert seen["png"] == {"workflow": {"nodes": []}}
    assert seen["dyn"].get_node("7")["inputs"] == {} and seen["dyn"].has_node("7")
    assert seen["dyn"].all_node_ids() == {"7"}
    assert seen["dyn"].get_original_prompt() == seen["prompt"]
    Executor({"Peek": peek}).run(flow, extra_pnginfo={"other": 1})
    assert seen["png"] == {"other": 1}


# -- expansion


def count_down(self: Any, value: int, my: str) -> Any:
    """Expand to itself until zero: depth in nodes, not in the stack."""
    if value == 0:
        return (100,)
    expand = {f"{my}.x": {"class_type": "Down", "inputs": {"value": value - 1}}}
    return {"result": ([f"{my}.x", 0],), "expand": expand}


DOWN = node_class(count_down, INT, hidden={"my": "UNIQUE_ID"})


def test_expansion_nested_and_cached() -> None:
    executor = Executor({**CLASSES, "Down": DOWN})
    flow = graph(n1=("Down", {"value": 300}), n9=("Show", {"value": ["1", 0]}))
    assert shown(executor.run(flow)) == [100]
    assert executor.run(flow).executed == []


def test_expansion_takes_from_the_graph_shows_and_mixes_values() -> None:
    graphs: list[Any] = []

    def grow(self: Any, value: int, my: str, dyn: Any) -> Any:
        graphs.append(dyn)
        nodes = {
            f"{my}.a": {"class_type": "Add", "inputs": {"a": ["1", 0], "b": 10}},
            f"{my}.s": {"class_type": "Show", "inputs": {"value": [f"{my}.a", 0]}},
        }
        return {"result": ([f"{my}.a", 0], "plain"), "expand": nodes, "ui": {"grown": [value]}}

    events: list[Any] = []
    kinds = {"my": "UNIQUE_ID", "dyn": "DYNPROMPT"}
    executor = Executor(
        {**CLASSES, "Grow": node_class(grow, INT, ("INT", "STRING"), kinds)},
        on_event=events.append,
    )
    result = executor.run(
        graph(
            n1=("Value", {"value": 5}), n2=("Grow", {"value": 1}),
            n8=("Show", {"value": ["2", 1]}), n9=("Show", {"value": ["2", 0]}),
        )
    )  # fmt: skip
    assert shown(result) == [15] and shown(result, "8") == ["plain"]
    assert shown(result, "2.s") == [15] and result.ui["2"] == {"grown": [1]}
    told = [e["data"] for e in events if e["type"] == "executed" and e["data"]["node"] == "2.s"]
    assert told[0]["display_node"] == "2"
    assert [graphs[0].get_parent_node_id(key) for key in ("2.s", "2")] == ["2", None]
    assert [graphs[0].get_real_node_id(key) for key in ("2.s", "2")] == ["2", "2"]


@pytest.mark.parametrize(
    ("nodes", "result", "message"),
    [
        ({"x": {"class_type": "Nope", "inputs": {}}}, (["x", 0],), "unknown class 'Nope'"),
        ({"1": {"class_type": "Value", "inputs": {"value": 1}}}, (["1", 0],), "there already"),
        ({"x": {"class_type": "Value", "inputs": {"value": ["y", 0]}}}, (["x", 0],), "not there"),
        ({"x": {"class_type": "Value", "inputs": {"value": 1}}}, (["x", 3],), "which has 1"),
        ({"x": 5}, (["x", 0],), "no node"),
        (
            {
                "x": {"class_type": "Add", "inputs": {"a": ["y", 0], "b": 1}},
                "y": {"class_type": "Add", "inputs": {"a": ["x", 0], "b": 1}},
            },
            (["x", 0],),
            "wait for each other",
        ),
        ({"x": {"class_type": "Add", "inputs": {"a": ["1", 0], "b": 1}}}, (["x", 0],), "wait"),
    ],
)
def test_broken_expansions_name_the_node(
    nodes: dict[str, Any], result: tuple[Any, ...], message: str
) -> None:
    grow = node_class(lambda self, value: {"result": result, "expand": nodes}, INT)
    flow = graph(n1=("Grow", {"value": 1}), n9=("Show", {"value": ["1", 0]}))
    with pytest.raises(NodeFailed, match=message):
        run(flow, Grow=grow)


def test_a_failure_inside_an_expansion_names_both_nodes() -> None:
    events: list[Any] = []
    nodes = {"x": {"class_type": "Fail", "inputs": {"value": 7}}}
    grow = node_class(lambda self, value: {"result": (["x", 0],), "expand": nodes}, INT)
    flow = graph(n1=("Grow", {"value": 1}), n9=("Show", {"value": ["1", 0]}))
    with pytest.raises(NodeFailed, match=r"node x \(Fail\) failed: OSError: no 7 today"):
        Executor({**CLASSES, "Grow": grow}, on_event=events.append).run(flow)
    told = events[-1]["data"]  # the browser knows only nodes of the workflow
    assert (told["node_id"], told["node_type"]) == ("1", "Grow")


# -- async nodes


def test_async_nodes_go_side_by_side() -> None:
    async def sleep(self: Any, value: int) -> Any:
        await asyncio.sleep(0.2)
        report_progress(1, 1)
        return (value,)

    executor = Executor({**CLASSES, "Sleep": node_class(sleep, INT)})
    flow = graph(
        n1=("Sleep", {"value": 1}), n2=("Sleep", {"value": 2}), n3=("Sleep", {"value": 3}),
        n4=("Add", {"a": ["1", 0], "b": ["2", 0]}), n5=("Add", {"a": ["3", 0], "b": ["4", 0]}),
        n9=("Show", {"value": ["5", 0]}),
    )  # fmt: skip
    start = time.perf_counter()
    assert shown(executor.run(flow)) == [6]
    assert time.perf_counter() - start < 0.5

    async def inside_a_loop() -> RunResult:
        return executor.run(flow.with_input("1", "value", 5))

    assert shown(asyncio.run(inside_a_loop())) == [10]


def test_async_nodes_that_fail() -> None:
    async def bad(self: Any, value: int) -> Any:
        raise OSError("bad")

    async def gone(self: Any, value: int) -> Any:
        raise asyncio.CancelledError

    for function, reason in ((bad, "OSError: bad"), (gone, "was cancelled")):
        flow = graph(n1=("Bad", {"value": 1}), n9=("Show", {"value": ["1", 0]}))
        with pytest.raises(NodeFailed, match=reason):
            run(flow, Bad=node_class(function, INT))


# -- failures, interrupts, events


def test_a_failing_node_is_named_and_the_rest_stays_cached() -> None:
    events: list[Any] = []
    executor = Executor(CLASSES, on_event=events.append)
    data = {
        "1": {"class_type": "Value", "inputs": {"value": 1}},
        "2": {"class_type": "Fail", "inputs": {"value": ["1", 0]}, "_meta": {"title": "Oh no"}},
        "9": {"class_type": "Show", "inputs": {"value": ["2", 0]}},
    }
    with pytest.raises(NodeFailed) as caught:
        executor.run(parse_api(data))
    assert str(caught.value) == "node 2 (Fail, 'Oh no') failed: OSError: no 1 today"
    assert (caught.value.node_id, caught.value.class_type, caught.value.title) == (
        "2", "Fail", "Oh no",
    )  # fmt: skip
    assert isinstance(caught.value.__cause__, OSError)
    told = events[-1]
    assert told["type"] == "execution_error" and told["data"]["exception_type"] == "OSError"
    assert told["data"]["executed"] == ["1"] and told["data"]["traceback"]
    data["2"] = {"class_type": "Work", "inputs": {"value": ["1", 0]}}
    assert executor.run(parse_api(data)).executed == ["2", "9"]


def test_messages_are_one_line_and_use_the_display_name() -> None:
    def tell(self: Any, value: int) -> Any:
        raise ValueError("first\n  second")

    classes = {**CLASSES, "Bad": node_class(tell, INT)}
    flow = graph(n1=("Bad", {"value": 1}), n9=("Show", {"value": ["1", 0]}))
    with pytest.raises(NodeFailed) as caught:
        Executor(classes, titles={"Bad": "A bad node"}).run(flow)
    assert str(caught.value) == "node 1 (Bad, 'A bad node') failed: ValueError: first second"


@pytest.mark.parametrize("returned", [None, 5, "text", {"result": 5}, object()])
def test_answers_of_the_wrong_shape_are_named(returned: Any) -> None:
    flow = graph(n1=("Bad", {"value": 1}), n9=("Show", {"value": ["1", 0]}))
    with pytest.raises(NodeFailed, match=r"node 1 \(Bad\) failed: it returned"):
        run(flow, Bad=node_class(lambda self, value: returned, INT))
    with pytest.raises(NodeFailed, match="gave 0 results, not output 0"):
        run(flow, Bad=node_class(lambda self, value: {"ui": {}}, INT))


def test_events_in_order_and_as_json_lines() -> None:
    stream = io.StringIO()
    executor = Executor(CLASSES, on_event=json_lines(stream))
    flow = graph(n1=("Work", {"value": 1}), n9=("Show", {"value": ["1", 0]}))
    result = executor.run(flow, prompt_id="my run")
    events = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [each["type"] for each in events] == [
        "execution_start", "execution_cached", "executing", "progress", "progress", "progress",
        "executing", "executed", "executing", "execution_success",
    ]  # fmt: skip
    assert {each["data"]["prompt_id"] for each in events} == {"my run"} == {result.prompt_id}
    assert events[5]["data"] == {"value": 3, "max": 3, "node": "1", "prompt_id": "my run"}
    assert events[7]["data"]["output"] == {"shown": [1]}
    assert events[8]["data"]["node"] is None
    stream.truncate(0)
    executor.run(flow)
    again = [json.loads(line.strip("\0")) for line in stream.getvalue().splitlines()]
    assert [each["type"] for each in again] == [
        "execution_start", "execution_cached", "executed", "executing", "execution_success",
    ]  # fmt: skip
    assert again[1]["data"]["nodes"] == ["1", "9"]
    report_progress(1, 2)  # outside of a run: nothing


def test_interrupt_stops_in_a_node_and_between_nodes() -> None:
    events: list[Any] = []

    def stop_at(kind: str) -> Any:
        def listen(event: dict[str, Any]) -> None:
            events.append(event["type"])
            if event["type"] == kind:
                executor.interrupt()

        return listen

    flow = graph(n1=("Work", {"value": 1}), n9=("Show", {"value": ["1", 0]}))
    for kind in ("progress", "executing", "execution_start"):
        events.clear()
        executor = Executor(CLASSES, on_event=stop_at(kind))
        with pytest.raises(Cancelled):
            executor.run(flow)
        assert events[-1] == "execution_interrupted" and "executed" not in events
        executor._on_event = None
        assert shown(executor.run(flow)) == [1]


def test_interrupt_cancels_async_nodes() -> None:
    async def forever(self: Any, value: int) -> Any:
        await asyncio.sleep(60)

    executor = Executor({**CLASSES, "Forever": node_class(forever, INT)})
    timer = threading.Timer(0.1, executor.interrupt)
    timer.start()
    start = time.perf_counter()
    with pytest.raises(Cancelled):
        executor.run(graph(n1=("Forever", {"value": 1}), n9=("Show", {"value": ["1", 0]})))
    assert time.perf_counter() - start < 5


def test_threads_wait_for_each_other() -> None:
    running: list[int] = []

    def alone(self: Any, value: int) -> Any:
        running.append(1)
        assert len(running) == 1
        time.sleep(0.002)
        running.pop()
        return (value * 10,)

    executor = Executor({**CLASSES, "Alone": node_class(alone, INT)})
    results: dict[int, Any] = {}

    def go(offset: int) -> None:
        for value in range(offset, offset + 10):
            flow = graph(n1=("Alone", {"value": value}), n9=("Show", {"value": ["1", 0]}))
            results[value] = shown(executor.run(flow))

    threads = [threading.Thread(target=go, args=(offset,)) for offset in (0, 10, 20, 30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert results == {value: [value * 10] for value in range(40)}


# -- speed and depth: bounds are five times what a busy machine of two cores needs


def chain(length: int) -> Workflow:
    nodes: dict[str, Any] = {"n0": ("Value", {"value": 1})}
    for number in range(1, length):
        nodes[f"n{number}"] = ("Add", {"a": [str(number - 1), 0], "b": 1})
    return graph(**nodes, nout=("Show", {"value": [str(length - 1), 0]}))


def seconds(executor: Executor, workflow: Workflow) -> float:
    start = time.perf_counter()
    executor.run(workflow)
    return time.perf_counter() - start


def test_a_chain_of_10000_nodes() -> None:
    workflow, executor = chain(10_000), Executor(CLASSES)
    assert seconds(executor, workflow) / 10_000 < 5 * 0.2e-3
    hashed = executor._memory.signatures.hashed
    assert seconds(executor, workflow) / 10_000 < 5 * 0.1e-3
    assert executor._memory.signatures.hashed == hashed
    assert executor.run(workflow.with_input("9999", "b", 2)).executed == ["9999", "out"]
    assert executor._memory.signatures.hashed == hashed + 2


def test_time_grows_with_nodes_and_not_with_their_square() -> None:
    small, large = (
        min(seconds(Executor(CLASSES), chain(length)) for _ in range(3)) / length
        for length in (400, 4_000)
    )
    assert large < 4 * small


def test_a_fan_in_of_10000_leaves() -> None:
    wide = node_class(
        lambda self, **values: (sum(values.values()),),
        {f"v{number}": ("INT", {}) for number in range(10_000)},
    )
    leaves = {f"n{number}": ("Value", {"value": number}) for number in range(10_000)}
    links = {f"v{number}": [str(number), 0] for number in range(10_000)}
    flow = graph(**leaves, nsum=("Wide", links), nout=("Show", {"value": ["sum", 0]}))
    executor = Executor({**CLASSES, "Wide": wide})
    start = time.perf_counter()
    assert shown(executor.run(flow), "out") == [sum(range(10_000))]
    assert (time.perf_counter() - start) / 10_000 < 5 * 0.2e-3


# -- random graphs

LINKS = st.tuples(st.sampled_from([*"0123456", "99"]), st.integers(-1, 1)).map(list)
INPUTS = st.dictionaries(
    st.sampled_from(["value", "a", "b", "on", "yes", "no"]),
    st.one_of(LINKS, LINKS, LINKS, st.integers(0, 3), st.booleans(), st.text(max_size=2)),
)
NAMES = ("Value", "Add", "Show", "Show", "Work", "Down", "Switch", "Gate")
NODES = st.fixed_dictionaries({"class_type": st.sampled_from(NAMES), "inputs": INPUTS})
GRAPHS = st.dictionaries(st.sampled_from("0123456"), NODES, min_size=1, max_size=7)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(GRAPHS)
def test_random_graphs_run_every_node_once_in_order_or_are_refused(data: dict[str, Any]) -> None:
    gate = node_class(lambda self, value: (value, ExecutionBlocker()), INT, ("INT", "INT"))
    executor = Executor({**CLASSES, "Down": DOWN, "Switch": lazy_switch(), "Gate": gate})
    workflow = parse_api(data)
    try:
        result = executor.run(workflow)
    except InvalidWorkflow as exc:
        assert exc.error["type"] in {"prompt_no_outputs", "prompt_outputs_failed_validation"}
        return
    except NodeFailed as exc:  # a switch gives a pair, which Add cannot add
        assert isinstance(exc.__cause__, TypeError)
        return
    done = result.executed + result.cached
    assert len(set(done)) == len(done)
    for place, key in enumerate(done):
        for name, link in workflow.nodes[key].links() if key in workflow.nodes else ():
            known = CLASSES.get(workflow.nodes[key].class_type or "")
            if known is not None and name in known.INPUT_TYPES()["required"]:  # pyright: ignore
                assert link.node in done[:place]
    again = executor.run(workflow)
    assert again.executed == [] and again.ui.items() <= result.ui.items()
