"""The API format, `{id: {"class_type", "inputs", "_meta"}}`: what the host's server takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .failures import malformed
from .graph import Link, Workflow, WorkflowNode


def is_api_format(data: Any) -> bool:
    """Tell whether every value looks like a node."""
    return isinstance(data, Mapping) and all(
        isinstance(node, Mapping) and ("class_type" in node or "inputs" in node)
        for node in data.values()
    )


def parse_api(data: Any, where: str = "workflow") -> Workflow:
    """Return the workflow; what a node lacks is left for validation to report.

    Raises:
        InvalidWorkflow: the top, a node or its inputs are no JSON objects.
    """
    if not isinstance(data, Mapping):
        raise malformed(where, f"the top must be an object, not {type(data).__name__}")
    nodes: dict[str, WorkflowNode] = {}
    for key, node in data.items():
        inputs = node.get("inputs", {}) if isinstance(node, Mapping) else None
        if not isinstance(node, Mapping) or not isinstance(inputs, Mapping):
            raise malformed(where, f"node {key!r} is no object with inputs")
        nodes[str(key)] = parse_node(node, inputs)
    return Workflow(nodes)


def parse_node(node: Mapping[str, Any], inputs: Mapping[str, Any]) -> WorkflowNode:
    """Return one node; `inputs` are its inputs as JSON."""
    class_type = node.get("class_type")
    meta = node.get("_meta")
    title = meta.get("title") if isinstance(meta, Mapping) else None
    return WorkflowNode(
        class_type if isinstance(class_type, str) else None,
        {name: parse_value(value) for name, value in inputs.items()},
        title if isinstance(title, str) else "",
    )


def parse_value(value: Any) -> Any:
    """Return `["id", slot]` as a Link, anything else as it is."""
    if type(value) is list and len(value) == 2:
        node, slot = value
        if isinstance(node, str) and type(slot) in (int, float) and slot % 1 == 0:
            return Link(node, int(slot))
    return value


def to_api(workflow: Workflow) -> dict[str, dict[str, Any]]:
    """Return the workflow as JSON in the API format."""
    return {
        key: {
            "inputs": {
                name: list(value) if type(value) is Link else value
                for name, value in node.inputs.items()
            },
            "class_type": node.class_type,
            "_meta": {"title": node.title or node.class_type or ""},
        }
        for key, node in workflow.nodes.items()
    }
