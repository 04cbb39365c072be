"""What numbers, names and sizes may be: each check is one line of error with the value received.

Every check raises InvalidRequest (UnknownName for a name that is not in its list).
"""

from __future__ import annotations

import itertools
import math

from .errors import InvalidRequest, UnknownName

MAX_SEED = 2**64 - 1
MAX_SIDE = 16384  # pixels
MAX_PIXELS = 64 * 2**20  # width x height x images of one request


def check_side(name: str, side: int) -> None:
    """Refuse a width or height that is no multiple of 8 in 8..16384 pixels."""
    check_whole(name, side, 8, MAX_SIDE)
    if side % 8:
        near = max(8, round(side / 8) * 8)
        raise InvalidRequest(f"{name} is {side}; it must be a multiple of 8, such as {near}")


def check_pixels(width: int, height: int, count: int) -> None:
    """Refuse more pixels than one request may have."""
    pixels = width * height * count
    if pixels > MAX_PIXELS:
        raise InvalidRequest(
            f"{count} images of {width}x{height} are {pixels / 2**20:.0f} megapixels; "
            f"one request takes {MAX_PIXELS // 2**20}"
        )


def check_sigmas(sigmas: tuple[float, ...] | None) -> None:
    """Refuse explicit noise levels that are not 2..1001 falling numbers of 0 or more."""
    if sigmas is None:
        return
    if not 2 <= len(sigmas) <= 1001:
        raise InvalidRequest(f"sigmas has {len(sigmas)} values; n steps need n + 1, at most 1001")
    for value in sigmas:
        check_number("sigmas", value, 0.0, 1e6)
    if any(later >= earlier for earlier, later in itertools.pairwise(sigmas)):
        raise InvalidRequest("sigmas must fall from value to value")


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Refuse a value that is not one of the choices, naming the nearest."""
    if not isinstance(value, str) or value not in choices:
        raise UnknownName(name, value, choices)


def check_whole(name: str, value: object, low: int, high: int) -> None:
    """Refuse anything but a whole number in low..high."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InvalidRequest(f"{name} is {value!r:.40}; it must be a whole number {low}..{high}")


def check_number(name: str, value: object, low: float, high: float) -> None:
    """Refuse anything but a number in low..high."""
    number = value if isinstance(value, (int, float)) else math.nan
    if isinstance(value, bool) or not low <= number <= high:  # NaN lies nowhere
        raise InvalidRequest(f"{name} is {value!r:.40}; it must be a number {low:g}..{high:g}")
