"""What a run tells while it goes: events in the host's shapes, progress, and being stopped.

A node calls `report_progress`; outside of a run that does nothing.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TextIO

from ..errors import Cancelled

Event = dict[str, Any]  # {"type": ..., "data": {...}}
EventCallback = Callable[[Event], None]


def json_lines(stream: TextIO) -> EventCallback:
    """Return a callback that writes each event as one line of strict JSON."""

    def write(event: Event) -> None:
        stream.write(json.dumps(event, default=_described) + "\n")
        stream.flush()

    return write


@dataclass(frozen=True)
class Announcer:
    """Sends the events of one run, and knows whether it was asked to stop."""

    prompt_id: str
    callback: EventCallback | None
    stop: threading.Event

    def tell(self, kind: str, **data: Any) -> None:
        """Tell one event; every one names the run, and those with a time say it in ms."""
        if self.callback is None:
            return
        if kind.startswith("execution_"):
            data["timestamp"] = int(time.time() * 1000)
        self.callback({"type": kind, "data": {**data, "prompt_id": self.prompt_id}})

    def check_cancelled(self) -> None:
        """Raise Cancelled where the run was asked to stop."""
        if self.stop.is_set():
            raise Cancelled("the run was interrupted; what was finished before stays cached")


CURRENT_NODE: ContextVar[tuple[Announcer, str] | None] = ContextVar("current_node", default=None)


def report_progress(value: float, total: float) -> None:
    """Say how far the node that calls this is.

    Raises:
        Cancelled: the run was asked to stop.
    """
    current = CURRENT_NODE.get()
    if current is not None:
        announcer, node = current
        announcer.check_cancelled()
        announcer.tell("progress", value=value, max=total, node=node)


def _described(value: Any) -> str:
    return f"<{type(value).__name__}>"
