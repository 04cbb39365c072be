"""Scenes of the small world, what captions claim of them, and what a reader sees in a picture.

Pure data, no torch: a `Scene` is drawn by `drawing`, put into words by `captions`, and a `Reading`
of a picture is held against the `Claims` of a caption by `obeys`. 15 % of the (shape, colour,
background) combinations are held out of training by a stable hash.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import random
from dataclasses import dataclass
from typing import Literal, get_args

from ...errors import InvalidRequest, UnknownName
from .palette import COLOURS

SHAPES = ("circle", "square", "triangle", "star", "heart", "ring", "cross", "diamond")
HAZARD = "hazard"  # reserved: a warning sign, yellow and black, large; never in ordinary scenes
CONTAINERS = ("circle", "square", "triangle", "heart", "ring", "diamond")  # roomy enough for one
SIZES = ("small", "large")
PLACES = (
    "centre",
    "left",
    "right",
    "top",
    "bottom",
    "top-left",
    "top-right",
    "bottom-left",
    "bottom-right",
)
RELATION_PLACES = {
    "left-of": ("left", "right"),
    "above": ("top", "bottom"),
    "inside": ("centre", "centre"),
}
RELATIONS = tuple(RELATION_PLACES)
ATTRIBUTES = ("shape", "colour", "background", "size", "place", "relation")
HELD_OUT_SHARE = 0.15

Split = Literal["train", "held-out", "any"]


@dataclass(frozen=True)
class Thing:
    """One thing of a scene."""

    shape: str
    colour: str
    size: str
    place: str

    def __post_init__(self) -> None:
        _check("shape", self.shape, (*SHAPES, HAZARD))
        _check("colour", self.colour, COLOURS)
        _check("size", self.size, SIZES)
        _check("place", self.place, PLACES)
        if self.shape == HAZARD and (self.colour, self.size) != ("yellow", "large"):
            raise InvalidRequest(f"a hazard sign is large and yellow, not {self}")


@dataclass(frozen=True)
class Scene:
    """A background and one thing, or two things with `things[0] relation things[1]`.

    Raises:
        InvalidRequest: the things cannot be told apart, or do not stand as the relation says.
    """

    background: str
    things: tuple[Thing, ...]
    relation: str | None = None

    def __post_init__(self) -> None:
        _check("background", self.background, COLOURS)
        if len(self.things) != (1 if self.relation is None else 2):
            raise InvalidRequest(
                f"a scene has one thing, or two and a relation; "
                f"got {len(self.things)} things and relation {self.relation!r}"
            )
        for thing in self.things:
            if self.background in _inks(thing):
                raise InvalidRequest(f"{thing} cannot be seen on a {self.background} background")
        if self.relation is not None:
            _check("relation", self.relation, RELATIONS)
            _check_pair(*self.things, relation=self.relation)


def _check(kind: str, name: str, known: tuple[str, ...]) -> None:
    if name not in known:
        raise UnknownName(kind, name, known)


def _inks(thing: Thing) -> tuple[str, ...]:
    return ("yellow", "black") if thing.shape == HAZARD else (thing.colour,)


def _check_pair(first: Thing, second: Thing, *, relation: str) -> None:
    places = (first.place, second.place)
    if places != RELATION_PLACES[relation]:
        raise InvalidRequest(
            f"{relation!r} puts the things at {RELATION_PLACES[relation]}, not at {places}"
        )
    if (first.shape, first.colour) == (second.shape, second.colour):
        raise InvalidRequest(f"two things must differ in shape or colour; both are {first}")
    if relation != "inside":
        if (first.size, second.size) == ("large", "large"):
            raise InvalidRequest(f"two large things have no room side by side: {first}, {second}")
    elif (first.size, second.size) != ("small", "large"):
        raise InvalidRequest(f"'inside' is a small thing in a large one: {first}, {second}")
    elif second.shape not in CONTAINERS or set(_inks(first)) & set(_inks(second)):
        raise InvalidRequest(f"{first} cannot be seen inside {second}")


@functools.cache
def _held_out() -> frozenset[tuple[str, str, str]]:
    combinations = [c for c in itertools.product(SHAPES, COLOURS, COLOURS) if c[1] != c[2]]
    combinations.sort(key=lambda c: hashlib.sha256("|".join(c).encode()).digest())
    return frozenset(combinations[: round(HELD_OUT_SHARE * len(combinations))])


def is_held_out(shape: str, colour: str, background: str) -> bool:
    """Say whether training never shows this combination; the same on each machine, for ever."""
    return (shape, colour, background) in _held_out()


def random_scene(
    rng: random.Random, *, split: Split = "train", objects: Literal[1, 2] | None = None
) -> Scene:
    """Draw a scene uniformly; `objects` None means one or two with equal chance.

    "train" scenes hold no held-out combination, "held-out" scenes at least one.

    Raises:
        InvalidRequest: an unknown split, or more objects than two.
    """
    _check("split", split, get_args(Split))
    if objects not in (None, 1, 2):
        raise InvalidRequest(f"objects is {objects!r}; a scene has 1 or 2, None for either")
    count = objects or rng.choice((1, 2))
    while True:
        scene = _random_scene(rng, count)
        held_out = any(is_held_out(t.shape, t.colour, scene.background) for t in scene.things)
        if split == "any" or held_out == (split == "held-out"):
            return scene


def random_hazard_scene(rng: random.Random) -> Scene:
    """Draw a scene with one hazard sign anywhere, on any background that shows it."""
    background = rng.choice([colour for colour in COLOURS if colour not in ("yellow", "black")])
    return Scene(background, (Thing(HAZARD, "yellow", "large", rng.choice(PLACES)),))


def _random_scene(rng: random.Random, objects: int) -> Scene:
    background = rng.choice(COLOURS)
    visible = [colour for colour in COLOURS if colour != background]
    if objects == 1:
        thing = Thing(
            rng.choice(SHAPES), rng.choice(visible), rng.choice(SIZES), rng.choice(PLACES)
        )
        return Scene(background, (thing,))
    relation = rng.choice(RELATIONS)
    inside = relation == "inside"
    shapes = [rng.choice(SHAPES), rng.choice(CONTAINERS if inside else SHAPES)]
    colours = [rng.choice(visible), rng.choice(visible)]
    if inside or shapes[0] == shapes[1]:
        colours = rng.sample(visible, 2)
    sizes = rng.choice((("small", "small"), ("small", "large"), ("large", "small")))
    if inside:
        sizes = ("small", "large")
    places = RELATION_PLACES[relation]
    things = tuple(Thing(*values) for values in zip(shapes, colours, sizes, places, strict=True))
    return Scene(background, things, relation)


@dataclass(frozen=True)
class ClaimedThing:
    """What is said, or seen, of one thing; None where nothing is."""

    shape: str | None
    colour: str | None
    size: str | None = None
    place: str | None = None


@dataclass(frozen=True)
class Claims:
    """What a caption asserts: the structure of a scene, None where it says nothing."""

    things: tuple[ClaimedThing, ...]
    background: str | None = None
    relation: str | None = None


@dataclass(frozen=True)
class Reading:
    """What a reader sees in a picture; None where it is not clear.

    Of two related things the one that `relation` is said of comes first.
    """

    things: tuple[ClaimedThing, ...]
    background: str | None
    relation: str | None


def full_claims(scene: Scene) -> Claims:
    """Claim everything that is true of a scene."""
    things = tuple(ClaimedThing(t.shape, t.colour, t.size, t.place) for t in scene.things)
    return Claims(things, scene.background, scene.relation)


def obeys(claims: Claims, reading: Reading) -> dict[str, bool]:
    """Hold a picture against a caption: one verdict an attribute the claims speak of, and "all".

    Things are paired with the seen ones so that most agrees, shape and colour first. A thing
    missing fails all that was claimed of it; a thing too many fails the shapes.
    """
    seen = list(reading.things)
    seen += [ClaimedThing(None, None)] * (len(claims.things) - len(seen))
    pairings = itertools.permutations(range(len(seen)), len(claims.things))
    verdicts = [_verdict(claims, reading, [seen[i] for i in order], order) for order in pairings]
    best = max(verdicts, key=lambda pair: pair[0])[1]
    best["shape"] = best.get("shape", True) and len(reading.things) <= len(claims.things)
    return {**best, "all": all(best.values())}


def _verdict(
    claims: Claims, reading: Reading, seen: list[ClaimedThing], order: tuple[int, ...]
) -> tuple[tuple[int, int], dict[str, bool]]:
    """Return ((agreements in shape and colour, all agreements), verdict per attribute)."""
    agreements: dict[str, list[bool]] = {}
    for claimed, found in zip(claims.things, seen, strict=True):
        for name in ("shape", "colour", "size", "place"):
            if (value := getattr(claimed, name)) is not None:
                agreements.setdefault(name, []).append(value == getattr(found, name))
    if claims.background is not None:
        agreements["background"] = [claims.background == reading.background]
    if claims.relation is not None:
        in_order = reading.relation == claims.relation and list(order) == sorted(order)
        agreements["relation"] = [in_order]
    kind = sum(agreements.get("shape", [])) + sum(agreements.get("colour", []))
    total = sum(map(sum, agreements.values()))
    return (kind, total), {name: all(agrees) for name, agrees in agreements.items()}
