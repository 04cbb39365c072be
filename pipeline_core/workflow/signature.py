"""What a node's result depends on, as a short digest: equal digests mean equal results.

A digest covers the class, the constants, IS_CHANGED's answer and the digests of all that feeds the
node; never ids, so equal sub-graphs share results. None: can never be reused, nor what follows.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from .definitions import NodeDefinition
from .graph import Link, WorkflowNode

Signature = bytes | None

_ENCODER = json.JSONEncoder(sort_keys=True)
_PLAIN = (str, int, float, bool, type(None), Link)


class _Known(NamedTuple):
    node: WorkflowNode
    sources: Sequence[Signature]
    changed: Any
    signature: Signature


class Signatures:
    """Computes signatures; a node that is as it was, on unchanged inputs, is not hashed again."""

    def __init__(self) -> None:
        self._known: dict[str, _Known] = {}
        self.hashed = 0  # nodes hashed so far

    def sign(
        self,
        key: str,
        node: WorkflowNode,
        definition: NodeDefinition,
        sources: Sequence[Signature],
        changed: str | float | None,
        *,
        by_id: bool,
    ) -> Signature:
        """Return the signature of node `key`.

        Args:
            sources: signatures of what feeds its linked inputs, in the order of the definition.
            changed: what IS_CHANGED said as text, None without one; NaN means "always".
            by_id: the id counts too (the node wants to know it, or is never the same twice).
        """
        if None in sources or changed != changed:
            return None
        known = self._known.get(key)
        if (
            known is not None
            and known.sources == sources
            and _same(known.changed, changed)
            and _same_node(known.node, node)
        ):
            self._known[key] = known._replace(node=node)
            return known.signature
        self.hashed += 1
        signature = _digest(key if by_id else None, node, definition, sources, changed)
        self._known[key] = _Known(node, sources, changed, signature)
        return signature

    def forget_all_but(self, keys: set[str]) -> None:
        """Drop what is known of nodes that are no longer there."""
        self._known = {key: known for key, known in self._known.items() if key in keys}


def _digest(
    key: str | None,
    node: WorkflowNode,
    definition: NodeDefinition,
    sources: Sequence[Signature],
    changed: Any,
) -> Signature:
    given = iter(sources)
    parts: list[Any] = [node.class_type, key, changed]
    for name in definition.inputs:
        if name in node.inputs:
            value = node.inputs[name]
            if type(value) is Link:
                parts.append([name, value.slot, (next(given) or b"").hex()])
            else:
                parts.append([name, value])
    try:
        text = _ENCODER.encode(parts)
    except (TypeError, ValueError, RecursionError):  # a tensor, mixed keys, a value in itself
        return None
    return hashlib.blake2b(text.encode("ascii"), digest_size=20).digest()


def _same_node(one: WorkflowNode, other: WorkflowNode) -> bool:
    if one is other:
        return True
    if one.class_type != other.class_type or one.inputs.keys() != other.inputs.keys():
        return False
    return all(_same(value, other.inputs[name]) for name, value in one.inputs.items())


def _same(one: Any, other: Any) -> bool:
    """Tell whether two values are surely the same; 1, 1.0 and True are three values."""
    return one is other or (type(one) is type(other) and isinstance(one, _PLAIN) and one == other)
