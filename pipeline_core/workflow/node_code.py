"""Calls into code that came with a node class, which may raise anything at all.

The only place with a broad except: what a node raises must become a message that names the node.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from ..errors import Cancelled

T = TypeVar("T")


@dataclass(frozen=True)
class Outcome(Generic[T]):
    """What a call gave: a value, or the exception it raised."""

    value: T | None = None
    error: Exception | None = None


def attempt(function: Callable[[], T]) -> Outcome[T]:
    """Call `function` and return its value or its exception; only Cancelled passes through."""
    try:
        return Outcome(function())
    except Cancelled:
        raise
    except Exception as exc:  # noqa: BLE001 - a node may raise anything
        return Outcome(error=exc)


def exception_name(exc: BaseException) -> str:
    """Return the type's full name, as the host's errors have it."""
    kind = type(exc)
    module = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
    return module + kind.__qualname__


def format_frames(exc: BaseException) -> list[str]:
    """Return the traceback's lines, as the host's errors have them."""
    return traceback.format_tb(exc.__traceback__)
