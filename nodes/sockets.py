"""What travels on the pack's own sockets: loaded parts, and what a node needs to use them.

A part is asked for by `ready`, which has the host bring its network to its device, or by `need`;
both say why where there is none.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ..pipeline_core.errors import InvalidRequest, PipelineError
from ..pipeline_core.models.specs import PredictionType
from . import host

TEXT_ENCODER = "MULTILINGUAL_TEXT_ENCODER"
UNET = "MULTILINGUAL_UNET"
VAE = "MULTILINGUAL_VAE"
SAFETY_CHECKER = "MULTILINGUAL_SAFETY_CHECKER"
SAFETY_RECORD = "MULTILINGUAL_SAFETY_RECORD"

Part = TypeVar("Part")


@dataclass(frozen=True, kw_only=True)
class SocketPart(Generic[Part]):
    """One part of a model: `source` is the model's name; `part` is None where `missing` says why.

    `patcher` is what the host's memory management knows the network by.
    """

    source: str
    part: Part | None = None
    missing: str = ""
    patcher: Any = None

    def need(self) -> Part:
        """Return the part where it lies.

        Raises:
            PipelineError: the model has no such part.
        """
        if self.part is None:
            raise PipelineError(self.missing)
        return self.part

    def ready(self, memory: int = 0) -> Part:
        """Return the part on its device, with so many bytes free beside it.

        Raises:
            PipelineError: the model has no such part.
        """
        part = self.need()
        host.check_interrupted()
        host.bring(self.patcher, memory)
        return part


if TYPE_CHECKING:
    import torch

    from ..pipeline_core.sampling import UNetDenoiser

    _UNetPart = SocketPart[UNetDenoiser]
else:
    _UNetPart = SocketPart


@dataclass(frozen=True, kw_only=True)
class SocketUNet(_UNetPart):
    """A UNet with what sampling must know of its model."""

    scheduler_config: Mapping[str, Any]
    prediction_type: PredictionType | None
    scaling_factor: float
    native_size: int  # pixels a side
    grafted: bool = False  # its cross-attention reads no CLIP, on which LoRAs usually learned

    @property
    def rest(self) -> torch.device | None:
        """Where the host lays the network while nobody uses it; None: it never moves."""
        return None if self.patcher is None else self.patcher.offload_device

    def with_part(self, part: UNetDenoiser) -> SocketUNet:
        """Return the same with another part, whose network the host knows by itself."""
        if part is self.part:
            return self
        patcher = host.make_patcher_beside(self.patcher, part.network)
        return dataclasses.replace(self, part=part, patcher=patcher)

    def known_prediction_type(self) -> PredictionType:
        """Return what the UNet predicts.

        Raises:
            InvalidRequest: neither its files nor the user said it.
        """
        if self.prediction_type is None:
            raise InvalidRequest(
                f"{self.source} does not say what its UNet predicts; choose epsilon or "
                "v_prediction as prediction_type in its loader"
            )
        return self.prediction_type
