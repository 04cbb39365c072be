"""Small rules for values in configs: what a value must be, in words and as a test."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Rule:
    """`accepts(value)` tells whether a value will do; `text` completes "it must be ..."."""

    text: str
    accepts: Callable[[object], bool]

    def __or__(self, other: Rule) -> Rule:
        return Rule(
            f"{self.text} or {other.text}",
            lambda value: self.accepts(value) or other.accepts(value),
        )


def whole(low: int, high: int) -> Rule:
    """Accept whole numbers of a range."""
    text = str(low) if low == high else f"a whole number {low}..{high}"
    return Rule(text, lambda value: type(value) is int and low <= value <= high)


def number(low: float, high: float) -> Rule:
    """Accept finite numbers of a range."""

    def accepts(value: object) -> bool:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return False
        return math.isfinite(value) and low <= value <= high

    return Rule(f"a number {low:g}..{high:g}", accepts)


def one_of(*names: str) -> Rule:
    """Accept these names."""
    return Rule(
        "one of " + ", ".join(names), lambda value: isinstance(value, str) and value in names
    )


def listed(rule: Rule, *, longest: int) -> Rule:
    """Accept lists of 1..`longest` values, each by the rule."""

    def accepts(value: object) -> bool:
        return (
            isinstance(value, list)
            and 0 < len(value) <= longest
            and all(rule.accepts(item) for item in value)
        )

    return Rule(f"a list of 1..{longest}, each {rule.text}", accepts)


def optional(rule: Rule) -> Rule:
    """Accept null too."""
    return Rule(f"null or {rule.text}", lambda value: value is None or rule.accepts(value))


flag = Rule("true or false", lambda value: isinstance(value, bool))
