"""A workflow from a file: JSON in the API or the browser's format, or the PNG it made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from .api_format import is_api_format, parse_api
from .definitions import NodeDefinition
from .failures import malformed
from .graph import Workflow
from .json_text import MAX_BYTES, parse_json
from .png_text import SIGNATURE, read_text_chunks
from .ui_format import convert
from .ui_graph import is_ui_format

_PROMPT, _WORKFLOW = "prompt", "workflow"  # the text chunks of the host's pictures


def read_workflow(
    path: Path | str, definitions: Mapping[str, NodeDefinition] | None = None
) -> Workflow:
    """Read a workflow; the browser's format needs the definitions of its node classes.

    A picture's `prompt` chunk wins over its `workflow` chunk, as it is what was really run.

    Raises:
        InvalidWorkflow: it cannot be read, is none, or needs definitions that are not there.
    """
    name = Path(path).name
    try:
        with open(path, "rb") as file:
            is_png = file.read(len(SIGNATURE)) == SIGNATURE
            file.seek(0)
            if is_png:
                chunks = read_text_chunks(file, name, (_PROMPT, _WORKFLOW))
            else:
                chunks = {"": file.read(MAX_BYTES + 1)}
    except (OSError, ValueError) as exc:  # ValueError: a NUL in the path
        raise malformed(str(path)[:200], f"cannot be read: {exc}") from exc
    parts = {key: parse_json(text, name) for key, text in chunks.items()}
    if not is_png:
        return parse_workflow(parts[""], definitions, name)
    if not parts:
        raise malformed(name, "the picture carries no workflow (no such text chunk)")
    workflow = parse_workflow(parts.get(_PROMPT) or parts[_WORKFLOW], definitions, name)
    return replace(workflow, ui=parts.get(_WORKFLOW))


def parse_workflow(
    data: Any, definitions: Mapping[str, NodeDefinition] | None = None, where: str = "workflow"
) -> Workflow:
    """Return the workflow in parsed JSON of either format, or in a request to the host's server.

    Raises:
        InvalidWorkflow: it is none, or needs definitions that are not there.
    """
    if is_ui_format(data):
        if definitions is None:
            raise malformed(
                where, "is in the browser's format; reading it takes the node definitions"
            )
        return convert(data, definitions, where=where)
    if isinstance(data, Mapping) and isinstance(data.get(_PROMPT), Mapping):
        request = parse_workflow(data[_PROMPT], definitions, where)
        extra = (data.get("extra_data") or {}).get("extra_pnginfo") or {}
        return replace(request, ui=extra.get(_WORKFLOW, request.ui))
    if not is_api_format(data):
        raise malformed(where, "is neither an API nor a browser workflow")
    return parse_api(data, where)
