"""The one inner form of a workflow: nodes by id, their constants and their links.

Both file formats end here (`api_format`, `ui_format`), and validation and execution start here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from ..errors import UnknownName


class Link(NamedTuple):
    """An input's value comes from output `slot` of node `node`."""

    node: str
    slot: int


def wrap_list(value: Any) -> Any:
    """Return a constant so that a list is not taken for a link."""
    return {"__value__": value} if type(value) is list else value


def unwrap(value: Any) -> Any:
    """Return a constant as the node gets it."""
    return value["__value__"] if isinstance(value, Mapping) and "__value__" in value else value


@dataclass(frozen=True)
class WorkflowNode:
    """A node: its class, what its inputs get (a constant or a Link), and the title it shows.

    `class_type` is None where a file does not say; validation reports that. A constant that is a
    list is wrapped as the host wraps it, `{"__value__": [...]}`: a bare list is a broken link.
    """

    class_type: str | None
    inputs: Mapping[str, Any] = field(default_factory=dict)
    title: str = ""

    def links(self) -> list[tuple[str, Link]]:
        """Return the linked inputs, in order."""
        return [(name, value) for name, value in self.inputs.items() if type(value) is Link]


@dataclass(frozen=True)
class Workflow:
    """A graph to run; `ui` is the browser's form of it, where the file had one."""

    nodes: Mapping[str, WorkflowNode]
    ui: Mapping[str, Any] | None = None

    def with_input(self, node_id: str, name: str, value: Any) -> Workflow:
        """Return a copy in which one input is another constant (or Link); nodes are shared.

        Raises:
            UnknownName: there is no such node.
        """
        if node_id not in self.nodes:
            raise UnknownName("node", node_id, self.nodes)
        node = self.nodes[node_id]
        changed = replace(node, inputs={**node.inputs, name: wrap_list(value)})
        return replace(self, nodes={**self.nodes, node_id: changed})
