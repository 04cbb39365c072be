"""Which node may run next: those whose needed sources are done; linear in nodes and links."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable


class Schedule:
    """Keeps who waits for whom; outputs and async nodes go first among the ready.

    Args:
        sources: the nodes that a node needs before it can run at all.
        is_done: whether a node's result is there.
        is_urgent: whether to run a node before others that are ready.
    """

    def __init__(
        self,
        sources: Callable[[str], Iterable[str]],
        is_done: Callable[[str], bool],
        is_urgent: Callable[[str], bool],
    ) -> None:
        self._sources = sources
        self._is_done = is_done
        self._is_urgent = is_urgent
        self._missing: dict[str, int] = {}  # for each waiting node, how many sources
        self._consumers: dict[str, list[str]] = {}
        self._ready: tuple[deque[str], deque[str]] = (deque(), deque())

    def add(self, keys: Iterable[str]) -> None:
        """Let these nodes run, after everything that they need."""
        waiting = list(keys)
        while waiting:
            key = waiting.pop()
            if key not in self._missing and not self._is_done(key):
                waiting += self._wait(key, self._sources(key))

    def wait_again(self, key: str, sources: Iterable[str]) -> None:
        """Let a node that was running wait for further sources."""
        self.add(self._wait(key, sources))

    def next(self) -> str | None:
        """Return a node that can run now and has not been returned since it last waited."""
        urgent, others = self._ready
        if urgent:
            return urgent.popleft()
        return others.pop() if others else None  # depth first: results are used while fresh

    def finish(self, key: str) -> None:
        """Say that a node's result is there."""
        self._missing.pop(key, None)
        for consumer in self._consumers.pop(key, ()):
            self._missing[consumer] -= 1
            if self._missing[consumer] == 0:
                self._make_ready(consumer)

    def waiting(self) -> list[str]:
        """Return the nodes whose results are not there yet."""
        return list(self._missing)

    def _wait(self, key: str, sources: Iterable[str]) -> list[str]:
        """Note what a node waits for; return the sources that are not done."""
        missing = [source for source in dict.fromkeys(sources) if not self._is_done(source)]
        self._missing[key] = len(missing)
        for source in missing:
            self._consumers.setdefault(source, []).append(key)
        if not missing:
            self._make_ready(key)
        return missing

    def _make_ready(self, key: str) -> None:
        self._ready[0 if self._is_urgent(key) else 1].append(key)
