"""Validation: the host's documented cases with the same JSON, cycles, depth, and random graphs."""

from __future__ import annotations

import contextlib
import time
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from multilingual_diffusion.pipeline_core.errors import UnknownName
from multilingual_diffusion.pipeline_core.workflow import (
    InvalidWorkflow,
    Validation,
    parse_api,
    validate,
)


def node_class(
    required: dict[str, Any] | None = None,
    returns: tuple[Any, ...] = ("INT",),
    optional: dict[str, Any] | None = None,
    **attributes: Any,
) -> type:
    spec = {"required": required or {}, "optional": optional or {}}
    body = {"INPUT_TYPES": classmethod(lambda cls: spec), "RETURN_TYPES": returns, **attributes}
    return type("Node", (), body)


class AnyType(str):
    """How packs write a type that takes everything."""

    def __ne__(self, other: object) -> bool:
        return False

    __hash__ = str.__hash__


LONG = [f"model {number}" for number in range(21)]
CLASSES = {
    "Value": node_class({"value": ("INT", {"default": 1, "min": 0, "max": 4})}),
    "Text": node_class({"text": ("STRING", {})}, ("STRING",)),
    "Float": node_class({"x": ("FLOAT", {"min": 0.0, "max": 1.0})}, ("FLOAT",)),
    "Rounded": node_class({"x": ("FLOAT", {"min": 0.0, "max": 1.0})}),
    "Flag": node_class({"on": ("BOOLEAN", {})}, ("BOOLEAN",)),
    "Mode": node_class({"mode": (["x", "y"],)}, (["x", "y"],)),
    "NewMode": node_class({"mode": ("COMBO", {"options": ["x", "y"]})}),
    "Remote": node_class({"mode": ("COMBO", {"options": [], "remote_combo": {"route": "/x"}})}),
    "Many": node_class({"mode": (["x", "y"], {"multiselect": True})}),
    "Long": node_class({"mode": (LONG,)}),
    "Wide": node_class({"value": ("INT,FLOAT", {})}),
    "Foo": node_class({"foo": ("FOO", {})}, ("FOO",)),
    "Any": node_class({"any": (AnyType("*"), {})}),
    "Show": node_class({"value": ("INT", {})}, (), OUTPUT_NODE=True),
    "ShowTwo": node_class(
        {"value": ("INT", {})}, (), optional={"text": ("STRING", {})}, OUTPUT_NODE=True
    ),
    "Custom": node_class(
        {"a": ("INT", {"max": 4}), "b": ("INT", {"max": 4})},
        VALIDATE_INPUTS=classmethod(lambda cls, a: True if a == 9 else f"a is {a}"),
    ),
    "Refuses": node_class({}, VALIDATE_INPUTS=classmethod(lambda cls, **kwargs: False)),
    "Typed": node_class(
        {"a": ("INT", {})},
        VALIDATE_INPUTS=classmethod(
            lambda cls, input_types: input_types == {"a": "FLOAT"} or f"got {input_types}"
        ),
    ),
    "Raises": node_class({"a": ("INT", {})}, VALIDATE_INPUTS=classmethod(lambda cls, a: 1 / 0)),
}


def graph(**nodes: tuple[Any, ...]) -> dict[str, Any]:
    """API format from id=(class, inputs)."""
    return {
        key.lstrip("n"): {"class_type": kind, "inputs": inputs}
        for key, (kind, inputs) in nodes.items()
    }


def check(data: Any, **options: Any) -> Validation:
    return validate(parse_api(data), CLASSES, **options)


def refusal(data: Any) -> InvalidWorkflow:
    with pytest.raises(InvalidWorkflow) as caught:
        check(data)
    return caught.value


def node_error(kind: str, inputs: dict[str, Any], key: str = "1") -> dict[str, Any]:
    """The only error of a node `1` of this class that feeds an output."""
    entry = refusal(graph(n1=(kind, inputs), n2=("Show", {"value": ["1", 0]}))).node_errors[key]
    assert entry["class_type"] == kind and entry["dependent_outputs"] == ["2"]
    (error,) = entry["errors"]
    return error


VALUE = ["INT", {"default": 1, "min": 0, "max": 4}]


def test_required_input_missing() -> None:
    assert node_error("Value", {}) == {
        "type": "required_input_missing",
        "message": "Required input is missing",
        "details": "value",
        "extra_info": {"input_name": "value"},
    }


