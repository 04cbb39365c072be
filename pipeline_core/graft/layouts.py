"""Which tensors a written graft consists of, file by file, and the small files beside them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import ModelNotFound
from ..loading.dtypes import TORCH_DTYPES
from ..loading.folder_files import write_folder_files, write_json
from ..loading.matching import check_match
from ..loading.outputs import folder_outputs, single_outputs
from ..loading.parts import SCHEDULER_NOTE, load_scheduler_config
from ..loading.plans import PLANNERS, PartPlan
from ..loading.targets import WEIGHTS_FILES
from ..loading.writing import Output
from ..models.detect_checkpoint import MODEL_NOTE
from ..models.detection import Detection, PartName
from ..models.key_prefixes import EMA_PREFIXES, UNET_PREFIX
from .files import grafted_plan
from .parents import Parent, Parents
from .recipe import GraftRecipe

_OF_COMMUNITY: tuple[PartName, ...] = ("unet", "vae", "scheduler", "safety_checker")
_STALE_NOTES = ("modelspec.hash_sha256",)  # of the whole file, before the graft


@dataclasses.dataclass(frozen=True)
class Layout:
    """What is written: tensors by file, notes in every file's header, and small files."""

    files: dict[str, Sequence[Output]]
    metadata: dict[str, str]
    notes: tuple[str, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(output.nbytes for outputs in self.files.values() for output in outputs)

    def write_small_files(self, folder: Path) -> None:
        """Write what is no tensor."""


@dataclasses.dataclass(frozen=True)
class FolderLayout(Layout):
    """A whole multilingual model in the folders of diffusers."""

    detection: Detection
    plans: tuple[PartPlan, ...]
    scheduler: dict[str, Any]

    @classmethod
    def of(cls, parents: Parents, recipe: GraftRecipe, allow_pickle: bool) -> FolderLayout:
        """Plan it.

        Raises:
            ModelNotFound, FileRefused, WeightsMismatch: a part is missing or broken.
            InvalidRequest: the recipe lacks its base.
        """
        whole = _combine(parents)
        parts: list[PartName] = [
            part for part in PLANNERS if part in whole.parts and part != "unet"
        ]
        plans = [PLANNERS[part](whole, allow_pickle=allow_pickle) for part in parts]
        for plan in plans:
            check_match(plan.match, plan.part, plan.source.where)
        plans.append(grafted_plan(parents, recipe))
        return cls(
            files={
                f"{plan.part}/{WEIGHTS_FILES[plan.part]}": folder_outputs(plan, None)
                for plan in plans
            },
            metadata={MODEL_NOTE: whole.spec.name} if whole.spec else {},
            notes=tuple(
                f"the community model has no {part}; it is the multilingual model's"
                for part in ("vae", "safety_checker")
                if part in whole.parts and part not in parents.community.detection.parts
            ),
            detection=whole,
            plans=tuple(plans),
            scheduler=_scheduler(parents.community),
        )

    def write_small_files(self, folder: Path) -> None:
        """Write configs, index and tokenizer."""
        write_folder_files(self.detection, list(self.plans), folder)
        if "scheduler" not in self.detection.parts:
            write_json(folder / "scheduler" / "scheduler_config.json", self.scheduler)


class FileLayout(Layout):
    """One checkpoint in the names of the original code: all that the community's file holds."""

    @classmethod
    def of(cls, name: str, parents: Parents, recipe: GraftRecipe, allow_pickle: bool) -> FileLayout:
        """Plan it; of a folder, UNet and VAE are written.

        Raises:
            FileRefused, WeightsMismatch: the VAE is broken.
            InvalidRequest: the recipe lacks its base.
        """
        community, unet = parents.community, grafted_plan(parents, recipe)
        metadata = {
            key: value
            for key, value in community.plan.source.metadata.items()
            if key not in _STALE_NOTES
        }
        notes: tuple[str, ...] = ()
        if unet.match.spelling.prefix == UNET_PREFIX:
            outputs = _whole_checkpoint(community.plan, unet)
            if community.detection.has_ema:
                notes = ("the community's averaged (EMA) weights were left out",)
        else:
            outputs = single_outputs(unet, None)
            if "vae" in community.detection.parts:
                vae = PLANNERS["vae"](community.detection, allow_pickle=allow_pickle)
                check_match(vae.match, vae.part, vae.source.where)
                outputs += single_outputs(vae, None)
            notes = ("the file holds UNet and VAE; text encoders stay with the parents",)
        metadata[SCHEDULER_NOTE] = json.dumps(_scheduler(community))
        return cls({name: outputs}, metadata, notes)


def _combine(parents: Parents) -> Detection:
    """Return what the new folder holds: the community's picture side, the other's text side."""
    lender = parents.multilingual.detection
    parts = {name: files for name, files in lender.parts.items() if name != "scheduler"}
    for name, files in parents.community.detection.parts.items():
        if name in _OF_COMMUNITY:
            parts[name] = files
    for name in ("text_encoder", "tokenizer", "vae"):
        if name not in parts:
            raise ModelNotFound(f"{lender.path} has no {name}; a graft's folder is a whole model")
    return dataclasses.replace(lender, parts=parts)


def _scheduler(community: Parent) -> dict[str, Any]:
    """Return the community's scheduler values, with what its UNet predicts."""
    given = load_scheduler_config(community.detection)
    return {**given, "prediction_type": community.prediction_type}


def _whole_checkpoint(community: PartPlan, unet: PartPlan) -> list[Output]:
    """Return every tensor of the community's file under its own name, less averaged weights."""
    tensors = community.source.tensors
    return [
        Output(
            name=name,
            shape=info.shape,
            dtype=TORCH_DTYPES[info.dtype],
            source=unet.source if name in unet.source.tensors else community.source,
            source_name=name,
        )
        for name, info in tensors.items()
        if not name.startswith(EMA_PREFIXES)
    ]
