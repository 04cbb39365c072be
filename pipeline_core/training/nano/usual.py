"""What goes without saying: captions that leave something open go with scenes that are usual there.

People say where a thing is when it is not in the middle. A network that reads such captions knows
what to draw where a prompt is silent; with any place as likely as another it halves itself between
them, and draws two circles where one was asked for.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import replace

from ..world.captions import caption, details
from ..world.mixing import detail_of
from ..world.scene import Scene, is_held_out, random_scene

PLACE = "centre"  # of one thing; two stand as their relation says
SIZES = {None: ("large",), "left-of": ("small", "small"), "above": ("small", "small")}
GROUNDS = ("white", "black", "yellow")  # the first that no thing has
SILENT = 0.6  # share of the captions that leave open all that is usual
_OPEN = ("background", "size", "place")  # what a caption need not say


def usual_scene(rng: random.Random) -> Scene:
    """Draw a training scene of which somebody could say what a random caption says."""
    while True:
        scene = random_scene(rng)
        said = detail_of(caption(scene, "en", rng).claims)
        scene = with_usual(scene, _left_open(said))
        if not any(is_held_out(t.shape, t.colour, scene.background) for t in scene.things):
            return scene


def with_usual(scene: Scene, names: Iterable[str]) -> Scene:
    """Return the scene with the usual background, size or place."""
    things, background = scene.things, scene.background
    for name in names:
        if name == "background":
            background = _usual_ground(scene)
        elif name == "place" and scene.relation is None:
            things = tuple(replace(thing, place=PLACE) for thing in things)
        elif name == "size" and scene.relation in SIZES:
            sizes = SIZES[scene.relation]
            things = tuple(replace(t, size=size) for t, size in zip(things, sizes, strict=True))
    return Scene(background, things, scene.relation)


def choose_detail(scene: Scene, language: str, rng: random.Random) -> str:
    """Choose what a caption says of a scene beside shape and colour, as `details` names it.

    It says all that is unusual; what is usual is mostly left open.
    """
    usual = {name for name in _OPEN if with_usual(scene, [name]) == scene}
    known = details(language, scene.relation, "train")
    fitting = {name: len(_left_open(name)) for name in known if usual.issuperset(_left_open(name))}
    if rng.random() < SILENT:
        most = max(fitting.values())
        fitting = {name: count for name, count in fitting.items() if count == most}
    return rng.choice(list(fitting))


def _left_open(detail: str) -> list[str]:
    """Name what a caption of this detail leaves open."""
    return [] if detail == "full" else [name for name in _OPEN if name not in detail]


def _usual_ground(scene: Scene) -> str:
    taken = {thing.colour for thing in scene.things}
    return next(ground for ground in GROUNDS if ground not in taken)
