"""Results of nodes by signature, kept from one run to the next."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import InvalidRequest
from .signature import Signature


@dataclass(frozen=True)
class NodeResult:
    """What a node gave: for each output the list of its values, and what it shows."""

    outputs: Sequence[Sequence[Any]]
    ui: Mapping[str, Any] | None = None


class ResultCache:
    """Keeps what the last run used, or (with a limit) the results used most recently.

    Args:
        limit: how many results to keep; None: those that the last run used; 0: none.
    """

    def __init__(self, limit: int | None = None) -> None:
        if limit is not None and limit < 0:
            raise InvalidRequest(f"cache limit {limit}: use 0 or more, or None")
        self._limit = limit
        self._results: OrderedDict[bytes, NodeResult] = OrderedDict()

    def __len__(self) -> int:
        return len(self._results)

    def get(self, signature: Signature) -> NodeResult | None:
        """Return the result, which now counts as used."""
        if signature is None or signature not in self._results:
            return None
        self._results.move_to_end(signature)
        return self._results[signature]

    def put(self, signature: Signature, result: NodeResult) -> None:
        """Keep a result; the least recently used one goes where the limit asks for it."""
        if signature is None or self._limit == 0:
            return
        self._results[signature] = result
        self._results.move_to_end(signature)
        while self._limit is not None and len(self._results) > self._limit:
            self._results.popitem(last=False)

    def end_run(self, used: Collection[Signature]) -> None:
        """Without a limit, drop what the run that ends here had no use for."""
        if self._limit is None:
            for signature in [key for key in self._results if key not in used]:
                del self._results[signature]
