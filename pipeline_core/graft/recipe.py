"""What a graft does: its mode, and how much of it each part of the UNet takes.

Modes, from the least that changes to the most: `replace-kv` and `replace-attn2` move the key and
value projections, or the whole cross-attention, toward the multilingual model's; the `delta-` modes
add what its training changed in a base model, `community + strength (multilingual - base)`.
Names are those of diffusers' UNet2DConditionModel.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from ..errors import InvalidRequest, UnknownName
from ..loading.keys_unet import reads_text
from ..ranges import check_number

GraftMode = Literal["replace-kv", "replace-attn2", "delta-kv", "delta-attn2", "delta-all"]
BlockGroup = Literal["down", "mid", "up"]
TensorKind = Literal["kv", "attn2", "rest"]

MODES: tuple[GraftMode, ...] = get_args(GraftMode)
# set of tensors that a mode names -> the kinds in it
_CHOSEN: dict[str, tuple[TensorKind, ...]] = {
    "kv": ("kv",),
    "attn2": ("kv", "attn2"),
    "all": ("kv", "attn2", "rest"),
}
_UP = ("up_blocks", "conv_norm_out", "conv_out")


def kind_of(name: str) -> TensorKind:
    """Return `kv` for key and value projections, `attn2` for the rest of cross-attention."""
    if reads_text(name):
        return "kv"
    return "attn2" if ".attn2." in name else "rest"


def block_of(name: str) -> str:
    """Return the block of a tensor: `down_blocks.1`, `mid_block`, or a layer outside all blocks."""
    first, second, *_ = name.split(".")
    return f"{first}.{second}" if first in ("down_blocks", "up_blocks") else first


def group_of(name: str) -> BlockGroup:
    """Return the side of the UNet: the input layers count as down, the output layers as up."""
    first = name.split(".")[0]
    if first == "mid_block":
        return "mid"
    return "up" if first in _UP else "down"


@dataclass(frozen=True, kw_only=True)
class Strengths:
    """How much of the graft each side of the UNet takes, 0..1."""

    down: float = 1.0
    mid: float = 1.0
    up: float = 1.0

    def __post_init__(self) -> None:
        for group in get_args(BlockGroup):
            check_number(f"strength of {group}", getattr(self, group), 0.0, 1.0)

    @classmethod
    def of(
        cls, strength: float, *, down: float = 1.0, mid: float = 1.0, up: float = 1.0
    ) -> Strengths:
        """Return one strength for all, of which each side takes its share (0..1).

        Raises:
            InvalidRequest: a number is out of range.
        """
        for name, value in (("strength", strength), ("down", down), ("mid", mid), ("up", up)):
            check_number(name, value, 0.0, 1.0)
        return cls(down=strength * down, mid=strength * mid, up=strength * up)


@dataclass(frozen=True)
class GraftRecipe:
    """A mode and its strengths."""

    mode: GraftMode
    strengths: Strengths = field(default_factory=Strengths)

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise UnknownName("graft mode", self.mode, MODES)

    @property
    def needs_base(self) -> bool:
        """Whether the model that the multilingual one was trained from has a part in it."""
        return self.mode.startswith("delta-")

    def check_base(self, base: object) -> None:
        """Refuse a base that is missing.

        Raises:
            InvalidRequest: the mode needs one; the text says which.
        """
        if self.needs_base and base is None:
            raise InvalidRequest(
                f"graft mode {self.mode!r} needs the base that the multilingual model was trained "
                "from (Stable Diffusion 1.4 for AltDiffusion and -m9, 2.1-base for -m18); without "
                "it take replace-attn2"
            )

    def strength_of(self, name: str) -> float:
        """Return the strength at one tensor, 0 where the mode leaves it alone."""
        chosen = kind_of(name) in _CHOSEN[self.mode.partition("-")[2]]
        return getattr(self.strengths, group_of(name)) if chosen else 0.0

    def to_metadata(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)
