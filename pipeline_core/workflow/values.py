"""Between nodes everything is a list: how a node is called over lists, and its results joined.

Facts: ComfyUI's mapping over lists, INPUT_IS_LIST / OUTPUT_IS_LIST and ExecutionBlocker.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from ..errors import WorkflowError
from .definitions import NodeDefinition


class ExecutionBlocker:
    """In place of a value: what needs it does not run; with a message, that is reported."""

    def __init__(self, message: str | None = None) -> None:
        self.message = message


class Expansion(NamedTuple):
    """A node that answers with a graph: new nodes, and where its own results come from."""

    nodes: Mapping[str, Any]
    results: Sequence[Any]


class Answer(NamedTuple):
    """One call's answer: a tuple of results or an Expansion, and what it shows."""

    result: Sequence[Any] | Expansion | None
    ui: Mapping[str, Any] | None


def is_blocker(value: Any) -> bool:
    """Tell whether this blocks; packs bring the host's class of the same name."""
    return type(value).__name__ == "ExecutionBlocker"


def call_over_lists(
    function: Callable[..., Any],
    inputs: Mapping[str, Sequence[Any]],
    *,
    input_is_list: bool,
    on_blocked: Callable[[Any], Any],
) -> list[Any]:
    """Call once for each place of the longest list; shorter ones repeat their last value.

    Raises:
        WorkflowError: an input is an empty list, so there is nothing to call with.
    """
    if input_is_list:
        blocker = next((v for values in inputs.values() for v in values if is_blocker(v)), None)
        return [function(**inputs) if blocker is None else on_blocked(blocker)]
    empty = next((name for name, values in inputs.items() if not len(values)), None)
    if empty is not None:
        raise WorkflowError(f"input {empty!r} got an empty list, so there is nothing to work on")
    count = max((len(values) for values in inputs.values()), default=1)
    results: list[Any] = []
    for index in range(count):
        given = {name: values[min(index, len(values) - 1)] for name, values in inputs.items()}
        blocker = next((value for value in given.values() if is_blocker(value)), None)
        results.append(function(**given) if blocker is None else on_blocked(blocker))
    return results


def read_answer(returned: Any, definition: NodeDefinition) -> Answer:
    """Return what a node function gave back, in one shape.

    Raises:
        WorkflowError: it is no tuple, no dict and no blocker.
    """
    ui: Mapping[str, Any] | None = None
    if isinstance(returned, Mapping):
        ui = returned.get("ui")
        if returned.get("expand") is not None:
            return Answer(Expansion(returned["expand"], returned.get("result") or ()), ui)
        returned = returned.get("result")
        if returned is None:
            return Answer(None, ui)
    if is_blocker(returned):
        returned = (returned,) * len(definition.outputs)
    if returned is None and not definition.outputs:
        returned = ()
    if not isinstance(returned, (tuple, list)):
        count = len(definition.outputs)
        raise WorkflowError(
            f"it returned {type(returned).__name__}; a node returns a tuple of {count} results"
        )
    return Answer(returned, ui)


def join_results(results: Sequence[Sequence[Any]], definition: NodeDefinition) -> list[list[Any]]:
    """Return, for each output, the list of its values over all calls."""
    outputs: list[list[Any]] = []
    for slot in range(min(map(len, results), default=0)):
        is_list = slot < len(definition.output_is_list) and definition.output_is_list[slot]
        values: list[Any] = []
        for result in results:
            if is_list and not is_blocker(result[slot]):
                values.extend(result[slot])
            else:
                values.append(result[slot])
        outputs.append(values)
    return outputs


def join_ui(shown: Sequence[Mapping[str, Any] | None]) -> dict[str, Any] | None:
    """Return the ui dictionaries of all calls as one, its lists joined by the first one's keys."""
    given = [each for each in shown if each]
    if not given:
        return None
    if len(given) == 1:
        return dict(given[0])
    return {key: [item for each in given for item in each.get(key, ())] for key in given[0]}
