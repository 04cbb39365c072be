"""Runs workflows: validates, then runs what is not known yet, and keeps the results.

One Executor holds the node classes and what it learned (results, instances, signatures); `run`
twice and only what changed runs again. Facts: ComfyUI's execution semantics.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
import uuid
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from .cache import ResultCache
from .events import Announcer, EventCallback
from .graph import Workflow
from .run import Run
from .run_state import RunMemory, RunResult
from .signature import Signatures
from .validate import validate


class Executor:
    """Runs workflows with the node classes it was given.

    Args:
        node_classes: V1 classes by id.
        titles: their display names, for messages.
        cache_limit: how many results to keep between runs; None: those of the last run.
        on_event: called with every event, in the host's shapes, from the thread that runs.
    """

    def __init__(
        self,
        node_classes: Mapping[str, type],
        *,
        titles: Mapping[str, str] | None = None,
        cache_limit: int | None = None,
        on_event: EventCallback | None = None,
    ) -> None:
        self._classes = dict(node_classes)
        self._titles = dict(titles or {})
        self._on_event = on_event
        self._memory = RunMemory(ResultCache(cache_limit), Signatures(), {})
        self._lock = threading.RLock()
        self._stop = threading.Event()

    def run(
        self,
        workflow: Workflow,
        *,
        only: str | None = None,
        extra_pnginfo: Mapping[str, Any] | None = None,
        prompt_id: str | None = None,
    ) -> RunResult:
        """Run every output (or just node `only`) and what it needs; wait for other runs to end.

        Args:
            extra_pnginfo: for nodes that save; None: the browser's form of the workflow, if known.
            prompt_id: names the run in events; None: a new one.

        Raises:
            InvalidWorkflow: nothing can run; holds all errors as JSON.
            NodeFailed: a node raised; names it, and the cause is chained.
            Cancelled: `interrupt` was called.
        """
        with self._lock:
            self._stop.clear()
            checked = validate(workflow, self._classes, only=only, titles=self._titles)
            announcer = Announcer(prompt_id or str(uuid.uuid4()), self._on_event, self._stop)
            if extra_pnginfo is None and workflow.ui is not None:
                extra_pnginfo = {"workflow": workflow.ui}
            run = Run(checked, self._classes, self._memory, announcer, extra_pnginfo)
            return _in_own_loop(run)

    def interrupt(self) -> None:
        """Stop the run that goes on, before its next node or at the next progress report."""
        self._stop.set()


def _in_own_loop(run: Run) -> RunResult:
    """Run here, or in a thread where this one is busy with an event loop of its own."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return run.execute()
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(contextvars.copy_context().run, run.execute).result()
