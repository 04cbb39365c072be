"""What a caption claims, as classes: a yardstick, and an auxiliary loss, for text states.

A slot is one thing that a caption may claim ("colour of the second thing"); class 0 is "not said".
Three states carry the sentence, whatever its language and word order, and are held to the slots:
`<s>` to the first thing, `</s>` to the second, and the pads, which most of a window is, to all.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..world.palette import COLOURS
from ..world.scene import HAZARD, PLACES, RELATIONS, SHAPES, SIZES, Claims

_FIRST = {
    "shape": (*SHAPES, HAZARD),
    "colour": COLOURS,
    "size": SIZES,
    "place": PLACES,
}
_SECOND = {"second shape": SHAPES, "second colour": COLOURS, "second size": SIZES}
_WHOLE = {"background": COLOURS, "relation": RELATIONS}
SLOTS: dict[str, tuple[str, ...]] = {**_FIRST, **_SECOND, **_WHOLE}
CARRIERS: dict[str, tuple[str, ...]] = {
    "start": (*_FIRST, *_WHOLE),
    "end": (*_SECOND, *_WHOLE),
    "pad": tuple(SLOTS),
}


def claim_classes(claims: Sequence[Claims]) -> torch.Tensor:
    """Return [B, slots], the class of each slot of `SLOTS`; 0 where nothing is claimed."""
    return torch.tensor([[_class(c, slot) for slot in SLOTS] for c in claims])


def _class(claims: Claims, slot: str) -> int:
    if slot in _WHOLE:
        value = getattr(claims, slot)
    else:
        index, name = int(slot in _SECOND), slot.removeprefix("second ")
        value = getattr(claims.things[index], name) if index < len(claims.things) else None
    return 0 if value is None else 1 + SLOTS[slot].index(value)


def carriers(states: torch.Tensor, lengths: torch.Tensor) -> dict[str, torch.Tensor]:
    """Pick the states [B, D] of `<s>`, `</s>` and the pads; the last position must be a pad."""
    rows = torch.arange(len(states), device=states.device)
    return {"start": states[:, 0], "end": states[rows, lengths - 1], "pad": states[:, -1]}


class ClaimReader(torch.nn.Module):
    """One linear layer a carrier: its state to the logits of its slots."""

    def __init__(self, width: int, operations: object = torch.nn) -> None:
        super().__init__()
        self.heads = torch.nn.ModuleDict(
            {
                name: operations.Linear(width, sum(1 + len(SLOTS[slot]) for slot in slots))  # type: ignore[attr-defined]
                for name, slots in CARRIERS.items()
            }
        )

    def logits(self, carried: dict[str, torch.Tensor]) -> dict[tuple[str, str], torch.Tensor]:
        """Return logits [B, classes] by (carrier, slot)."""
        answer = {}
        for name, slots in CARRIERS.items():
            sizes = [1 + len(SLOTS[slot]) for slot in slots]
            parts = self.heads[name](carried[name]).split(sizes, dim=1)
            answer |= {(name, slot): part for slot, part in zip(slots, parts, strict=True)}
        return answer

    def loss(self, carried: dict[str, torch.Tensor], classes: torch.Tensor) -> torch.Tensor:
        """Return the mean cross-entropy over carriers and slots."""
        order = list(SLOTS)
        losses = [
            torch.nn.functional.cross_entropy(logits.float(), classes[:, order.index(slot)])
            for (_, slot), logits in self.logits(carried).items()
        ]
        return torch.stack(losses).mean()

    def right(self, carried: dict[str, torch.Tensor], classes: torch.Tensor) -> torch.Tensor:
        """Say for each caption whether the pads' state tells every slot right: [B] bool."""
        order = list(SLOTS)
        verdicts = [
            logits.argmax(1) == classes[:, order.index(slot)]
            for (name, slot), logits in self.logits(carried).items()
            if name == "pad"
        ]
        return torch.stack(verdicts).all(0)
