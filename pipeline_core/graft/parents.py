"""The models that a graft is made of, checked against each other by their headers alone.

Which goes with which is read off the UNets: SD1.x checkpoints have those of AltDiffusion and -m9,
SD2.x-base ones those of AltDiffusion-m18 and Chinese Stable Diffusion.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from ..assemble import find_prediction_type
from ..errors import FileRefused, InvalidRequest, ModelNotFound
from ..loading.matching import Shape, check_match
from ..loading.parts import load_scheduler_config
from ..loading.plans import PartPlan, plan_unet
from ..loading.tensors import RENEW_BYTES, open_weights
from ..models.detection import Detection
from ..models.headers import is_pickle
from ..models.specs import PredictionType
from ..sources import LoadOptions

Role = Literal["community", "multilingual", "base"]
WHICH = (
    "SD1.x checkpoints take AltDiffusion or AltDiffusion-m9, SD2.x-base ones AltDiffusion-m18 or "
    "Chinese Stable Diffusion"
)


@dataclass(frozen=True)
class Structure:
    """What must be equal in all parents: their tensors and the attention heads of each block."""

    title: str  # for messages
    shapes: Mapping[str, Shape]  # by diffusers' names
    context_width: int
    heads: tuple[int, ...]
    prediction_type: PredictionType | None = None  # None: not known

    @classmethod
    def of(
        cls,
        title: str,
        network: torch.nn.Module,
        config: Mapping[str, Any],
        prediction_type: PredictionType | None = None,
    ) -> Structure:
        """Read the structure off a UNet; it may be on the meta device.

        Raises:
            InvalidRequest: it is a dual UNet.
        """
        if any(".processor." in name for name in network.state_dict()):
            raise InvalidRequest(
                f"{title} listens to CLIP already; graft first, make the UNet dual last"
            )
        heads = config["attention_head_dim"]
        return cls(
            title=title,
            shapes={name: tuple(value.shape) for name, value in network.state_dict().items()},
            context_width=config["cross_attention_dim"],
            heads=(heads,) * len(config["block_out_channels"])
            if isinstance(heads, int)
            else tuple(heads),
            prediction_type=prediction_type,
        )


def check_structures(first: Structure, other: Structure) -> None:
    """Refuse two UNets that do not belong to one family.

    Raises:
        InvalidRequest: saying in what they differ.
    """
    if first.context_width != other.context_width:
        raise InvalidRequest(
            f"{first.title} takes conditioning of {first.context_width} numbers a token and "
            f"{other.title} one of {other.context_width}; {WHICH}"
        )
    if first.shapes != other.shapes:
        names = sorted(first.shapes.keys() | other.shapes.keys())
        differing = [name for name in names if first.shapes.get(name) != other.shapes.get(name)]
        name = differing[0]
        raise InvalidRequest(
            f"the UNets of {first.title} and {other.title} differ in {len(differing)} tensors, "
            f"such as {name}: {_shape(first, name)} and {_shape(other, name)}; {WHICH}"
        )
    if first.heads != other.heads:
        raise InvalidRequest(
            f"the UNets of {first.title} and {other.title} have {list(first.heads)} and "
            f"{list(other.heads)} attention heads (or channels a head); {WHICH}"
        )
    predicted = {first.prediction_type, other.prediction_type}
    if predicted == {"epsilon", "v_prediction"}:
        raise InvalidRequest(
            f"the UNet of {first.title} predicts {first.prediction_type} and that of {other.title} "
            f"{other.prediction_type}; a graft needs two of one kind"
        )


def _shape(structure: Structure, name: str) -> str:
    return str(list(structure.shapes[name])) if name in structure.shapes else "absent"


@dataclass(frozen=True)
class Parent:
    """One model's UNet, known by its header."""

    role: Role
    detection: Detection
    plan: PartPlan
    prediction_type: PredictionType

    @property
    def name(self) -> str:
        """The name of its folder or file, without the place."""
        return self.detection.path.resolve().name

    @property
    def structure(self) -> Structure:
        """What the other parents must equal."""
        return Structure.of(
            f"{self.name} ({self.role})", self.plan.network, self.plan.config, self.prediction_type
        )

    def reader(self) -> TensorReader:
        """Return what reads its tensors."""
        return TensorReader(self.plan)


class TensorReader:
    """Reads tensors by their diffusers names, in any order; keep none of them.

    Mapped files are opened anew from time to time, so that the pages that were read are dropped.
    """

    def __init__(self, plan: PartPlan) -> None:
        self._plan, self._source, self._passed = plan, plan.source, 0

    def __call__(self, name: str) -> torch.Tensor:
        """Return a tensor on the CPU, in the shape the network has it."""
        if self._passed > RENEW_BYTES and not any(map(is_pickle, self._source.paths)):
            self._source, self._passed = open_weights(self._source.paths), 0
        file_name = self._plan.match.found[name]
        self._passed += self._source.tensors[file_name].nbytes
        return self._source.read(file_name).reshape(self._plan.wanted[name])


@dataclass(frozen=True)
class Parents:
    """Community and multilingual model, and the base that the multilingual one was trained from."""

    community: Parent
    multilingual: Parent
    base: Parent | None

    @property
    def all(self) -> tuple[Parent, ...]:
        """Those that are there."""
        base = (self.base,) if self.base else ()
        return (self.community, self.multilingual, *base)


def open_parents(
    community: str | Path,
    multilingual: str | Path,
    base: str | Path | None,
    options: LoadOptions,
    prediction_type: PredictionType | None = None,
) -> Parents:
    """Open all parents of a graft; no weights are read.

    Args:
        prediction_type: what those UNets predict whose files do not say (plain SD2.x checkpoints).

    Raises:
        ModelNotFound, FileRefused, WeightsMismatch: a parent is no whole UNet.
        InvalidRequest: they do not go together.
    """
    first = open_parent("community", community, options, prediction_type)
    second = open_parent("multilingual", multilingual, options, prediction_type)
    third = None if base is None else open_parent("base", base, options, prediction_type)
    if second.detection.encoder is None:
        raise ModelNotFound(
            f"{second.name} has no multilingual text encoder, so it has no language to lend; give "
            "the checkpoint that receives it first, then the multilingual model"
        )
    check_structures(first.structure, second.structure)
    if third is not None:
        check_structures(second.structure, third.structure)
    return Parents(first, second, third)


def open_parent(
    role: Role,
    place: str | Path,
    options: LoadOptions,
    prediction_type: PredictionType | None = None,
) -> Parent:
    """Open one parent.

    Raises:
        ModelNotFound, FileRefused, WeightsMismatch: it is no whole UNet of a kind we know.
        InvalidRequest: it is not known what it predicts.
    """
    found = options.find(place)
    if found.unet_family == "other":
        raise FileRefused(f"{place} cannot be grafted: {'; '.join(found.reasons)}; {WHICH}")
    plan = plan_unet(found, allow_pickle=options.allow_pickle)
    check_match(plan.match, plan.part, plan.source.where)
    predicts = find_prediction_type(found, load_scheduler_config(found)) or prediction_type
    if predicts is None:
        raise InvalidRequest(
            f"{place} does not say what its UNet predicts; give the prediction type: epsilon for "
            "SD2.x-base models, v_prediction for the 768-pixel ones"
        )
    return Parent(role, found, plan, predicts)
