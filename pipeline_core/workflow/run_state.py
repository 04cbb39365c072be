"""What a run starts from, and what it gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .cache import ResultCache
from .failures import NodeErrors
from .signature import Signatures


@dataclass
class RunMemory:
    """What an executor keeps from run to run."""

    results: ResultCache
    signatures: Signatures
    instances: dict[tuple[str, str], Any]


@dataclass(frozen=True)
class RunResult:
    """What a run gave.

    `ui` is what nodes show, by id; `outputs` the values of the nodes that were asked for (for each
    output the list of its values); `node_errors` the outputs that were left out, with reasons.
    """

    prompt_id: str
    ui: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    outputs: dict[str, Sequence[Sequence[Any]]] = field(default_factory=dict)
    executed: list[str] = field(default_factory=list)
    cached: list[str] = field(default_factory=list)
    node_errors: NodeErrors = field(default_factory=dict)
