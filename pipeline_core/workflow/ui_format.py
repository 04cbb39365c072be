"""The browser's workflow format to the inner one: exactly what the browser itself would send.

Subgraphs are expanded (ids become `outer:inner`), muted nodes dropped, bypassed ones passed
through by type, reroutes followed, primitive nodes written into the widgets they feed, notes
skipped. Facts: the front end's graph-to-prompt step (comfyui-frontend-package 1.49.6).
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from .definitions import NodeDefinition
from .failures import InvalidWorkflow, error_json, malformed
from .graph import Link, Workflow, WorkflowNode, wrap_list
from .ui_graph import BYPASSED, INPUT_NODE, MUTED, UiGraph, UiLink, UiNode, UiSlot, parse_ui
from .ui_promotion import MAX_DEPTH, PRIMITIVE, HostValues, Promotions
from .ui_text import TextReplacements, choose_prompt
from .ui_widgets import MATCH_TYPE

MAX_NODES = 50_000

_VIRTUAL = frozenset({"Reroute", PRIMITIVE, "Note", "MarkdownNote"})
# nodes that the browser's English names otherwise than the server does
_BROWSER_TITLES = {
    "LTXVConcatAVLatent": "LTXVConcatAVLatent",
    "LTXVSeparateAVLatent": "LTXVSeparateAVLatent",
}


@dataclass(frozen=True)
class Instance:
    """A graph in its place: the root, or a subgraph inside the instance `parent`."""

    graph: UiGraph
    path: str = ""  # "12:3:" for what lies inside node 3 of node 12
    parent: Instance | None = None
    host: UiNode | None = None
    values: HostValues | None = None


def convert(
    data: Mapping[str, Any],
    definitions: Mapping[str, NodeDefinition],
    *,
    where: str = "workflow",
    seed: int | None = None,
    now: datetime | None = None,
) -> Workflow:
    """Return the workflow that the browser would queue for this file.

    Args:
        seed: of the choices in `{a|b}` prompts; None: other ones every time, as in the browser.
        now: the time for `%date:...%` in file names; None: now.

    Raises:
        InvalidWorkflow: no such file, a link leads nowhere, or a node class is unknown.
    """
    return _Conversion(data, definitions, where, random.Random(seed), now).workflow()


class _Conversion:
    def __init__(
        self,
        data: Mapping[str, Any],
        definitions: Mapping[str, NodeDefinition],
        where: str,
        choices: random.Random,
        now: datetime | None,
    ) -> None:
        self._data = data
        self._definitions = definitions
        self._where = where
        self._choices = choices
        self._file = parse_ui(data, where)
        self._promotions = Promotions(self._file, definitions)
        self._instances: dict[str, Instance] = {}
        self._nodes = list(self._expand())
        self._replacements = TextReplacements(
            [(node, self._promotions.widgets(i.graph, node).values) for i, node in self._nodes],
            now or datetime.now(),
        )

    def workflow(self) -> Workflow:
        sent = [
            (instance, node)
            for instance, node in self._nodes
            if not self._is_virtual(node) and node.mode not in (MUTED, BYPASSED)
        ]
        self._refuse_unknown(sent)
        ids = {instance.path + node.id for instance, node in sent}
        nodes = {i.path + node.id: self._node(i, node, ids) for i, node in sent}
        return Workflow(nodes, self._data)

    def _expand(self) -> Iterator[tuple[Instance, UiNode]]:
        """Yield every node in its place, subgraph instances too; keep the instances by path."""
        waiting = [Instance(self._file.root)]
        count = 0
        while waiting:
            instance = waiting.pop()
            self._instances[instance.path] = instance
            count += len(instance.graph.nodes)
            if count > MAX_NODES:
                raise malformed(self._where, f"more than {MAX_NODES} nodes")
            for node in instance.graph.nodes.values():
                yield instance, node
                inner = self._file.subgraphs.get(node.type)
                # as in the browser, only instances of the root keep their inside to themselves
                hidden = instance.parent is None and node.mode in (MUTED, BYPASSED)
                if inner is not None and not hidden:
                    waiting.append(self._inside(instance, node, inner))

    def _inside(self, instance: Instance, node: UiNode, inner: UiGraph) -> Instance:
        path = f"{instance.path}{node.id}:"
        around: Instance | None = instance
        while around is not None:
            if around.graph.id == inner.id:
                raise malformed(self._where, f"subgraph {inner.name!r} holds itself (node {path})")
            around = around.parent
        if path.count(":") > MAX_DEPTH:
            raise malformed(self._where, f"subgraphs are nested more than {MAX_DEPTH} deep")
        values = self._promotions.host_values(instance.graph, node)
        given = instance.values.widgets if instance.values else {}
        shown = {
            index: given[node.id, slot.name]
            for index, slot in enumerate(inner.inputs)
            if (node.id, slot.name) in given
        }
        values = replace(values, inputs={**values.inputs, **shown})
        return Instance(inner, path, instance, node, values)

    def _is_virtual(self, node: UiNode) -> bool:
        return node.type in _VIRTUAL or node.type in self._file.subgraphs

    def _refuse_unknown(self, sent: list[tuple[Instance, UiNode]]) -> None:
        unknown = [(i.path + n.id, n) for i, n in sent if n.type not in self._definitions]
        if not unknown:
            return
        key, node = unknown[0]
        names = ", ".join(sorted({each.type for _, each in unknown}))
        title = node.title or node.type
        raise InvalidWorkflow(
            f"{self._where}: nodes of unknown classes: {names}; install their pack, or hand in "
            "definitions that have them",
            error_json(
                "missing_node_type",
                f"Node '{title}' not found. The custom node may not be installed.",
                f"Node ID '#{key}'",
                node_id=key,
                class_type=node.type,
                node_title=title,
            ),
        )

    def _node(self, instance: Instance, node: UiNode, ids: set[str]) -> WorkflowNode:
        definition = self._definitions[node.type]
        slots = self._promotions.slots(instance.graph, node)
        inputs = self._widget_values(instance, node, slots)
        for slot in slots:
            found = self._resolve(instance, node, slot)
            if isinstance(found, Link):
                if found.node in ids:
                    inputs[slot.name] = found
                else:  # the origin is dropped, so the input is, with its widget
                    inputs.pop(slot.name, None)
            elif found is not None:
                inputs[slot.name] = _constant(found[0])
        title = node.title or _BROWSER_TITLES.get(node.type, definition.title)
        return WorkflowNode(node.type, inputs, title)

    def _widget_values(
        self, instance: Instance, node: UiNode, slots: list[UiSlot]
    ) -> dict[str, Any]:
        widgets = self._promotions.widgets(instance.graph, node)
        values = dict(widgets.values)
        if instance.values is not None:
            linked = {slot.widget for slot in slots if slot.link is not None}
            for (node_id, name), value in instance.values.widgets.items():
                if node_id == node.id and name in values and name not in linked:
                    values[name] = value
        for slot in slots:
            if slot.widget in values:
                values[slot.widget] = self._from_primitive(instance, slot, values[slot.widget])
        for name, each in widgets.inputs.items():
            if isinstance(values[name], str):
                if each is not None and each.options.get("dynamicPrompts"):
                    values[name] = choose_prompt(values[name], self._choices)
                if self._replacements.apply_to(node.type, name):
                    values[name] = self._replacements.replace(values[name])
        return {name: _constant(value, widgets.inputs[name]) for name, value in values.items()}

    def _from_primitive(self, instance: Instance, slot: UiSlot, value: Any) -> Any:
        """Return what a primitive node writes into the widget of `slot`, else `value`."""
        link = instance.graph.links.get(slot.link) if slot.link is not None else None
        origin = instance.graph.nodes.get(link.origin) if link else None
        if origin is None or origin.type != PRIMITIVE:
            return value
        if instance.values is not None and origin.id in instance.values.primitives:
            return instance.values.primitives[origin.id]
        saved = origin.widgets_values
        if not isinstance(saved, list) or not saved:
            return value
        if isinstance(saved[0], str) and origin.properties.get("Run widget replace on values"):
            return self._replacements.replace(saved[0])
        return saved[0]

    def _resolve(self, at: Instance, node: UiNode, slot: UiSlot) -> Link | tuple[Any] | None:
        """Follow an input to the node that feeds it, or to a value given by a subgraph's host."""
        start, kind = (at.path, node.id, slot.name), slot.type
        seen: set[tuple[str, str, str]] = set()
        while slot.link is not None:
            step = (at.path, node.id, slot.name)
            if step in seen:
                raise malformed(self._where, f"node {start[0]}{start[1]}: {start[2]!r} is a loop")
            seen.add(step)
            link = self._link(at, node, slot)
            if link.origin == INPUT_NODE and at.parent is not None and at.host is not None:
                outside = self._promotions.slots(at.parent.graph, at.host)[link.origin_slot]
                if outside.link is None:
                    given = at.values.inputs if at.values else {}
                    return (given[link.origin_slot],) if link.origin_slot in given else None
                at, node, slot, kind = at.parent, at.host, outside, outside.type
                continue
            node, place = at.graph.nodes[link.origin], link.origin_slot
            while (inner := self._opened(at, node)) is not None:
                inside = self._origin_inside(inner, place)
                if inside is None:
                    return None
                at, node, place = inner, inner.graph.nodes[inside.origin], inside.origin_slot
            if node.mode == MUTED:
                return None
            if node.mode != BYPASSED and not self._is_virtual(node):
                return Link(at.path + node.id, place)
            through = self._way_through(at, node, place, kind)
            if through is None:
                return None
            slot = through
            kind = through.type if node.mode == BYPASSED else kind
        return None

    def _link(self, at: Instance, node: UiNode, slot: UiSlot) -> UiLink:
        link = at.graph.links.get(slot.link or "")
        known = link is not None and (
            link.origin in at.graph.nodes
            or (link.origin == INPUT_NODE and 0 <= link.origin_slot < len(at.graph.inputs))
        )
        if link is None or not known:
            raise malformed(
                self._where,
                f"node {at.path}{node.id}: input {slot.name!r} has link {slot.link}, "
                "which leads nowhere",
            )
        return link

    def _opened(self, at: Instance, node: UiNode) -> Instance | None:
        if node.mode in (MUTED, BYPASSED) or node.type not in self._file.subgraphs:
            return None
        return self._instances[f"{at.path}{node.id}:"]

    def _origin_inside(self, inner: Instance, place: int) -> UiLink | None:
        """Return the link inside a subgraph that feeds its output `place`."""
        if not 0 <= place < len(inner.graph.output_links):
            return None
        for key in inner.graph.output_links[place]:
            link = inner.graph.links.get(key)
            return link if link and link.origin in inner.graph.nodes else None
        return None

    def _way_through(self, at: Instance, node: UiNode, place: int, kind: str) -> UiSlot | None:
        """Return the input that a bypassed or virtual node passes to its output `place`."""
        slots = self._promotions.slots(at.graph, node)
        same = slots[place] if 0 <= place < len(slots) else None
        if node.mode != BYPASSED:
            return same
        if kind in ("*", ""):
            return same or (slots[0] if slots else None)
        given = self._output_type(node, place)
        if same and types_meet(same.type, given) and types_meet(same.type, kind):
            return same
        exact = (slot for slot in slots if slot.type == kind)
        loose = (s for s in slots if types_meet(s.type, given) and types_meet(s.type, kind))
        return next(exact, None) or next(loose, None)

    def _output_type(self, node: UiNode, place: int) -> str:
        definition = self._definitions.get(node.type)
        if definition is not None and 0 <= place < len(definition.outputs):
            kind = definition.outputs[place]
            if kind != MATCH_TYPE:
                return "COMBO" if isinstance(kind, list) else kind
        return node.outputs[place].type if 0 <= place < len(node.outputs) else "*"


def types_meet(one: str, other: str) -> bool:
    """Tell whether the browser would connect the types: equal, any, or a common one of lists."""
    ours, theirs = (set(kind.lower().split(",")) for kind in (one, other))
    return bool(ours & theirs or {"*", ""} & (ours | theirs))


def _constant(value: Any, each: Any = None) -> Any:
    """Wrap a list as the host wants it, so that it is not taken for a link."""
    if isinstance(value, list) and each is not None and each.type == "CURVE":
        return {"__type__": "CURVE", "__value__": value}
    return wrap_list(value)
