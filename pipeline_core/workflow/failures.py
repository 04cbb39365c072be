"""What goes wrong with a graph: it does not validate, or one of its nodes failed.

Both are WorkflowErrors; they also carry the facts as data, in the JSON shapes of the host.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import WorkflowError

NodeErrors = dict[str, dict[str, Any]]  # node id -> {"errors", "dependent_outputs", "class_type"}


class InvalidWorkflow(WorkflowError):
    """The graph cannot run; `to_json()` is what the host's server would answer."""

    def __init__(
        self, message: str, error: Mapping[str, Any], node_errors: NodeErrors | None = None
    ) -> None:
        super().__init__(message)
        self.error = dict(error)
        self.node_errors: NodeErrors = node_errors or {}

    def to_json(self) -> dict[str, Any]:
        """Return `{"error": ..., "node_errors": ...}`."""
        return {"error": self.error, "node_errors": self.node_errors}


class NodeFailed(WorkflowError):
    """A node raised; the cause is chained, and this names the node."""

    def __init__(self, node_id: str, class_type: str, title: str, reason: str) -> None:
        name = (
            f"node {node_id} ({class_type})"
            if title in ("", class_type)
            else (f"node {node_id} ({class_type}, {title!r})")
        )
        super().__init__(f"{name} failed: {reason}")
        self.node_id = node_id
        self.class_type = class_type
        self.title = title


def error_json(kind: str, message: str, details: str = "", **extra_info: Any) -> dict[str, Any]:
    """Return one error as the host writes it."""
    return {"type": kind, "message": message, "details": details, "extra_info": extra_info}


def malformed(where: str, problem: str) -> InvalidWorkflow:
    """Return the error for text that is no workflow at all."""
    message = f"{where}: {problem}"
    return InvalidWorkflow(message, error_json("invalid_prompt", message))
