"""The graph while it runs: the nodes of the workflow, and those that nodes add by expanding.

An object of this class is also what a node with a hidden DYNPROMPT input gets.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

from ..errors import WorkflowError
from .api_format import parse_node, to_api
from .definitions import NodeDefinition
from .graph import Link, Workflow, WorkflowNode


class RunningGraph:
    """Nodes by id with their definitions; ids of added nodes must be new."""

    def __init__(self, workflow: Workflow, define: Callable[[str], NodeDefinition]) -> None:
        self._workflow = workflow
        self._define = define
        self._nodes: dict[str, WorkflowNode] = dict(workflow.nodes)
        self._definitions: dict[str, NodeDefinition] = {}
        self._parents: dict[str, str] = {}
        self._shown_as: dict[str, str] = {}
        self._api: dict[str, Any] | None = None

    def node(self, key: str) -> WorkflowNode:
        """Return a node, of the workflow or added."""
        return self._nodes[key]

    def definition(self, key: str) -> NodeDefinition:
        """Return the definition of a node's class."""
        definition = self._definitions.get(key)
        if definition is None:
            definition = self._define(self._nodes[key].class_type or "")
            self._definitions[key] = definition
        return definition

    def links(self, key: str, names: Collection[str] | None = None) -> Iterator[tuple[str, Link]]:
        """Yield the links of a node's declared inputs, or of those among them in `names`."""
        inputs = self._nodes[key].inputs
        for name in self.definition(key).inputs:
            link = inputs.get(name)
            if type(link) is Link and (names is None or name in names):
                yield name, link

    def in_order(self, keys: Iterable[str], done: Collection[str] = ()) -> Iterator[str]:
        """Yield everything that `keys` need and that is not `done`, sources first.

        In a cycle (which only expansion can make here) some source comes late.
        """
        entered: set[str] = set()
        yielded: set[str] = set()
        waiting = [key for key in keys if key not in done]
        while waiting:
            key = waiting[-1]
            if key in entered:
                waiting.pop()
                if key not in yielded:
                    yielded.add(key)
                    yield key
                continue
            entered.add(key)
            for _, link in self.links(key):
                if link.node not in entered and link.node not in done:
                    waiting.append(link.node)

    def add(self, nodes: Mapping[str, Any], parent: str) -> list[str]:
        """Add the nodes (API format) that `parent` expanded to; return their ids.

        Raises:
            WorkflowError: an id is taken, a class is unknown, or a link leads nowhere.
        """
        added: list[str] = []
        for key, node in nodes.items():
            inputs = node.get("inputs", {}) if isinstance(node, Mapping) else None
            if not isinstance(node, Mapping) or not isinstance(inputs, Mapping):
                raise WorkflowError(f"it expanded to {key!r}, which is no node with inputs")
            if key in self._nodes:
                raise WorkflowError(f"it expanded to a node {key!r}, which is there already")
            parsed = parse_node(node, inputs)
            self._definitions[key] = self._define(parsed.class_type or "")
            self._nodes[key] = parsed
            self._parents[key] = parent
            self._shown_as[key] = node.get("override_display_id") or self.get_display_node_id(
                parent
            )
            added.append(key)
        for key in added:
            for name, link in self.links(key):
                self.check_link(link, f"input {name!r} of its new node {key!r}")
        return added

    def check_link(self, link: Link, what: str) -> None:
        """Raise where a link leads to no output.

        Raises:
            WorkflowError: naming `what` has the link.
        """
        if link.node not in self._nodes:
            raise WorkflowError(f"{what} takes from node {link.node!r}, which is not there")
        count = len(self.definition(link.node).outputs)
        if not 0 <= link.slot < count:
            raise WorkflowError(
                f"{what} takes output {link.slot} of node {link.node!r}, which has {count}"
            )

    def api(self) -> dict[str, Any]:
        """Return the workflow as it was given, in API format."""
        if self._api is None:
            self._api = to_api(self._workflow)
        return self._api

    # what follows is the host's DynamicPrompt, by its names

    def get_original_prompt(self) -> dict[str, Any]:
        """Return the workflow as it was given."""
        return self.api()

    def has_node(self, node_id: str) -> bool:
        """Tell whether there is such a node."""
        return node_id in self._nodes

    def get_node(self, node_id: str) -> dict[str, Any]:
        """Return a node in API format."""
        return to_api(Workflow({node_id: self._nodes[node_id]}))[node_id]

    def all_node_ids(self) -> set[str]:
        """Return all ids, those of added nodes too."""
        return set(self._nodes)

    def get_parent_node_id(self, node_id: str) -> str | None:
        """Return the node whose expansion added this one."""
        return self._parents.get(node_id)

    def get_display_node_id(self, node_id: str) -> str:
        """Return the node of the workflow that stands for this one in events."""
        return self._shown_as.get(node_id, node_id)

    def get_real_node_id(self, node_id: str) -> str:
        """Return the node of the workflow that this one comes from."""
        while node_id in self._parents:
            node_id = self._parents[node_id]
        return node_id
