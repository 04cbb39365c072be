"""Tokens in the name of a saved file: dates, sizes, and values of the graph's own nodes.

The browser replaces some of them before it queues and the server others; here all are replaced.
The counter after the prefix is `images.write_png`'s, which also checks every part of the name.
"""

from __future__ import annotations

import re
from datetime import datetime

from .failures import InvalidWorkflow, error_json
from .graph import Link, Workflow, WorkflowNode, unwrap

TOKEN = re.compile(r"%([^%]+)%")
UNSAFE = re.compile(r'[/?<>\\:*|"\x00-\x1f\x7f]')
_DATE_PART = re.compile(r"yyy?y?|dd?|MM?|hh?|mm?|ss?")
_NOT_LETTERS = re.compile(r"[\W_]+")


def format_date(pattern: str, now: datetime) -> str:
    """Write `now` as a pattern like `yyyy-MM-dd hh:mm:ss` says; other letters stay."""
    parts = {"d": now.day, "M": now.month, "h": now.hour, "m": now.minute, "s": now.second}

    def part(match: re.Match[str]) -> str:
        text = match[0]
        if text[0] == "y":
            return {2: str(now.year)[2:], 3: text, 4: str(now.year)}[len(text)]
        return str(parts[text[0]]).zfill(len(text))

    return _DATE_PART.sub(part, pattern)


def expand_prefix(
    prefix: str,
    *,
    width: int,
    height: int,
    batch_number: int = 0,
    now: datetime | None = None,
    workflow: Workflow | None = None,
) -> str:
    """Return a file name prefix with its tokens replaced; unknown ones stay as they are.

    `%date:yyyy-MM-dd%`, `%year% %month% %day% %hour% %minute% %second%`, `%width% %height%`,
    `%batch_num%`, and `%Node.input%` by title or class for constants of `workflow`.

    Raises:
        InvalidWorkflow: the result is no relative path below the output folder.
    """
    now = now or datetime.now()
    clock = {
        key: format_date(pattern, now)
        for key, pattern in (
            ("year", "yyyy"), ("month", "MM"), ("day", "dd"),
            ("hour", "hh"), ("minute", "mm"), ("second", "ss"),
        )
    }  # fmt: skip
    known = {**clock, "width": str(width), "height": str(height), "batch_num": str(batch_number)}

    def token(match: re.Match[str]) -> str:
        text = match[1]
        if text.startswith("date:"):
            return UNSAFE.sub("_", format_date(text[5:], now))
        node, _, name = text.partition(".")
        value = known.get(text) or (_constant_of(workflow, node, name) if workflow else None)
        return match[0] if value is None else value

    return _below(TOKEN.sub(token, prefix), prefix)


def _constant_of(workflow: Workflow, wanted: str, name: str) -> str | None:
    """Return the constant that the only node of this title, else of this class, has."""
    for label in (_title, _class):
        nodes = [
            node for node in workflow.nodes.values() if name in node.inputs and label(node, wanted)
        ]
        if len(nodes) == 1 and not isinstance(nodes[0].inputs[name], Link):
            return UNSAFE.sub("_", str(unwrap(nodes[0].inputs[name])))
    return None


def _title(node: WorkflowNode, wanted: str) -> bool:
    return bool(node.title) and node.title == wanted


def _class(node: WorkflowNode, wanted: str) -> bool:
    """Compare as the host does: neither case nor punctuation counts."""
    ours, theirs = (_NOT_LETTERS.sub("", text or "").lower() for text in (node.class_type, wanted))
    return ours == theirs


def _below(path: str, prefix: str) -> str:
    parts = path.replace("\\", "/").split("/")
    if (
        path.startswith(("/", "\\", "~"))
        or re.match(r"[A-Za-z]:", path)
        or any(part.strip(" .") == "" and part for part in parts)
        or any(ord(char) < 32 for char in path)
    ):
        message = f"file name {prefix[:80]!r} leads out of the output folder; use a relative name"
        raise InvalidWorkflow(message, error_json("invalid_filename", message))
    return path
