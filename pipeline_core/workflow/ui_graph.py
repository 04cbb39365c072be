"""The browser's workflow format (0.4 and 1.0) as plain data: graphs, nodes, links, subgraphs.

Links are read in both spellings (arrays and objects). As in the browser, ids inside subgraphs that
are taken elsewhere are given anew, so that the ids of the result are the same.
Facts: the published workflow schemas, and the front end's behaviour.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from .failures import malformed

ALWAYS, MUTED, BYPASSED = 0, 2, 4
INPUT_NODE = "-10"  # inside a subgraph: where its inputs come in
MAX_DEFINITIONS = 1_000


class UiLink(NamedTuple):
    """A wire from one node's output to another's input."""

    origin: str
    origin_slot: int
    target: str
    target_slot: int


class UiSlot(NamedTuple):
    """An input or output as the file has it; `link` is an id in the graph's links."""

    name: str
    type: str
    link: str | None = None
    widget: str | None = None


@dataclass(frozen=True)
class UiNode:
    """A node as the file has it."""

    id: str
    type: str
    title: str
    mode: int
    inputs: Sequence[UiSlot]
    outputs: Sequence[UiSlot]
    widgets_values: Any
    properties: Mapping[str, Any]
    proxies: Sequence[tuple[str, str]] = ()  # of older subgraph hosts: (inner node, widget)


@dataclass(frozen=True)
class UiGraph:
    """The root graph, or the definition of a subgraph (which has boundary slots)."""

    id: str
    name: str
    nodes: Mapping[str, UiNode]
    links: Mapping[str, UiLink]
    inputs: Sequence[UiSlot] = ()
    input_links: Sequence[Sequence[str]] = ()  # for each input, the links that leave it inside
    output_links: Sequence[Sequence[str]] = ()  # for each output, the links that reach it inside


@dataclass(frozen=True)
class UiWorkflow:
    """A whole file: the root graph and the subgraphs by id."""

    root: UiGraph
    subgraphs: Mapping[str, UiGraph] = field(default_factory=dict)


def is_ui_format(data: Any) -> bool:
    """Tell whether this is the browser's format."""
    return isinstance(data, Mapping) and isinstance(data.get("nodes"), list)


def parse_ui(data: Any, where: str = "workflow") -> UiWorkflow:
    """Return the workflow as data, nothing resolved yet.

    Raises:
        InvalidWorkflow: it is no such file; names the place.
    """
    if not is_ui_format(data):
        raise malformed(where, "has no list of nodes, so it is no workflow of the browser")
    try:
        return _read_workflow(data, where)
    except (KeyError, TypeError, AttributeError, IndexError, OverflowError) as exc:
        raise malformed(where, f"not as the browser writes it: {exc!r}") from exc
    except ValueError as exc:
        raise malformed(where, str(exc)) from exc


def _read_workflow(data: Mapping[str, Any], where: str) -> UiWorkflow:
    definitions = _all_definitions(data)
    state = data.get("state") or {}
    last_id = int(state.get("lastNodeId") or data.get("last_node_id") or 0)
    root = _read_graph(data, "", "workflow", {})
    renamed = _ids_that_are_taken(root, definitions, last_id)
    subgraphs = {
        str(each["id"]): _read_graph(each, str(each["id"]), str(each.get("name") or ""), names)
        for each, names in zip(definitions, renamed, strict=True)
    }
    hosts = {str(each["id"]): names for each, names in zip(definitions, renamed, strict=True)}
    return UiWorkflow(
        _with_new_proxies(root, hosts),
        {key: _with_new_proxies(graph, hosts) for key, graph in subgraphs.items()},
    )


