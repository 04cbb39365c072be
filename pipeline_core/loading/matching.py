"""Which tensor of a file is which tensor of a network, decided from names and shapes alone.

A `Spelling` is one way in which files spell the names of a network; `match` takes the spelling
that fits best and says what is missing, extra or misshaped. Names of a file are only ever looked
up in tables made from the network; nothing walks attributes by a name that a file brings.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..errors import WeightsMismatch

Shape = tuple[int, ...]
SHOWN = 4  # names of each kind that an error lists


@dataclass(frozen=True)
class Spelling:
    """One way to spell a network's names: `prefix` + `rename(name of the network)`.

    `others` is a pattern of names behind the prefix that belong to something else in the file.
    """

    title: str
    prefix: str
    rename: Callable[[str], str]
    others: str = "(?!)"  # nothing

    def __call__(self, name: str) -> str:
        return self.prefix + self.rename(name)

    def behind(self, name: str) -> str:
        """Return a name of the file without the prefix."""
        return name[len(self.prefix) :]


@dataclass(frozen=True)
class Match:
    """`found` maps each name of the network to the name in the file."""

    spelling: Spelling
    found: Mapping[str, str]
    unused: tuple[str, ...]  # known leftovers, names in the file
    missing: tuple[str, ...]  # names of the network, as this spelling writes them
    extra: tuple[str, ...]
    misshaped: tuple[tuple[str, Shape, Shape], ...]  # name in the file, its shape, the wanted one

    @property
    def complete(self) -> bool:
        """Whether every tensor is there, with the right shape, and none too many."""
        return not (self.missing or self.extra or self.misshaped)


def same(name: str) -> str:
    """Spell a name as the network does."""
    return name


def match(
    wanted: Mapping[str, Shape],
    present: Mapping[str, Shape],
    spellings: Sequence[Spelling],
    unused: Iterable[str] = (),
) -> Match:
    """Return the best reading of `present`; `unused` are patterns of names no network needs.

    The patterns apply to names behind the prefix. Of two equally good spellings the first wins.
    """
    best = max(spellings, key=lambda spelling: sum(spelling(name) in present for name in wanted))
    found = {name: best(name) for name in wanted if best(name) in present}
    others = re.compile(best.others)
    rest = [
        name
        for name in sorted(present.keys() - set(found.values()))
        if name.startswith(best.prefix) and not others.fullmatch(best.behind(name))
    ]
    needless = re.compile("|".join(f"(?:{pattern})" for pattern in unused) or "(?!)")
    leftovers = [name for name in rest if needless.fullmatch(best.behind(name))]
    return Match(
        spelling=best,
        found=found,
        unused=tuple(leftovers),
        missing=tuple(best(name) for name in wanted if name not in found),
        extra=tuple(name for name in rest if name not in set(leftovers)),
        misshaped=tuple(
            (source, present[source], wanted[name])
            for name, source in found.items()
            if not fits(present[source], wanted[name])
        ),
    )


def fits(present: Shape, wanted: Shape) -> bool:
    """Tell whether a tensor has the wanted shape, a 1x1 convolution being a linear layer."""
    return _linear(present) == _linear(wanted)


def _linear(shape: Shape) -> Shape:
    return shape[:2] if len(shape) == 4 and shape[2:] == (1, 1) else shape


def check_match(found: Match, part: str, where: str) -> None:
    """Raise unless the match is complete.

    Raises:
        WeightsMismatch: naming the first few tensors of each kind.
    """
    if found.complete:
        return
    misshaped = [f"{name} is {list(has)}, not {list(want)}" for name, has, want in found.misshaped]
    kinds = {"missing": found.missing, "extra": found.extra, "misshaped": misshaped}
    listed = "; ".join(
        f"{len(names)} {kind} ({', '.join(names[:SHOWN])}{', ...' * (len(names) > SHOWN)})"
        for kind, names in kinds.items()
        if names
    )
    raise WeightsMismatch(
        f"{where}: the tensors of the {part} do not fit its config (names read as "
        f"{found.spelling.title}): {listed}; the file is incomplete or of another model"
    )
