"""What the browser replaces in texts when it queues: `{a|b}` choices, and names of saved files."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from .filenames import TOKEN, UNSAFE, format_date
from .ui_graph import UiNode

_COMMENT = re.compile(r"/\*.*?\*/|//[^\n\r\u2028\u2029]*", re.DOTALL)
_SAVING = frozenset(
    {
        "SaveImage", "SaveImageAdvanced", "SaveSVGNode", "SaveVideo", "SaveAnimatedWEBP",
        "SaveWEBM", "SaveAudio", "SaveAudioMP3", "SaveAudioOpus", "SaveAudioAdvanced", "SaveGLB",
        "Save3DAdvanced", "SaveGaussianSplat", "SavePointCloud", "SaveAnimatedPNG", "CLIPSave",
        "VAESave", "ModelSave", "LoraSave", "SaveLatent",
    }
)  # fmt: skip


class TextReplacements:
    """Replaces `%date:...%` and `%Node.widget%`; other tokens stay for the server."""

    def __init__(self, nodes: Sequence[tuple[UiNode, Mapping[str, Any]]], now: datetime) -> None:
        self._now = now
        self._by_name: dict[str, Mapping[str, Any]] = {}
        self._by_title: dict[str, Mapping[str, Any]] = {}
        for node, widgets in nodes:
            self._by_name.setdefault(str(node.properties.get("Node name for S&R") or ""), widgets)
            self._by_title.setdefault(node.title, widgets)

    def apply_to(self, class_type: str, name: str) -> bool:
        """Tell whether the browser replaces tokens in this widget."""
        return name == "filename_prefix" and class_type in _SAVING

    def replace(self, text: str) -> str:
        """Return the text with its tokens replaced."""
        return TOKEN.sub(self._replaced, text)

    def _replaced(self, match: re.Match[str]) -> str:
        parts = match[1].split(".")
        if len(parts) != 2:
            is_date = parts[0].startswith("date:")
            return format_date(parts[0].removeprefix("date:"), self._now) if is_date else match[0]
        widgets = self._by_name.get(parts[0], self._by_title.get(parts[0]))
        if widgets is None or parts[1] not in widgets:
            return match[0]
        return UNSAFE.sub("_", as_text(widgets[parts[1]]))


def as_text(value: Any) -> str:
    """Return a widget's value as the browser shows it."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return str(int(value)) if isinstance(value, float) and value % 1 == 0 else str(value)


def choose_prompt(text: str, choices: random.Random) -> str:
    """Strip comments and choose one option of every `{a|b}`; a backslash keeps a bracket."""
    text = _COMMENT.sub("", text)
    # one frame for each open bracket: the options so far, and the pieces of the one being read
    frames: list[tuple[list[str], list[str]]] = [([], [])]
    for piece in re.findall(r"\\.?|[{}|]|[^\\{}|]+", text, re.DOTALL):
        options, pieces = frames[-1]
        inside = len(frames) > 1
        if piece == "{":
            frames.append(([], []))
        elif piece == "|" and inside:
            options.append("".join(pieces))
            pieces.clear()
        elif piece == "}" and inside:
            frames.pop()
            frames[-1][1].append(choices.choice([*options, "".join(pieces)]))
        else:
            pieces.append(piece)
    while len(frames) > 1:  # a bracket that never closes ends with the text
        options, pieces = frames.pop()
        frames[-1][1].append(choices.choice([*options, "".join(pieces)]))
    return re.sub(r"\\([{}|])", r"\1", "".join(frames[0][1]))
