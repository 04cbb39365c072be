"""One node against its definition: the host's checks, with the host's error JSON.

Facts: ComfyUI's documented error types (the newer, richer form). Stricter than the host in one
thing: a number that is not one (NaN) is out of every range.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from .definitions import InputDefinition, NodeDefinition, NodeType
from .failures import error_json
from .graph import Link, Workflow, WorkflowNode, unwrap
from .node_code import attempt, exception_name, format_frames

_CONVERSIONS: dict[str, Callable[[Any], Any]] = {
    "INT": int, "FLOAT": float, "STRING": str, "BOOLEAN": bool,
}  # fmt: skip
_DYNAMIC = "COMFY_"  # input types that only ComfyUI itself resolves
_LONG_LIST = 20


class NodeCheck:
    """Checks nodes of one workflow; `definitions` are those of the classes in it."""

    def __init__(self, workflow: Workflow, definitions: Mapping[str, NodeDefinition]) -> None:
        self._workflow = workflow
        self._definitions = definitions

    def run(
        self, node: WorkflowNode, definition: NodeDefinition, node_class: type | None
    ) -> tuple[list[dict[str, Any]], dict[str, Any], Exception | None]:
        """Return the errors, the inputs with constants converted, and what a link broke on."""
        errors: list[dict[str, Any]] = []
        inputs = dict(node.inputs)
        received: dict[str, NodeType] = {}
        broken: Exception | None = None
        custom = _CustomValidation(node_class)
        for name, each in definition.inputs.items():
            if name not in inputs:
                if each.required and not str(each.type).startswith(_DYNAMIC):
                    errors.append(
                        error_json(
                            "required_input_missing", "Required input is missing", name,
                            input_name=name,
                        )
                    )  # fmt: skip
                continue
            value = inputs[name]
            if type(value) is Link:
                try:
                    received[name] = self._received_type(value)
                except (KeyError, IndexError) as exc:
                    broken = exc
                    continue
                if not custom.takes_types and not types_match(received[name], each.type):
                    errors.append(_mismatch(each, received[name], value))
                continue
            error, inputs[name] = _check_constant(each, value, checked=not custom.takes(name))
            errors += [error] if error else []
        wrong = [error["extra_info"]["input_name"] for error in errors]
        if broken is None and not any(custom.takes(name) for name in wrong):
            refusals, broken = custom.run(definition, inputs, received)
            errors += refusals
        return errors, inputs, broken

    def _received_type(self, link: Link) -> NodeType:
        """Return the type of the output that a link names; a negative slot is no slot."""
        source = self._workflow.nodes[link.node]
        outputs = self._definitions[source.class_type or ""].outputs
        if not 0 <= link.slot < len(outputs):
            raise IndexError("tuple index out of range")
        return outputs[link.slot]


class _CustomValidation:
    """A class's VALIDATE_INPUTS: which inputs it takes over, and what it says."""

    def __init__(self, node_class: type | None) -> None:
        self._function = getattr(node_class, "VALIDATE_INPUTS", None)
        parameters = inspect.signature(self._function).parameters if self._function else {}
        self._names = set(parameters)
        kinds = {each.kind for each in parameters.values()}
        self._takes_all = inspect.Parameter.VAR_KEYWORD in kinds
        self.takes_types = "input_types" in self._names

    def takes(self, name: str) -> bool:
        return self._takes_all or name in self._names

    def run(
        self, definition: NodeDefinition, inputs: Mapping[str, Any], received: Mapping[str, Any]
    ) -> tuple[list[dict[str, Any]], Exception | None]:
        """Call it; linked inputs arrive as None, as their values are not there yet."""
        function = self._function
        if function is None:
            return [], None
        given = {
            name: None if type(inputs[name]) is Link else inputs[name]
            for name in definition.inputs
            if name in inputs and self.takes(name)
        }
        if self.takes_types:
            given["input_types"] = dict(received)
        if definition.input_is_list:
            given = {name: [value] for name, value in given.items()}
        outcome = attempt(lambda: function(**given))
        if outcome.error is not None or outcome.value is True:
            return [], outcome.error
        return list(_refusals(list(given), outcome.value)), None


def types_match(received: NodeType, wanted: NodeType) -> bool:
    """Tell whether the host lets an output of type `received` feed an input of type `wanted`."""
    if not received != wanted:  # noqa: SIM202 - types of some packs override only `!=`
        return True
    if "*" in (received, wanted) or "COMFY_MATCHTYPE_V3" in (received, wanted):
        return True
    if isinstance(received, list) and wanted == "COMBO":
        return True
    if not isinstance(received, str) or not isinstance(wanted, str):
        return False
    given = {kind.strip() for kind in received.split(",")}
    taken = {kind.strip() for kind in wanted.split(",")}
    return bool(given & taken)


