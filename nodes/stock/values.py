"""Stand-ins for the stock nodes that hold one value, join texts, or show a value as text."""

from __future__ import annotations

import json
from typing import Any

from .definition import StockNode

_LARGEST = 2**63 - 1
_RANGE = {"min": -_LARGEST, "max": _LARGEST}
_TEXT = ("STRING", {"multiline": True})


class PrimitiveInt(StockNode):
    """Hold a whole number."""

    DISPLAY_NAME = "Int"
    REQUIRED = {"value": ("INT", {**_RANGE, "control_after_generate": "fixed"})}
    RETURN_TYPES = ("INT",)

    def execute(self, value: int) -> tuple[int]:
        return (value,)


class PrimitiveFloat(StockNode):
    """Hold a number."""

    DISPLAY_NAME = "Float"
    REQUIRED = {"value": ("FLOAT", {**_RANGE, "step": 0.1})}
    RETURN_TYPES = ("FLOAT",)

    def execute(self, value: float) -> tuple[float]:
        return (value,)


class PrimitiveString(StockNode):
    """Hold a line of text."""

    DISPLAY_NAME = "Text"
    REQUIRED = {"value": ("STRING", {"multiline": False})}
    RETURN_TYPES = ("STRING",)

    def execute(self, value: str) -> tuple[str]:
        return (value,)


class PrimitiveStringMultiline(StockNode):
    """Hold a text of several lines."""

    DISPLAY_NAME = "Text (Multiline)"
    REQUIRED = {"value": _TEXT}
    RETURN_TYPES = ("STRING",)

    def execute(self, value: str) -> tuple[str]:
        return (value,)


class PrimitiveBoolean(StockNode):
    """Hold yes or no."""

    DISPLAY_NAME = "Boolean"
    REQUIRED = {"value": ("BOOLEAN", {})}
    RETURN_TYPES = ("BOOLEAN",)

    def execute(self, value: bool) -> tuple[bool]:
        return (value,)


class StringConcatenate(StockNode):
    """Join two texts."""

    DISPLAY_NAME = "Concatenate Text"
    REQUIRED = {
        "string_a": _TEXT,
        "string_b": _TEXT,
        "delimiter": ("STRING", {"default": "", "multiline": False}),
    }
    RETURN_TYPES = ("STRING",)

    def execute(self, string_a: str, string_b: str, delimiter: str) -> tuple[str]:
        return (delimiter.join((string_a, string_b)),)


class PreviewAny(StockNode):
    """Show any value as text: a text as it is, what JSON can say as JSON."""

    DISPLAY_NAME = "Preview as Text"
    REQUIRED = {"source": ("*", {})}
    RETURN_TYPES = ("STRING",)
    OUTPUT_NODE = True

    def execute(self, source: Any) -> dict[str, Any]:
        text = _as_text(source)
        return {"ui": {"text": (text,)}, "result": (text,)}


def _as_text(value: Any) -> str:
    if value is None or isinstance(value, (str, int, float)):
        return str(value)
    try:
        return json.dumps(value, indent=4, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        return str(value)


NODES = [
    PrimitiveInt,
    PrimitiveFloat,
    PrimitiveString,
    PrimitiveStringMultiline,
    PrimitiveBoolean,
    StringConcatenate,
    PreviewAny,
]
