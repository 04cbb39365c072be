"""A workflow against the node classes: everything that can be known before anything runs.

All errors at once and in the host's JSON shapes; time grows with nodes and links only, and depth
costs no recursion. Facts: ComfyUI's validation (see `check_node`), cycles as in newer servers.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ..errors import UnknownName
from .check_node import NodeCheck, broken_link_json, inner_broken_link_json
from .definitions import InputDefinition, NodeDefinition, definition_from_class
from .failures import InvalidWorkflow, NodeErrors, error_json
from .graph import Link, Workflow, WorkflowNode
from .node_code import attempt

_LONG_CYCLE = 50  # nodes
_SHOWN = 20  # errors in the one-line message; the JSON has all


@dataclass(frozen=True)
class Validation:
    """What may run: outputs in order, the workflow with constants converted, and who failed."""

    workflow: Workflow
    outputs: list[str]
    definitions: Mapping[str, NodeDefinition]
    node_errors: NodeErrors = field(default_factory=dict)


def validate(
    workflow: Workflow,
    node_classes: Mapping[str, type],
    *,
    only: str | None = None,
    titles: Mapping[str, str] | None = None,
) -> Validation:
    """Check everything that the outputs (or the node `only`) need.

    As on the host, outputs with errors are left out and the others may run.

    Raises:
        InvalidWorkflow: a class is unknown, there is no output, or no output is without errors.
        UnknownName: `only` is no node.
    """
    if only is not None and only not in workflow.nodes:
        raise UnknownName("node", only, workflow.nodes)
    definitions = _define(workflow, node_classes, titles or {})
    outputs = [only] if only is not None else [
        key for key, node in workflow.nodes.items() if definitions[node.class_type or ""].is_output
    ]  # fmt: skip
    if not outputs:
        message = "Prompt has no outputs"
        raise InvalidWorkflow(
            f"{message}: no node shows or saves anything", error_json("prompt_no_outputs", message)
        )
    return _Validator(workflow, node_classes, definitions, outputs).result()


def _define(
    workflow: Workflow, node_classes: Mapping[str, type], titles: Mapping[str, str]
) -> dict[str, NodeDefinition]:
    """Return the definitions of the classes in the workflow, asking each class once."""
    missing = [
        (key, node) for key, node in workflow.nodes.items() if node.class_type not in node_classes
    ]
    if missing:
        raise _missing_node_type(missing)
    names = dict.fromkeys(node.class_type or "" for node in workflow.nodes.values())
    definitions: dict[str, NodeDefinition] = {}
    for name in names:
        node_class, title = node_classes[name], titles.get(name, "")
        outcome = attempt(lambda n=name, c=node_class, t=title: definition_from_class(n, c, t))
        if outcome.value is None:
            message = f"node class {name}: its INPUT_TYPES failed: {outcome.error}"
            error = error_json("invalid_prompt", message, message)
            raise InvalidWorkflow(message, error) from outcome.error
        definitions[name] = outcome.value
    return definitions


def _missing_node_type(missing: list[tuple[str, WorkflowNode]]) -> InvalidWorkflow:
    """Return the host's error for the first such node; the message names all of them."""
    key, node = missing[0]
    title = node.title or node.class_type
    if node.class_type is None:
        said = (
            f"Node '{title or f'ID #{key}'}' has no class_type. "
            "The workflow may be corrupted or a custom node is missing."
        )
    else:
        said = f"Node '{title}' not found. The custom node may not be installed."
    names = ", ".join(dict.fromkeys(f"{n.class_type or '?'} (node {k})" for k, n in missing))
    return InvalidWorkflow(
        f"unknown node classes: {names}; install their pack, or hand it in",
        error_json(
            "missing_node_type",
            said,
            f"Node ID '#{key}'",
            node_id=key,
            class_type=node.class_type,
            node_title=title,
        ),
    )