@pytest.mark.parametrize("link", [["1"], [], ["1", 0, 0], [1, 0], ["1", "0"], ["1", 0.5]])
def test_bad_linked_input(link: list[Any]) -> None:
    assert node_error("Value", {"value": link}) == {
        "type": "bad_linked_input",
        "message": "Bad linked input, must be a length-2 list of [node_id, slot_index]",
        "details": "value",
        "extra_info": {"input_name": "value", "input_config": VALUE, "received_value": link},
    }


def test_nothing_is_checked_behind_a_link_of_another_type() -> None:
    data = graph(
        n1=("Text", {}), n2=("Value", {"value": ["1", 0]}), n3=("Show", {"value": ["2", 0]})
    )
    assert list(refusal(data).node_errors) == ["2"]  # `1` lacks its text


def test_return_type_mismatch() -> None:
    data = graph(n1=("Text", {"text": "x"}), n2=("Show", {"value": ["1", 0]}))
    found = refusal(data)
    assert found.node_errors == {
        "2": {
            "errors": [
                {
                    "type": "return_type_mismatch",
                    "message": "Return type mismatch between linked nodes",
                    "details": "value, received_type(STRING) mismatch input_type(INT)",
                    "extra_info": {
                        "input_name": "value",
                        "input_config": ["INT", {}],
                        "received_type": "STRING",
                        "linked_node": ["1", 0],
                    },
                }
            ],
            "dependent_outputs": ["2"],
            "class_type": "Show",
        }
    }
    assert found.error == {
        "type": "prompt_outputs_failed_validation",
        "message": "Prompt outputs failed validation",
        "details": "Return type mismatch between linked nodes: "
        "value, received_type(STRING) mismatch input_type(INT)",
        "extra_info": {},
    }


def test_invalid_input_type() -> None:
    said = "invalid literal for int() with base 10: 'abc'"
    assert node_error("Value", {"value": "abc"}) == {
        "type": "invalid_input_type",
        "message": "Failed to convert an input value to a INT value",
        "details": f"value, abc, {said}",
        "extra_info": {
            "input_name": "value",
            "input_config": VALUE,
            "received_value": "abc",
            "exception_message": said,
        },
    }


@pytest.mark.parametrize("value", [None, {}, float("inf"), 10**400, "9" * 5000])
def test_what_no_number_can_be_made_of(value: Any) -> None:
    kind = "Rounded" if value != float("inf") else "Value"
    if value == "9" * 5000:
        kind = "Value"
    name = "x" if kind == "Rounded" else "value"
    assert node_error(kind, {name: value})["type"] == "invalid_input_type"


def test_value_out_of_range() -> None:
    info = {"input_name": "value", "input_config": VALUE}
    assert node_error("Value", {"value": -1}) == {
        "type": "value_smaller_than_min",
        "message": "Value -1 smaller than min of 0",
        "details": "value",
        "extra_info": {**info, "received_value": -1},
    }
    assert node_error("Value", {"value": "9"}) == {
        "type": "value_bigger_than_max",
        "message": "Value 9 bigger than max of 4",
        "details": "value",
        "extra_info": {**info, "received_value": 9},
    }
    assert node_error("Rounded", {"x": "nan"})["type"] == "value_smaller_than_min"


@pytest.mark.parametrize("kind", ["Mode", "NewMode"])
def test_value_not_in_list(kind: str) -> None:
    config: list[Any] = [["x", "y"], {}] if kind == "Mode" else ["COMBO", {"options": ["x", "y"]}]
    data = graph(n1=(kind, {"mode": "zzz"}), n2=("Any", {"any": ["1", 0]}))
    data["3"] = {"class_type": "Show", "inputs": {"value": ["2", 0]}}
    (error,) = refusal(data).node_errors["1"]["errors"]
    assert error == {
        "type": "value_not_in_list",
        "message": "Value not in list",
        "details": "mode: 'zzz' not in ['x', 'y']",
        "extra_info": {"input_name": "mode", "input_config": config, "received_value": "zzz"},
    }


def test_long_lists_are_not_sent_back_and_several_values_are_checked_each() -> None:
    error = node_error("Long", {"mode": "zzz"})
    assert error["details"] == "mode: 'zzz' not in (list of length 21)"
    assert error["extra_info"]["input_config"] is None
    error = node_error("Many", {"mode": {"__value__": ["x", "p", "q"]}})
    assert error["details"] == "mode: 'p', 'q' not in ['x', 'y']"


