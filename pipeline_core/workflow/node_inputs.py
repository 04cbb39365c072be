"""What a node function is called with: constants, results of other nodes, hidden inputs."""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import WorkflowError
from .cache import NodeResult
from .definitions import NodeDefinition
from .graph import Link, unwrap
from .node_code import attempt
from .running_graph import RunningGraph
from .values import call_over_lists

_LOGGER = logging.getLogger("multilingual_diffusion")
_COMPARABLE = (str, bytes, int, float, bool, type(None))  # what IS_CHANGED may answer


class NodeInputs:
    """Gathers inputs from a running graph and the results so far."""

    def __init__(
        self,
        graph: RunningGraph,
        results: Mapping[str, NodeResult],
        extra_pnginfo: Mapping[str, Any] | None,
    ) -> None:
        self._graph = graph
        self._results = results
        self._extra_pnginfo = extra_pnginfo

    def gather(
        self, key: str, definition: NodeDefinition, *, links: bool = True
    ) -> tuple[dict[str, Sequence[Any]], list[str]]:
        """Return the inputs as lists, and the names of those whose values are not there."""
        given = self._graph.node(key).inputs
        values: dict[str, Sequence[Any]] = {}
        missing: list[str] = []
        for name, each in definition.inputs.items():
            if name not in given:
                continue
            value = given[name]
            if type(value) is not Link:
                values[name] = [unwrap(value)]
            elif each.options.get("rawLink"):
                values[name] = [list(value)]
            elif links and value.node in self._results:
                values[name] = self._value(value)
            else:
                values[name] = [None]
                missing.append(name)
        for name, kind in definition.hidden.items():
            values[name] = [self._hidden(kind, key)]
        return values, missing

    def _value(self, link: Link) -> Sequence[Any]:
        outputs = self._results[link.node].outputs
        if link.slot >= len(outputs):
            kind = self._graph.node(link.node).class_type
            raise WorkflowError(
                f"node {link.node} ({kind}) gave {len(outputs)} results, not output {link.slot}"
            )
        return outputs[link.slot]

    def _hidden(self, kind: str, key: str) -> Any:
        if kind == "UNIQUE_ID":
            return key
        if kind == "PROMPT":
            return self._graph.api()
        if kind == "EXTRA_PNGINFO":
            return self._extra_pnginfo
        return self._graph if kind == "DYNPROMPT" else None

    def is_changed(
        self, key: str, definition: NodeDefinition, node_class: type
    ) -> str | float | None:
        """Ask IS_CHANGED with the constants, links as None; an exception means "always"."""
        function = getattr(node_class, "IS_CHANGED", None)
        if function is None:
            return None
        inputs, _ = self.gather(key, definition, links=False)
        parameters = inspect.signature(function).parameters.values()
        if all(each.kind is not inspect.Parameter.VAR_KEYWORD for each in parameters):
            names = {each.name for each in parameters} | definition.inputs.keys()
            inputs = {name: value for name, value in inputs.items() if name in names}
        outcome = attempt(
            lambda: call_over_lists(
                function,
                inputs,
                input_is_list=definition.input_is_list,
                on_blocked=lambda blocker: None,
            )
        )
        said = outcome.value or []
        if outcome.error is not None:
            _LOGGER.warning("IS_CHANGED of node %s failed: %s", key, outcome.error)
        if outcome.error is not None or not all(isinstance(each, _COMPARABLE) for each in said):
            return math.nan
        return math.nan if any(each != each for each in said) else repr(said)
