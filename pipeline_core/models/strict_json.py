"""JSON from files that somebody else wrote: an object, or one clear error.

Refused: oversized or deeply nested text, NaN and infinities (also 1e400), numbers of thousands of
digits, a key twice, a byte order mark, text that is not UTF-8.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, NoReturn

from ..errors import FileRefused
from .files import read_at_most

MAX_BYTES = 4 * 2**20
MAX_DEPTH = 64
MAX_DIGITS = 32
MAX_VALUES = 200_000  # commas, so also the cost of parsing


def read_json(path: Path, *, max_bytes: int = MAX_BYTES) -> dict[str, Any]:
    """Read a JSON file whose top is an object.

    Raises:
        FileRefused: naming the file and what is wrong with it.
    """
    return parse_json(read_at_most(path, max_bytes), str(path))


def parse_json(data: bytes, where: str) -> dict[str, Any]:
    """Parse JSON text whose top is an object; `where` names it in errors.

    Raises:
        FileRefused: naming `where` and what is wrong with the text.
    """
    if data.count(b",") > MAX_VALUES:
        raise FileRefused(f"{where}: more than {MAX_VALUES} values")
    try:
        value = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_unique_keys,
            parse_constant=_refuse_constant,
            parse_float=_finite,
            parse_int=_bounded,
        )
    except RecursionError as exc:
        raise FileRefused(f"{where}: nested too deeply") from exc
    except ValueError as exc:  # not UTF-8, not JSON, or one of the hooks below
        raise FileRefused(f"{where}: not valid JSON: {exc}") from exc
    if not isinstance(value, dict):
        raise FileRefused(f"{where}: the top must be an object, not {type(value).__name__}")
    if _deeper_than(value, MAX_DEPTH):
        raise FileRefused(f"{where}: nested more than {MAX_DEPTH} deep")
    return value


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ValueError(f"the key {twice[:80]!r} is there twice")
    return result


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is too large for a number")
    return value


def _bounded(text: str) -> int:
    if len(text) > MAX_DIGITS or text == "-0":  # a float to other parsers
        raise ValueError(f"{text[:40]} is not a number that a file should hold")
    return int(text)


def _deeper_than(value: object, limit: int) -> bool:
    if not isinstance(value, (dict, list)):
        return False
    children = value.values() if isinstance(value, dict) else value
    return limit == 0 or any(_deeper_than(child, limit - 1) for child in children)
