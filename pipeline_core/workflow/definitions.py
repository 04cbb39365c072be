"""What a node class takes and gives, from the class itself or from a server's `/object_info`.

Facts: ComfyUI's V1 node contract (INPUT_TYPES, RETURN_TYPES, ...) and its `/object_info` answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import WorkflowError

NodeType = str | list[Any]  # a list is a choice: its values are what an input may be

HIDDEN_KINDS = ("UNIQUE_ID", "PROMPT", "EXTRA_PNGINFO", "DYNPROMPT")


@dataclass(frozen=True)
class InputDefinition:
    """One input: its type, its options (`default`, `min`, `lazy`, ...) and whether it must be."""

    name: str
    type: NodeType
    options: Mapping[str, Any] = field(default_factory=dict)
    required: bool = True

    @property
    def choices(self) -> Sequence[Any] | None:
        """The values a combo takes; None for every other input."""
        if isinstance(self.type, list):
            return self.type
        return self.options.get("options", []) if self.type == "COMBO" else None

    def config(self) -> list[Any]:
        """Return `[type, options]`, as errors show it."""
        return [self.type, dict(self.options)]


@dataclass(frozen=True)
class NodeDefinition:
    """One node class as the graph sees it; `inputs` are in the order of their widgets."""

    name: str
    inputs: Mapping[str, InputDefinition] = field(default_factory=dict)
    hidden: Mapping[str, str] = field(default_factory=dict)
    outputs: Sequence[NodeType] = ()
    output_is_list: Sequence[bool] = ()
    input_is_list: bool = False
    is_output: bool = False
    title: str = ""


def definition_from_class(name: str, node_class: type, title: str = "") -> NodeDefinition:
    """Return the definition of a V1 class; calls its INPUT_TYPES once.

    Raises:
        WorkflowError: the class does not keep the V1 contract; says how.
    """
    if not callable(getattr(node_class, "INPUT_TYPES", None)):
        raise WorkflowError(f"node class {name}: has no INPUT_TYPES, so it is no V1 node")
    spec = node_class.INPUT_TYPES()  # pyright: ignore[reportAttributeAccessIssue]
    if not isinstance(spec, Mapping):
        raise WorkflowError(f"node class {name}: INPUT_TYPES gives {type(spec).__name__}, no dict")
    outputs = [_plain_type(kind) for kind in getattr(node_class, "RETURN_TYPES", ())]
    is_list = getattr(node_class, "OUTPUT_IS_LIST", None) or ()
    return NodeDefinition(
        name,
        _read_inputs(name, spec, {}),
        _read_hidden(spec.get("hidden")),
        outputs,
        [index < len(is_list) and bool(is_list[index]) for index in range(len(outputs))],
        bool(getattr(node_class, "INPUT_IS_LIST", False)),
        getattr(node_class, "OUTPUT_NODE", False) is True,
        title or name,
    )


def definitions_from_classes(
    node_classes: Mapping[str, type], titles: Mapping[str, str] | None = None
) -> dict[str, NodeDefinition]:
    """Return the definitions of V1 classes by id; `titles` are their display names.

    Raises:
        WorkflowError: a class does not keep the V1 contract.
    """
    shown = titles or {}
    return {
        name: definition_from_class(name, node_class, shown.get(name, ""))
        for name, node_class in node_classes.items()
    }


def definitions_from_object_info(object_info: Mapping[str, Any]) -> dict[str, NodeDefinition]:
    """Return the definitions in a server's `/object_info` answer.

    Raises:
        WorkflowError: it is no such answer; names the entry.
    """
    definitions: dict[str, NodeDefinition] = {}
    for name, entry in object_info.items():
        if not isinstance(entry, Mapping) or not isinstance(entry.get("input"), Mapping):
            raise WorkflowError(f"object info: entry {name!r} describes no node (no 'input')")
        outputs = [_plain_type(kind) for kind in entry.get("output") or ()]
        definitions[name] = NodeDefinition(
            name,
            _read_inputs(name, entry["input"], entry.get("input_order") or {}),
            _read_hidden(entry["input"].get("hidden")),
            outputs,
            list(entry.get("output_is_list") or [False] * len(outputs)),
            bool(entry.get("is_input_list")),
            bool(entry.get("output_node")),
            entry.get("display_name") or name,
        )
    return definitions


def read_input(node: str, name: str, spec: Any, *, required: bool = True) -> InputDefinition:
    """Return one input from `(type, options?)`.

    Raises:
        WorkflowError: it is written another way.
    """
    if not isinstance(spec, (list, tuple)) or len(spec) == 0:
        raise WorkflowError(f"node class {node}: input {name!r} is no (type, options) pair")
    kind, *rest = spec
    options = rest[0] if rest and isinstance(rest[0], Mapping) else {}
    return InputDefinition(name, _plain_type(kind), options, required)


def _read_inputs(
    node: str, spec: Mapping[str, Any], order: Mapping[str, Any]
) -> dict[str, InputDefinition]:
    inputs: dict[str, InputDefinition] = {}
    for section in ("required", "optional"):
        entries = spec.get(section) or {}
        listed = [name for name in order.get(section) or () if name in entries]
        for name in dict.fromkeys([*listed, *entries]):
            required = section == "required"
            inputs[name] = read_input(node, name, entries[name], required=required)
    return inputs


def _read_hidden(spec: Any) -> dict[str, str]:
    """Return name -> kind; newer servers write the kind as a list of one."""
    if not isinstance(spec, Mapping):
        return {}
    return {
        name: str(kind[0] if isinstance(kind, (list, tuple)) and kind else kind)
        for name, kind in spec.items()
    }


def _plain_type(kind: Any) -> NodeType:
    return list(kind) if isinstance(kind, (list, tuple)) else kind