def broken_link_json(exc: Exception) -> dict[str, Any]:
    """Return the error of an output node whose check raised."""
    return error_json(
        "exception_during_validation",
        "Exception when validating node",
        str(exc),
        exception_type=exception_name(exc),
        traceback=format_frames(exc),
    )


def inner_broken_link_json(exc: Exception, by: InputDefinition, link: Link) -> dict[str, Any]:
    """Return the error of a node whose check raised, reached through `link` of input `by`."""
    return error_json(
        "exception_during_inner_validation",
        "Exception when validating inner node",
        str(exc),
        input_name=by.name,
        input_config=by.config(),
        exception_message=str(exc),
        exception_type=exception_name(exc),
        traceback=format_frames(exc),
        linked_node=list(link),
    )


def _check_constant(
    each: InputDefinition, value: Any, *, checked: bool
) -> tuple[dict[str, Any] | None, Any]:
    """Return an error or None, and the value as the node will get it."""
    if isinstance(value, list):
        message = "Bad linked input, must be a length-2 list of [node_id, slot_index]"
        return _input_error("bad_linked_input", message, each, value), value
    value = unwrap(value)
    convert = _CONVERSIONS.get(each.type) if isinstance(each.type, str) else None
    if convert is not None and type(value) is not convert:
        try:
            value = convert(value)
        except (ValueError, TypeError, OverflowError) as exc:
            return _unconvertible(each, value, exc), value
    return (_out_of_range(each, value) if checked else None), value


def _unconvertible(each: InputDefinition, value: Any, exc: Exception) -> dict[str, Any]:
    return _input_error(
        "invalid_input_type",
        f"Failed to convert an input value to a {each.type} value",
        each,
        value,
        f"{each.name}, {value}, {exc}",
        exception_message=str(exc),
    )


def _out_of_range(each: InputDefinition, value: Any) -> dict[str, Any] | None:
    low, high = each.options.get("min"), each.options.get("max")
    is_number = isinstance(value, (int, float))
    if is_number and low is not None and not value >= low:
        message = f"Value {value} smaller than min of {low}"
        return _input_error("value_smaller_than_min", message, each, value)
    if is_number and high is not None and not value <= high:
        message = f"Value {value} bigger than max of {high}"
        return _input_error("value_bigger_than_max", message, each, value)
    choices = each.choices
    if choices is None or each.options.get("remote_combo"):  # a browser fetches the values
        return None
    items = value if isinstance(value, list) and each.options.get("multiselect") else [value]
    wrong = [item for item in items if item not in choices]
    return _not_in_list(each, value, wrong) if wrong else None


def _not_in_list(each: InputDefinition, value: Any, wrong: list[Any]) -> dict[str, Any]:
    choices = list(each.choices or ())
    is_long = len(choices) > _LONG_LIST
    shown = f"(list of length {len(choices)})" if is_long else str(choices)
    return error_json(
        "value_not_in_list",
        "Value not in list",
        f"{each.name}: {', '.join(map(repr, wrong))} not in {shown}",
        input_name=each.name,
        input_config=None if is_long else each.config(),
        received_value=value,
    )


def _mismatch(each: InputDefinition, received: NodeType, link: Link) -> dict[str, Any]:
    return error_json(
        "return_type_mismatch",
        "Return type mismatch between linked nodes",
        f"{each.name}, received_type({received}) mismatch input_type({each.type})",
        input_name=each.name,
        input_config=each.config(),
        received_type=received,
        linked_node=list(link),
    )


def _input_error(
    kind: str, message: str, each: InputDefinition, value: Any, details: str = "", **more: Any
) -> dict[str, Any]:
    return error_json(
        kind,
        message,
        details or each.name,
        input_name=each.name,
        input_config=each.config(),
        received_value=value,
        **more,
    )


def _refusals(names: list[str], said: Any) -> Iterator[dict[str, Any]]:
    """Yield one error for each input that the function takes, or one for the node."""
    reason = "" if said is False else str(said)
    message = "Custom validation failed for node"
    for name in names:
        details = f"{name} - {reason}" if reason else name
        yield error_json("custom_validation_failed", message, details, input_name=name)
    if not names:
        yield error_json("custom_validation_failed", message, reason)
