"""JSON that somebody else wrote: one value, or one clear error; never a crash.

NaN and infinities become null: the host writes them into the metadata of its pictures.
"""

from __future__ import annotations

import json
from typing import Any

from .failures import malformed

MAX_BYTES = 32 * 2**20


def parse_json(data: bytes, where: str) -> Any:
    """Parse UTF-8 JSON text; `where` names it in errors.

    Raises:
        InvalidWorkflow: too large, not JSON, nested too deeply, or a key is there twice.
    """
    if len(data) > MAX_BYTES:
        raise malformed(where, f"larger than {MAX_BYTES >> 20} MB, which no workflow is")
    try:
        return json.loads(
            data.decode("utf-8-sig"),
            object_pairs_hook=_unique_keys,
            parse_constant=lambda name: None,
        )
    except RecursionError as exc:
        raise malformed(where, "nested too deeply") from exc
    except ValueError as exc:  # not UTF-8, not JSON, or a key twice
        raise malformed(where, f"not valid JSON: {exc}") from exc


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ValueError(f"the key {twice[:80]!r} is there twice")
    return result