class _Validator:
    def __init__(
        self,
        workflow: Workflow,
        node_classes: Mapping[str, type],
        definitions: Mapping[str, NodeDefinition],
        outputs: list[str],
    ) -> None:
        self._workflow = workflow
        self._classes = node_classes
        self._definitions = definitions
        self._outputs = outputs
        self._errors: dict[str, list[dict[str, Any]]] = {}
        self._closed: set[tuple[str, str]] = set()  # (node, input) whose link has another type
        self._nodes = dict(workflow.nodes)

    def result(self) -> Validation:
        check = NodeCheck(self._workflow, self._definitions)
        for key, via in self._reachable(self._outputs):
            self._check(check, key, via)
        for cycle in self._cycles():
            self._report_cycle(cycle)
        good, node_errors = self._judge_outputs()
        if not good:
            raise _nothing_to_run(self._outputs, self._errors, node_errors)
        workflow = replace(self._workflow, nodes=self._nodes)
        return Validation(workflow, good, self._definitions, node_errors)

    def _check(self, check: NodeCheck, key: str, via: tuple[InputDefinition, Link] | None) -> None:
        node = self._workflow.nodes[key]
        definition = self._definition(key)
        node_class = self._classes[definition.name]
        errors, inputs, broken = check.run(node, definition, node_class)
        if broken is not None:
            json = broken_link_json(broken) if via is None else inner_broken_link_json(broken, *via)
            errors = [*errors, json]
        self._closed.update(
            (key, error["extra_info"]["input_name"])
            for error in errors
            if error["type"] == "return_type_mismatch"
        )
        if errors:
            self._errors[key] = errors
        elif not _same_values(node.inputs, inputs):
            self._nodes[key] = replace(node, inputs=inputs)

    def _definition(self, key: str) -> NodeDefinition:
        return self._definitions[self._workflow.nodes[key].class_type or ""]

    def _sources(self, key: str) -> Iterator[tuple[InputDefinition, Link]]:
        """Yield the links that count: of declared inputs and right type, to nodes that exist."""
        given = self._workflow.nodes[key].inputs
        for name, each in self._definition(key).inputs.items():
            link = given.get(name)
            if type(link) is not Link or (key, name) in self._closed:
                continue
            if link.node in self._workflow.nodes:
                yield each, link

    def _reachable(
        self, starts: Iterable[str]
    ) -> Iterator[tuple[str, tuple[InputDefinition, Link] | None]]:
        """Yield every node that the starts need, once, with the link that led to it."""
        found = dict.fromkeys(starts)
        waiting: list[tuple[str, tuple[InputDefinition, Link] | None]] = [
            (key, None) for key in reversed(found)
        ]
        while waiting:
            key, via = waiting.pop()
            yield key, via
            for each, link in self._sources(key):
                if link.node not in found:
                    found[link.node] = None
                    waiting.append((link.node, (each, link)))

    def _cycles(self) -> Iterator[list[str]]:
        """Yield cycles as the way from a node back to itself, until every node in one is named."""
        done: set[str] = set()
        named: set[str] = set()
        for start in self._outputs:
            path: dict[str, Iterator[tuple[InputDefinition, Link]]] = {}
            if start not in done:
                path[start] = self._sources(start)
            while path:
                key = next(reversed(path))
                step = next(path[key], None)
                if step is None:
                    done.add(key)
                    del path[key]
                elif step[1].node in path:
                    if not named & {key, step[1].node}:
                        back = itertools.takewhile(step[1].node.__ne__, reversed(path))
                        way = [step[1].node, *reversed(list(back)), step[1].node]
                        named.update(way)
                        yield way
                elif step[1].node not in done:
                    path[step[1].node] = self._sources(step[1].node)

    def _report_cycle(self, way: list[str]) -> None:
        nodes = way[:-1]
        names = [f"{key} ({self._definition(key).name})" for key in way]
        if len(nodes) > _LONG_CYCLE:  # said once, or the answer grows with the square
            names[_LONG_CYCLE:-1] = [f"... {len(nodes) - _LONG_CYCLE} more ..."]
        for key in nodes if len(nodes) <= _LONG_CYCLE else nodes[:1]:
            self._errors.setdefault(key, []).append(
                error_json(
                    "dependency_cycle",
                    "Dependency cycle detected",
                    " -> ".join(names),
                    node_id=key,
                    cycle_nodes=nodes,
                )
            )

    def _judge_outputs(self) -> tuple[list[str], NodeErrors]:
        """Return the outputs that need no broken node, and the errors with who depends on them."""
        if not self._errors:
            return self._outputs, {}
        good: list[str] = []
        node_errors: NodeErrors = {}
        for output in self._outputs:
            broken = [key for key, _ in self._reachable([output]) if key in self._errors]
            if not broken:
                good.append(output)
            for key in broken:
                entry = node_errors.setdefault(
                    key,
                    {
                        "errors": self._errors[key],
                        "dependent_outputs": [],
                        "class_type": self._definition(key).name,
                    },
                )
                entry["dependent_outputs"].append(output)
        return good, node_errors


def _same_values(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Tell whether conversion left every value as it was."""
    return all(value is after[name] for name, value in before.items())


def _nothing_to_run(
    outputs: list[str], errors: Mapping[str, list[dict[str, Any]]], node_errors: NodeErrors
) -> InvalidWorkflow:
    lines = [
        f"{error['message']}: {error['details']}" for o in outputs for error in errors.get(o, ())
    ]
    message = "Prompt outputs failed validation"
    said = [
        f"node {key} ({entry['class_type']}): {error['message']}: {error['details']}"
        for key, entry in node_errors.items()
        for error in entry["errors"]
    ]
    more = [f"and {len(said) - _SHOWN} more"] if len(said) > _SHOWN else []
    where = "; ".join([*said[:_SHOWN], *more])
    json = error_json("prompt_outputs_failed_validation", message, "\n".join(lines))
    return InvalidWorkflow(f"{message}: {where}", json, node_errors)
