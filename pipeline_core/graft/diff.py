"""What training changed: which UNet tensors of the multilingual model differ from its base.

The published recipe of AltDiffusion says that keys and values of cross-attention were trained; its
trainer did more (models.md, section 0.9). This report tells for the files at hand, and with it
which graft mode takes over all that carries the language.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, get_args

import torch

from .arithmetic import change, pieces
from .parents import Parent, check_structures
from .recipe import BlockGroup, TensorKind, block_of, group_of, kind_of

Read = Callable[[str], torch.Tensor]
_TITLES: dict[TensorKind, str] = {"kv": "attn2 k,v", "attn2": "attn2 rest", "rest": "rest"}


@dataclass(frozen=True)
class TensorChange:
    """One tensor: squared norms of the base and of the change, the largest change of a value."""

    name: str
    base_square: float
    change_square: float
    largest: float

    @property
    def changed(self) -> bool:
        """Whether any value differs, at the coarser precision of the two files."""
        return self.largest > 0


@dataclass(frozen=True)
class GroupChange:
    """Tensors of one block and kind: how many, how many changed, and by how much.

    `relative` is the norm of the change over the norm of the base.
    """

    block: str
    kind: TensorKind
    tensors: int
    changed: int
    relative: float
    largest: float


@dataclass(frozen=True)
class DiffReport:
    """All tensors of one comparison; `str(report)` is a table for people."""

    base: str
    multilingual: str
    tensors: tuple[TensorChange, ...]

    @property
    def groups(self) -> tuple[GroupChange, ...]:
        """One entry for each block and kind, from the way down to the way up."""
        return tuple(_group(self.tensors))

    @property
    def totals(self) -> tuple[GroupChange, ...]:
        """One entry for each kind, over all blocks."""
        return tuple(_total(kind, self.tensors) for kind in get_args(TensorKind))

    @property
    def advice(self) -> str:
        """The least mode that takes over every change."""
        changed = {group.kind for group in self.totals if group.changed}
        if not changed:
            return "nothing changed: these UNets are equal"
        if "rest" in changed:
            return "training went beyond cross-attention: delta-all takes over all of it"
        mode = "attn2" if "attn2" in changed else "kv"
        return f"all that changed is in delta-{mode}; without the base, replace-{mode}"

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values: totals, groups and every tensor that changed."""
        return {
            "base": self.base,
            "multilingual": self.multilingual,
            "advice": self.advice,
            "totals": [asdict(group) for group in self.totals],
            "groups": [asdict(group) for group in self.groups],
            "changed": [
                {"name": each.name, "relative": _ratio([each]), "largest": each.largest}
                for each in self.tensors
                if each.changed
            ],
        }

    def __str__(self) -> str:
        lines = [
            f"{self.multilingual} against {self.base}: "
            f"{sum(each.changed for each in self.tensors)} of {len(self.tensors)} tensors changed",
            f"{'block':<18}{'part':<12}{'tensors':>8}{'changed':>8}{'relative':>10}{'largest':>10}",
        ]
        for group in (*self.groups, *self.totals):
            lines.append(
                f"{group.block:<18}{_TITLES[group.kind]:<12}{group.tensors:>8}{group.changed:>8}"
                f"{group.relative:>10.2%}{group.largest:>10.2g}"
            )
        return "\n".join([*lines, self.advice])


def diff_parents(base: Parent, multilingual: Parent) -> DiffReport:
    """Compare two models' UNets, tensor by tensor.

    Raises:
        InvalidRequest: they are not of one family.
    """
    check_structures(base.structure, multilingual.structure)
    changes = diff_tensors(base.plan.wanted, base.reader(), multilingual.reader())
    return DiffReport(base.name, multilingual.name, tuple(changes))


def diff_tensors(names: Iterable[str], base: Read, multilingual: Read) -> Iterator[TensorChange]:
    """Yield what changed in each named tensor; two are in memory at a time."""
    for name in names:
        old, new = base(name), multilingual(name)
        base_square = change_square = largest = 0.0
        for _, (before, after) in pieces([old, new], old.device):
            moved = change(after, before)
            base_square += float(before.to(torch.float64).square().sum())
            change_square += float(moved.square().sum())
            largest = max(largest, float(moved.abs().max()))
        yield TensorChange(name, base_square, change_square, largest)


def _group(tensors: Iterable[TensorChange]) -> Iterator[GroupChange]:
    found: dict[tuple[str, TensorKind], list[TensorChange]] = {}
    for each in tensors:
        found.setdefault((block_of(each.name), kind_of(each.name)), []).append(each)
    sides, kinds = get_args(BlockGroup), get_args(TensorKind)
    for block in sorted(
        dict.fromkeys(block for block, _ in found), key=lambda block: sides.index(group_of(block))
    ):
        for kind in kinds:
            if (block, kind) in found:
                yield _summary(block, kind, found[block, kind])


def _total(kind: TensorKind, tensors: Iterable[TensorChange]) -> GroupChange:
    return _summary("all blocks", kind, [each for each in tensors if kind_of(each.name) == kind])


def _summary(block: str, kind: TensorKind, members: list[TensorChange]) -> GroupChange:
    return GroupChange(
        block=block,
        kind=kind,
        tensors=len(members),
        changed=sum(each.changed for each in members),
        relative=_ratio(members),
        largest=max((each.largest for each in members), default=0.0),
    )


def _ratio(members: list[TensorChange]) -> float:
    base = sum(each.base_square for each in members)
    moved = sum(each.change_square for each in members)
    return math.sqrt(moved / base) if base else float(moved > 0)
