"""`convert`: any layout in, safetensors out: a diffusers folder, or one file in LDM (A1111) names.

Tensors are streamed into a folder under a temporary name, which is renamed when all is on disk.
What this pack does not use of a text encoder is kept, since other tools need it.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..errors import InvalidRequest, UnknownName
from ..models.detect import detect
from ..models.detect_checkpoint import MODEL_NOTE
from ..models.detection import Detection, PartName
from ..models.licences import write_licence
from ..models.part_files import find_tokenizer
from .devices import DTYPES
from .folder_files import copy_tokenizer, write_folder_files
from .matching import check_match
from .outputs import folder_outputs, single_outputs
from .parts import GRAFT_NOTE, SCHEDULER_NOTE, graft_note, load_scheduler_config
from .pickles import list_pickle_tensors
from .plans import PLANNERS, PartPlan, plan_unet
from .targets import (
    WEIGHTS_FILES,
    OnTensor,
    Progress,
    check_space,
    count_bytes,
    existing_parent,
    move_in_place,
    partial_folder,
)
from .writing import Output, write_safetensors

ConvertedDtype = Literal["keep", "fp32", "bf16", "fp16"]
ConvertedLayout = Literal["folder", "single"]
Outputs = Mapping[PartName, Sequence[Output]]


@dataclass(frozen=True)
class ConvertReport:
    """What was written; `notes` say what was left out or remains to be done by hand."""

    path: Path
    parts: tuple[PartName, ...]
    nbytes: int
    notes: tuple[str, ...]


def convert(
    src: Path | str,
    dst: Path | str,
    *,
    dtype: ConvertedDtype = "keep",
    layout: ConvertedLayout = "folder",
    allow_pickle: bool = False,
    ema: bool = False,
    progress: Progress | None = None,
) -> ConvertReport:
    """Write a model anew, its licence beside it; nothing stays if anything fails.

    Raises:
        InvalidRequest: the destination exists or lies in the source, or a choice is unknown.
        ModelNotFound, FileRefused, WeightsMismatch: the source is no whole model.
        PipelineError: the disk is full or not writable.
    """
    target = _check_choices(Path(src), Path(dst), dtype, layout)
    found = detect(src, list_tensors=list_pickle_tensors if allow_pickle else None)
    plans = _plan(found, layout, allow_pickle=allow_pickle, ema=ema)
    make_outputs = folder_outputs if layout == "folder" else single_outputs
    outputs: Outputs = {plan.part: make_outputs(plan, DTYPES.get(dtype)) for plan in plans}
    total = sum(output.nbytes for listed in outputs.values() for output in listed)
    check_space(target, total)
    count = count_bytes(total, progress)
    notes = list(_notes(found, layout, ema))
    with partial_folder(target) as folder:
        if layout == "folder":
            _write_parts(found, outputs, folder, count)
            write_folder_files(found, plans, folder)
        else:
            _write_single(found, outputs, folder / target.name, count)
            notes += _lend_tokenizer(found, folder, target)
        if found.spec is not None:
            write_licence(found.spec, folder)
        move_in_place(folder, target, layout)
    return ConvertReport(target, tuple(plan.part for plan in plans), total, tuple(notes))


def _check_choices(source: Path, target: Path, dtype: str, layout: str) -> Path:
    if dtype not in ("keep", *DTYPES):
        raise UnknownName("dtype", dtype, ("keep", *DTYPES))
    if layout not in ("folder", "single"):
        raise UnknownName("layout", layout, ("folder", "single"))
    if target.exists() or target.is_symlink():
        raise InvalidRequest(f"{target} exists; give a name that is free")
    if layout == "single" and target.suffix != ".safetensors":
        raise InvalidRequest(f"{target}: a single file must be named .safetensors")
    if target.resolve().is_relative_to(source.resolve()):
        raise InvalidRequest(f"{target} lies inside its source {source}; choose a place beside it")
    if not existing_parent(target).is_dir():
        raise InvalidRequest(f"{existing_parent(target)} is not a folder; choose another place")
    return target


def _plan(found: Detection, layout: str, *, allow_pickle: bool, ema: bool) -> list[PartPlan]:
    """Return the plans of all networks to be written, each known to be whole."""
    planners = {**PLANNERS, "unet": functools.partial(plan_unet, ema=ema)}
    if layout == "single":
        del planners["safety_checker"]
    plans = [
        plan(found, allow_pickle=allow_pickle)
        for part, plan in planners.items()
        if part in found.parts
    ]
    for plan in plans:
        check_match(plan.match, plan.part, plan.source.where)
    return plans


def _write_parts(found: Detection, outputs: Outputs, folder: Path, count: OnTensor) -> None:
    for part, listed in outputs.items():
        (folder / part).mkdir()
        write_safetensors(folder / part / WEIGHTS_FILES[part], listed, _metadata(found), count)


def _write_single(found: Detection, outputs: Outputs, file: Path, count: OnTensor) -> None:
    # a scheduler file without prediction_type means epsilon; a single file has to say so
    scheduler = {"prediction_type": "epsilon", **load_scheduler_config(found)}
    metadata = {**_metadata(found), SCHEDULER_NOTE: json.dumps(scheduler)}
    write_safetensors(
        file, [output for part in outputs.values() for output in part], metadata, count
    )


def _notes(found: Detection, layout: str, ema: bool) -> Iterator[str]:
    yield from (f"{part}: named by the source's index but missing" for part in found.missing)
    if found.has_ema and not ema:
        yield "the averaged (EMA) weights were left out; --ema takes them instead"
    if found.spec is None:
        yield "the licence is not known; keep the one that the checkpoint came with"
    if layout == "single" and "safety_checker" in found.parts:
        yield "a single file holds no safety checker; keep the source for it"


def _metadata(found: Detection) -> dict[str, str]:
    """Return the notes of a written file: which model it is, made from what."""
    model = found.spec.name if found.spec else "stable-diffusion"
    graft = graft_note(found)
    grafted = {} if graft is None else {GRAFT_NOTE: graft}
    return {"format": "pt", MODEL_NOTE: model, "parent": found.path.name, **grafted}


def _lend_tokenizer(found: Detection, folder: Path, target: Path) -> Iterator[str]:
    """Put the tokenizer beside a single file, unless another one lies there already."""
    files = found.parts.get("tokenizer")
    taken = find_tokenizer(target.parent) or (target.parent / "tokenizer").exists()
    if files is None:
        yield f"the source has no tokenizer; put its files beside {target.name}"
    elif taken:
        yield "the tokenizer that lies beside the file was kept; it must be of the same model"
    else:
        copy_tokenizer(files, folder / "tokenizer")
        yield "the tokenizer was written beside the file"
