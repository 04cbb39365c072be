"""Widgets that a subgraph shows on its outside, and the values its instances give them.

An input of a subgraph that reaches a widget inside is itself a widget of every instance, with a
value of its own. Older files say the same with `proxyWidgets`, pairs of (inner node, widget).
Facts: the front end's subgraph nodes and its migration of `proxyWidgets` (1.49.6).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .definitions import NodeDefinition
from .failures import malformed
from .ui_graph import UiGraph, UiNode, UiSlot, UiWorkflow
from .ui_widgets import NodeWidgets, input_slots, read_widgets

PRIMITIVE = "PrimitiveNode"
MAX_DEPTH = 64

_OLD_PREFIX = re.compile(r"\s*(\d+)\s*:\s*(.+)")


@dataclass
class HostValues:
    """What one instance of a subgraph gives: values by input, and values of inner widgets."""

    inputs: dict[int, Any] = field(default_factory=dict)
    widgets: dict[tuple[str, str], Any] = field(default_factory=dict)
    primitives: dict[str, Any] = field(default_factory=dict)


class Promotions:
    """Answers for one file: a node's widgets and sockets, and an instance's values."""

    def __init__(self, workflow: UiWorkflow, definitions: Mapping[str, NodeDefinition]) -> None:
        self._workflow = workflow
        self._definitions = definitions
        self._widgets: dict[tuple[str, str], NodeWidgets] = {}
        self._slots: dict[tuple[str, str], list[UiSlot]] = {}
        self._values: dict[tuple[str, str], HostValues] = {}

    def widgets(self, graph: UiGraph, node: UiNode) -> NodeWidgets:
        """Return the widgets of a node; empty for a class that is not known."""
        key = (graph.id, node.id)
        if key not in self._widgets:
            definition = self._definitions.get(node.type)
            self._widgets[key] = (
                read_widgets(node, definition) if definition else NodeWidgets({}, {})
            )
        return self._widgets[key]

    def slots(self, graph: UiGraph, node: UiNode) -> list[UiSlot]:
        """Return the input sockets of a node in the browser's order."""
        key = (graph.id, node.id)
        if key not in self._slots:
            self._slots[key] = self._read_slots(graph, node)
        return self._slots[key]

    def host_values(self, graph: UiGraph, host: UiNode, depth: int = 0) -> HostValues:
        """Return the values of a subgraph instance `host` that lies in `graph`."""
        key = (graph.id, host.id)
        if key not in self._values:
            if depth > MAX_DEPTH:
                raise malformed("workflow", f"subgraphs are nested more than {MAX_DEPTH} deep")
            self._values[key] = self._read_host_values(host, depth)
        return self._values[key]

    def _read_slots(self, graph: UiGraph, node: UiNode) -> list[UiSlot]:
        inner = self._workflow.subgraphs.get(node.type)
        if inner is not None:
            return _host_slots(inner, node)
        definition = self._definitions.get(node.type)
        if definition is None:
            return list(node.inputs)
        return input_slots(node, definition, self.widgets(graph, node))

    def _read_host_values(self, host: UiNode, depth: int) -> HostValues:
        inner = self._workflow.subgraphs[host.type]
        values = HostValues()
        for index in range(len(inner.inputs)):
            source = self._source(inner, index, depth)
            if source is not None:
                values.inputs[index] = source[2]
        saved = host.widgets_values if isinstance(host.widgets_values, list) else []
        for index, value in zip(values.inputs, saved, strict=False):
            values.inputs[index] = value
        if host.proxies:
            self._apply_proxies(inner, host, values, saved, depth)
        return values

    def _source(self, inner: UiGraph, index: int, depth: int) -> tuple[str, str, Any] | None:
        """Return (node, widget, value) of the first widget that an input of `inner` reaches."""
        for key in inner.input_links[index]:
            link = inner.links.get(key)
            node = inner.nodes.get(link.target) if link else None
            if node is None:
                continue
            slots = self.slots(inner, node)
            place = next((i for i, slot in enumerate(slots) if slot.link == key), None)
            if place is None:
                continue
            if node.type in self._workflow.subgraphs:
                nested = self.host_values(inner, node, depth + 1).inputs
                if place in nested:
                    return node.id, slots[place].name, nested[place]
                continue
            widgets = self.widgets(inner, node).values
            name = slots[place].widget
            if name in widgets:
                return node.id, name, widgets[name]
        return None

    def _apply_proxies(
        self, inner: UiGraph, host: UiNode, values: HostValues, saved: list[Any], depth: int
    ) -> None:
        """Give each listed widget the value at its place in the host's widgets_values."""
        inputs = {
            source[:2]: index
            for index in reversed(range(len(inner.inputs)))
            if (source := self._source(inner, index, depth)) is not None
        }
        for (node_id, written), value in zip(host.proxies, saved, strict=False):
            node = inner.nodes.get(node_id)
            if node is None and node_id == "-1":  # the host's own input, by name
                named = [i for i in values.inputs if inner.inputs[i].name == written]
                values.inputs.update(dict.fromkeys(named, value))
            if node is None:
                continue
            name = self._proxied_name(inner, node, written, depth)
            if (node_id, name) in inputs:
                values.inputs[inputs[node_id, name]] = value
            elif node.type != PRIMITIVE:
                values.widgets[node_id, name] = value
            elif {widget for each, widget in host.proxies if each == node_id} == {"value"}:
                values.primitives[node_id] = value

    def _proxied_name(self, inner: UiGraph, node: UiNode, written: str, depth: int) -> str:
        """Return the name of the widget; older files write the ids of nested nodes before it.

        For a nested host it is the name of its input, which may show a widget of another name.
        """
        known = {slot.widget or slot.name for slot in self.slots(inner, node)}
        name = written
        while name not in known and (match := _OLD_PREFIX.fullmatch(name)):
            name = match[2]
        nested = self._workflow.subgraphs.get(node.type)
        if name in known or nested is None:
            return name
        for index, slot in enumerate(nested.inputs):
            source = self._source(nested, index, depth + 1)
            if source is not None and source[1] == name:
                return slot.name
        return name


def _host_slots(inner: UiGraph, host: UiNode) -> list[UiSlot]:
    """Return the instance's sockets: those of the definition, with the links of the instance."""
    links: dict[str, list[str | None]] = {}
    for slot in host.inputs:
        links.setdefault(slot.name, []).append(slot.link)
    return [
        UiSlot(slot.name, slot.type, links[slot.name].pop(0) if links.get(slot.name) else None)
        for slot in inner.inputs
    ]
