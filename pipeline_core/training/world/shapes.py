"""Signed distances of the shapes: negative inside, near the edge exact, in units of the size.

Coordinates are [..., H, W] with x to the right and y down; each bounding box is centred on 0 and
between 0.84 and 1.12 wide and high. Heart: https://iquilezles.org/articles/distfunctions2d/ (MIT).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from .scene import HAZARD

Distance = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

STAR_TIP, STAR_NOTCH = 0.58, 0.25  # radii
HEART_SCALE = 0.9
HAZARD_RADIUS, HAZARD_BORDER = 0.35, 0.1  # of the inscribed circle; width of the black border


def circle(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Disc of diameter 1."""
    return torch.hypot(x, y) - 0.5


def ring(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Annulus whose hole is 0.64 wide."""
    return (torch.hypot(x, y) - 0.42).abs_() - 0.1


def square(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Square of side 0.88."""
    return torch.maximum(x.abs(), y.abs()) - 0.44


def diamond(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Rhombus on its corner, taller than wide, so that no tilt makes it a square."""
    width, height = 0.42, 0.56
    return (x.abs() * height + y.abs() * width - width * height) / math.hypot(width, height)


def triangle(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Equilateral triangle on its base."""
    return _triangle(x, y - 0.16, 0.32)


def _triangle(x: torch.Tensor, y: torch.Tensor, radius: float) -> torch.Tensor:
    """Equilateral triangle around its centroid; `radius` of the inscribed circle."""
    return torch.maximum(y, x.abs() * math.sqrt(0.75) - y / 2) - radius


def star(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Five-pointed star on two feet: the plane is folded onto half a point, one straight edge."""
    x, y = x.abs(), STAR_TIP * (1 - math.cos(math.pi / 5)) / 2 - y
    for side in (1, -1):  # mirror at the lines through the notches
        normal_x, normal_y = side * math.cos(math.pi / 5), -math.sin(math.pi / 5)
        fold = 2 * (x * normal_x + y * normal_y).clamp_(min=0)
        x, y = x - fold * normal_x, y - fold * normal_y
    notch_x, notch_y = STAR_NOTCH * math.sin(math.pi / 5), STAR_NOTCH * math.cos(math.pi / 5)
    edge = math.hypot(notch_x, STAR_TIP - notch_y)
    return (x.abs() * (STAR_TIP - notch_y) + (y - STAR_TIP) * notch_x) / edge


def cross(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Upright cross with equal arms."""
    x, y = x.abs(), y.abs()
    return torch.maximum(torch.maximum(x, y) - 0.5, torch.minimum(x, y) - 0.17)


def heart(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Upright heart: two discs on a square that stands on its corner."""
    x, y = x.abs() / HEART_SCALE, 0.552 - y / HEART_SCALE
    lobe = torch.hypot(x - 0.25, y - 0.75) - math.sqrt(0.125)
    along = (x + y).clamp(min=0) / 2
    below = torch.minimum(torch.hypot(x, y - 1), torch.hypot(x - along, y - along))
    return torch.where(x + y > 1, lobe, below * torch.sign(x - y)) * HEART_SCALE


def hazard(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Outline of the hazard sign: a triangle with blunt corners."""
    y = y - HAZARD_RADIUS / 2 + 0.04
    return torch.maximum(_triangle(x, y, HAZARD_RADIUS), torch.hypot(x, y) - 0.62)


def hazard_field(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Yellow part of the hazard sign, the exclamation mark left out."""
    y = y - HAZARD_RADIUS / 2 + 0.04
    bar = torch.hypot(x, y - y.clamp(-0.2, 0.0)) - 0.062
    dot = torch.hypot(x, y - 0.14) - 0.068
    return torch.maximum(_triangle(x, y, HAZARD_RADIUS - HAZARD_BORDER), -torch.minimum(bar, dot))


DISTANCES: dict[str, Distance] = {
    "circle": circle,
    "square": square,
    "triangle": triangle,
    "star": star,
    "heart": heart,
    "ring": ring,
    "cross": cross,
    "diamond": diamond,
    HAZARD: hazard,
    "hazard-field": hazard_field,
}