def test_custom_validation_failed() -> None:
    assert node_error("Custom", {"a": 1, "b": 2}) == {
        "type": "custom_validation_failed",
        "message": "Custom validation failed for node",
        "details": "a - a is 1",
        "extra_info": {"input_name": "a"},
    }
    error = node_error("Refuses", {})
    assert (error["details"], error["extra_info"]) == ("", {})


def test_custom_validation_speaks_beside_other_errors() -> None:
    data = graph(n1=("Custom", {"a": 1, "b": 9}), n2=("Show", {"value": ["1", 0]}))
    kinds = [error["type"] for error in refusal(data).node_errors["1"]["errors"]]
    assert kinds == ["value_bigger_than_max", "custom_validation_failed"]
    assert node_error("Custom", {"b": 1})["type"] == "required_input_missing"


def test_custom_validation_takes_over_its_inputs_and_types() -> None:
    good = graph(n1=("Custom", {"a": 9, "b": 2}), n2=("Show", {"value": ["1", 0]}))
    assert check(good).outputs == ["2"]
    assert node_error("Custom", {"a": 9, "b": 9})["type"] == "value_bigger_than_max"
    typed = graph(
        n1=("Float", {"x": 1}), n2=("Typed", {"a": ["1", 0]}), n3=("Show", {"value": ["2", 0]})
    )
    assert check(typed).outputs == ["3"]


def test_a_link_to_no_node() -> None:
    found = refusal(graph(n1=("Show", {"value": ["99", 0]})))
    (error,) = found.node_errors["1"]["errors"]
    assert error["type"] == "exception_during_validation"
    assert error["message"] == "Exception when validating node"
    assert error["details"] == "'99'"
    assert error["extra_info"].keys() == {"exception_type", "traceback"}
    assert error["extra_info"]["exception_type"] == "KeyError"


@pytest.mark.parametrize("slot", [1, -1, 10**30])
def test_a_wrong_slot_upstream(slot: int) -> None:
    data = graph(
        n1=("Value", {"value": 1}),
        n2=("Wide", {"value": ["1", slot]}),
        n3=("Show", {"value": ["2", 0]}),
    )
    (error,) = refusal(data).node_errors["2"]["errors"]
    assert error["type"] == "exception_during_inner_validation"
    assert error["message"] == "Exception when validating inner node"
    info = error["extra_info"]
    assert info["exception_type"] == "IndexError" and info["linked_node"] == ["2", 0]
    assert info["input_name"] == "value" and info["input_config"] == ["INT", {}]


def test_validate_inputs_that_raises() -> None:
    error = node_error("Raises", {"a": 1})
    assert error["type"] == "exception_during_inner_validation"
    assert error["details"] == "division by zero"
    assert error["extra_info"]["traceback"]


def test_dependency_cycle() -> None:
    data = graph(
        n1=("Wide", {"value": ["2", 0]}),
        n2=("Wide", {"value": ["1", 0]}),
        n3=("Show", {"value": ["1", 0]}),
    )
    found = refusal(data)
    assert found.node_errors.keys() == {"1", "2"}
    for key in "12":
        assert found.node_errors[key]["errors"] == [
            {
                "type": "dependency_cycle",
                "message": "Dependency cycle detected",
                "details": "1 (Wide) -> 2 (Wide) -> 1 (Wide)",
                "extra_info": {"node_id": key, "cycle_nodes": ["1", "2"]},
            }
        ]


def test_missing_node_type() -> None:
    titled = {"1": {"class_type": "Nope", "inputs": {}, "_meta": {"title": "My node"}}}
    assert refusal(titled).to_json() == {
        "error": {
            "type": "missing_node_type",
            "message": "Node 'My node' not found. The custom node may not be installed.",
            "details": "Node ID '#1'",
            "extra_info": {"node_id": "1", "class_type": "Nope", "node_title": "My node"},
        },
        "node_errors": {},
    }
    assert refusal({"7": {"inputs": {}}}).error == {
        "type": "missing_node_type",
        "message": "Node 'ID #7' has no class_type. "
        "The workflow may be corrupted or a custom node is missing.",
        "details": "Node ID '#7'",
        "extra_info": {"node_id": "7", "class_type": None, "node_title": None},
    }
    untitled = refusal({"7": {"class_type": "Nope", "inputs": {}}}).error
    assert untitled["extra_info"]["node_title"] == "Nope"


def test_prompt_no_outputs() -> None:
    for data in ({}, graph(n1=("Value", {"value": 1}))):
        assert refusal(data).error == {
            "type": "prompt_no_outputs",
            "message": "Prompt has no outputs",
            "details": "",
            "extra_info": {},
        }