def _all_definitions(data: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the subgraph definitions, nested ones too, each id once."""
    found: dict[str, Mapping[str, Any]] = {}
    waiting = [data]
    while waiting:
        for each in (waiting.pop().get("definitions") or {}).get("subgraphs") or ():
            if str(each["id"]) not in found:
                found[str(each["id"])] = each
                waiting.append(each)
        if len(found) > MAX_DEFINITIONS:
            raise ValueError(f"more than {MAX_DEFINITIONS} subgraphs")
    return list(found.values())


def _ids_that_are_taken(
    root: UiGraph, definitions: Sequence[Mapping[str, Any]], last_id: int
) -> list[dict[str, str]]:
    """Return, for each subgraph, old id -> new id of the nodes whose id another graph uses."""
    taken = set(root.nodes)
    renamed: list[dict[str, str]] = []
    for each in definitions:
        names: dict[str, str] = {}
        for node in each.get("nodes") or ():
            key = str(node["id"])
            if key not in taken:
                taken.add(key)
                last_id = max(last_id, int(key)) if key.isdecimal() else last_id
                continue
            last_id += 1
            while str(last_id) in taken:
                last_id += 1
            names[key] = str(last_id)
            taken.add(str(last_id))
        renamed.append(names)
    return renamed


def _read_graph(
    data: Mapping[str, Any], key: str, name: str, renamed: Mapping[str, str]
) -> UiGraph:
    nodes: dict[str, UiNode] = {}
    for each in data.get("nodes") or ():
        node = _read_node(each, renamed)
        if node.id in nodes:
            raise ValueError(f"node id {node.id!r} is there twice in {name!r}")
        nodes[node.id] = node
    inputs, outputs = data.get("inputs") or (), data.get("outputs") or ()
    return UiGraph(
        key,
        name,
        nodes,
        dict(_read_link(each, renamed) for each in data.get("links") or () if each),
        [_read_slot(each) for each in inputs],
        [[str(link) for link in each.get("linkIds") or ()] for each in inputs],
        [[str(link) for link in each.get("linkIds") or ()] for each in outputs],
    )


def _read_node(data: Mapping[str, Any], renamed: Mapping[str, str]) -> UiNode:
    key, properties = str(data["id"]), data.get("properties") or {}
    if not isinstance(properties, Mapping):
        raise ValueError(f"node {key}: its properties are no object")
    return UiNode(
        renamed.get(key, key),
        str(data["type"]),
        str(data.get("title") or ""),
        int(data.get("mode") or 0),
        [_read_slot(each) for each in data.get("inputs") or ()],
        [_read_slot(each) for each in data.get("outputs") or ()],
        data.get("widgets_values"),
        properties,
        _read_proxies(properties.get("proxyWidgets")),
    )


def _read_proxies(data: Any) -> list[tuple[str, str]]:
    """Return the pairs; as in the browser, none of them counts where one is malformed."""
    entries = data if isinstance(data, list) else []
    if not all(isinstance(e, list) and 2 <= len(e) <= 3 for e in entries):
        return []
    if not all(isinstance(part, str) for entry in entries for part in entry):
        return []
    return [(entry[0], entry[1]) for entry in entries]


def _read_slot(data: Mapping[str, Any]) -> UiSlot:
    link, widget, kind = data.get("link"), data.get("widget"), data.get("type")
    return UiSlot(
        str(data.get("name") or ""),
        "COMBO" if isinstance(kind, list) else str(kind or "*"),
        None if link is None else str(link),
        str(widget["name"]) if isinstance(widget, Mapping) and "name" in widget else None,
    )


def _read_link(data: Any, renamed: Mapping[str, str]) -> tuple[str, UiLink]:
    if isinstance(data, Mapping):
        fields = ("id", "origin_id", "origin_slot", "target_id", "target_slot")
        key, origin, origin_slot, target, target_slot = (data[each] for each in fields)
    else:
        key, origin, origin_slot, target, target_slot = data[:5]
    origin, target = str(origin), str(target)
    return str(key), UiLink(
        renamed.get(origin, origin),
        int(origin_slot),
        renamed.get(target, target),
        int(target_slot),
    )


def _with_new_proxies(graph: UiGraph, renamed: Mapping[str, Mapping[str, str]]) -> UiGraph:
    """Let `proxyWidgets` of subgraph hosts name the nodes' new ids."""
    if not any(renamed.values()):
        return graph
    nodes = dict(graph.nodes)
    for key, node in nodes.items():
        names = renamed.get(node.type)
        if names:
            moved = [(names.get(inner, inner), widget) for inner, widget in node.proxies]
            nodes[key] = replace(node, proxies=moved)
    return replace(graph, nodes=nodes)
