"""Node functions that are coroutines: they go on side by side, in the thread of the run."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

from ..errors import WorkflowError

_PATIENCE = 0.05  # seconds between looks at whether the run was asked to stop


class AsyncNodes:
    """The running coroutines by node, on an event loop that is made when first needed."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: dict[asyncio.Task[list[Any]], str] = {}

    def start(self, key: str, calls: Sequence[Coroutine[Any, Any, Any]]) -> None:
        """Start the calls of a node; they see the context variables as they are now."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
        self._tasks[self._loop.create_task(_all(calls))] = key
        self.give_time()

    def running(self) -> bool:
        """Tell whether any node is not finished."""
        return bool(self._tasks)

    def give_time(self) -> None:
        """Let the coroutines go on for a moment, between other nodes."""
        if self._loop is not None and self._tasks:
            self._loop.run_until_complete(asyncio.sleep(0))

    def wait(self) -> list[tuple[str, asyncio.Task[list[Any]]]]:
        """Wait for a while; return the nodes that finished, with their tasks."""
        if self._loop is None:
            return []
        done, _ = self._loop.run_until_complete(
            asyncio.wait(self._tasks, timeout=_PATIENCE, return_when=asyncio.FIRST_COMPLETED)
        )
        return [(self._tasks.pop(task), task) for task in done]

    def close(self) -> None:
        """Cancel what still runs, and close the loop."""
        if self._loop is None:
            return
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            self._loop.run_until_complete(asyncio.gather(*self._tasks, return_exceptions=True))
        self._tasks.clear()
        self._loop.close()
        self._loop = None


def finished(task: asyncio.Task[list[Any]]) -> list[Any]:
    """Return what a finished task gave, or raise what it raised.

    Raises:
        WorkflowError: the node cancelled itself.
    """
    if task.cancelled():
        raise WorkflowError("its coroutine was cancelled")
    return task.result()


async def _all(calls: Sequence[Coroutine[Any, Any, Any]]) -> list[Any]:
    return list(await asyncio.gather(*calls))