def test_all_errors_at_once_and_good_outputs_stay() -> None:
    data = graph(
        n1=("Value", {"value": 9}),
        n2=("ShowTwo", {"value": ["1", 0], "text": ["1"]}),
        n3=("Show", {}),
        n4=("Show", {"value": "5"}),
        n5=("Value", {"value": 99}),
    )
    found = check(data)
    assert found.outputs == ["4"]
    assert found.workflow.nodes["4"].inputs == {"value": 5}
    assert {key: len(each["errors"]) for key, each in found.node_errors.items()} == {
        "1": 1, "2": 1, "3": 1,
    }  # fmt: skip
    assert found.node_errors["1"]["dependent_outputs"] == ["2"]


def test_conversions_of_the_host() -> None:
    data = graph(
        n1=("Flag", {"on": "false"}), n2=("Text", {"text": 5}), n3=("Float", {"x": "0.5"}),
        n4=("Foo", {"foo": 5}), n5=("Show", {"value": "4", "unknown": ["99", 3]}),
    )  # fmt: skip
    for only, wanted in (("1", {"on": True}), ("2", {"text": "5"}), ("3", {"x": 0.5}),
                         ("4", {"foo": 5}), ("5", {"value": 4, "unknown": ("99", 3)})):  # fmt: skip
        found = check(data, only=only)
        assert found.outputs == [only] and found.workflow.nodes[only].inputs == wanted
    with pytest.raises(UnknownName, match="node '77'"):
        check(data, only="77")


def test_values_that_only_a_browser_can_list_are_not_checked() -> None:
    flow = graph(n1=("Remote", {"mode": "any"}), n2=("Show", {"value": ["1", 0]}))
    assert check(flow).outputs == ["2"]


def chain(length: int) -> dict[str, Any]:
    data = graph(n0=("Value", {"value": 1}))
    for number in range(1, length):
        data[str(number)] = {"class_type": "Wide", "inputs": {"value": [str(number - 1), 0]}}
    data["out"] = {"class_type": "Show", "inputs": {"value": [str(length - 1), 0]}}
    return data


def seconds(data: dict[str, Any]) -> float:
    workflow = parse_api(data)
    start = time.process_time()  # of this process: a busy machine is not our cost
    with contextlib.suppress(InvalidWorkflow):
        validate(workflow, CLASSES)
    return time.process_time() - start


def test_long_chains_cost_linear_time_and_no_stack() -> None:
    assert seconds(chain(10_000)) < 1
    data = chain(10_000)
    data["0"] = {"class_type": "Wide", "inputs": {"value": ["9999", 0]}}
    found = refusal(data).node_errors
    assert len(found) == 1 and "9950 more" in str(found)
    assert seconds(data) < 1


def test_many_cycles_on_a_long_way_cost_linear_time() -> None:
    data = chain(5_000)
    for number in range(1, 4_999):
        data[str(number)]["inputs"]["more"] = [str(number + 1), 0]
    classes = {**CLASSES, "Wide": node_class({"value": ("INT",), "more": ("INT",)})}
    start = time.perf_counter()
    with pytest.raises(InvalidWorkflow):
        validate(parse_api(data), classes)
    assert time.perf_counter() - start < 10  # 0.4 on an idle core


LINKS = st.tuples(st.sampled_from([*"012345", "99"]), st.integers(-1, 2)).map(list)
VALUES = st.one_of(
    LINKS, LINKS, st.integers(-5, 9), st.text(max_size=3), st.none(), st.booleans(),
    st.floats(), st.lists(st.integers(), max_size=3), st.just({"__value__": ["x"]}), st.just({}),
)  # fmt: skip
NODES = st.fixed_dictionaries(
    {
        "class_type": st.sampled_from(sorted(CLASSES)),
        "inputs": st.dictionaries(
            st.sampled_from(["value", "text", "mode", "a", "b", "any", "on", "x", "foo", "z"]),
            VALUES,
        ),
    }
)
GRAPHS = st.dictionaries(st.sampled_from("012345"), NODES, max_size=6)


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(GRAPHS)
def test_random_graphs_validate_or_are_refused(data: dict[str, Any]) -> None:
    try:
        found = check(data)
    except InvalidWorkflow as exc:
        assert exc.error["type"] in {"prompt_no_outputs", "prompt_outputs_failed_validation"}
        if exc.error["type"] != "prompt_no_outputs":
            assert exc.node_errors
        return
    assert found.outputs
