"""Write a graft: a folder that is a whole multilingual model, or one checkpoint file.

A folder has the multilingual model's text encoder and tokenizer, the grafted UNet, and everything
else of the community model; it loads as any model here. A file keeps the community checkpoint with
all its names (its CLIP too), so ComfyUI's own loaders take it; here it lends its UNet and VAE.
Both carry their parents' names, sha256 and licences.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InvalidRequest
from ..loading.parts import GRAFT_NOTE
from ..loading.targets import (
    Progress,
    check_space,
    count_bytes,
    move_in_place,
    partial_folder,
)
from ..loading.writing import write_safetensors
from ..models.digests import file_digest
from ..models.licences import write_licence
from .layouts import FileLayout, FolderLayout
from .parents import Parent, Parents
from .recipe import GraftRecipe

MAX_LICENCE = 2**20  # bytes of a text that is copied


@dataclass(frozen=True)
class GraftReport:
    """What was written; `record` lies in its metadata: the recipe and the parents."""

    path: Path
    grafted: int  # tensors of the UNet
    kept: int
    nbytes: int
    record: dict[str, Any]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {**dataclasses.asdict(self), "path": str(self.path)}


def write_graft(
    parents: Parents,
    recipe: GraftRecipe,
    target: Path | str,
    *,
    allow_pickle: bool = False,
    progress: Progress | None = None,
) -> GraftReport:
    """Write a graft; a target named .safetensors is one file, any other a folder.

    Tensors are streamed; nothing stays if anything fails.

    Raises:
        InvalidRequest: the target exists or lies in a parent, or the recipe lacks its base.
        ModelNotFound, FileRefused, WeightsMismatch: a part that is written is missing or broken.
        NonFiniteResult: a grafted value does not fit the community's dtype.
        PipelineError: the disk is full or not writable.
    """
    target = Path(target)
    _check_target(parents, target)
    is_file = target.suffix == ".safetensors"
    if is_file:
        layout = FileLayout.of(target.name, parents, recipe, allow_pickle)
    else:
        layout = FolderLayout.of(parents, recipe, allow_pickle)
    check_space(target, layout.nbytes)
    record = {**recipe.to_metadata(), "parents": [_describe(parent) for parent in parents.all]}
    metadata = {**layout.metadata, "format": "pt", GRAFT_NOTE: json.dumps(record)}
    count = count_bytes(layout.nbytes, progress)
    with partial_folder(target) as folder:
        for name, outputs in layout.files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            write_safetensors(folder / name, outputs, metadata, count)
        layout.write_small_files(folder)
        licences = tuple(_write_licences(parents, folder))
        move_in_place(folder, target, "single" if is_file else "folder")
    names = parents.community.plan.wanted
    grafted = sum(recipe.strength_of(name) > 0 for name in names)
    notes = (*layout.notes, *licences)
    return GraftReport(target, grafted, len(names) - grafted, layout.nbytes, record, notes)


def _check_target(parents: Parents, target: Path) -> None:
    if target.exists() or target.is_symlink():
        raise InvalidRequest(f"{target} exists; give a name that is free")
    for parent in parents.all:
        if target.resolve().is_relative_to(parent.detection.path.resolve()):
            raise InvalidRequest(f"{target} lies inside {parent.name}; choose a place beside it")


def _describe(parent: Parent) -> dict[str, Any]:
    """Return a parent's role, name and licence, and the sha256 of the files its UNet lies in."""
    spec = parent.detection.spec
    return {
        "role": parent.role,
        "name": parent.name,
        "model": spec.name if spec else None,
        "licence": _licence(parent),
        "sha256": {path.name: file_digest(path) for path in parent.plan.source.paths},
    }


def _licence(parent: Parent) -> str | None:
    """Return the name of a licence, None where nothing says it."""
    spec = parent.detection.spec
    return spec.licence if spec else parent.plan.source.metadata.get("modelspec.license")


def _write_licences(parents: Parents, folder: Path) -> Iterator[str]:
    """Write the licence texts that are known, and copy those that lie in a parent's folder.

    Yields what remains to be done by hand.
    """
    for parent in parents.all:
        texts = _licence_texts(parent.detection.path)
        for path in texts:
            shutil.copyfile(path, folder / f"{parent.name}-{path.name}")
        if parent.detection.spec is not None:
            write_licence(parent.detection.spec, folder)
        elif not texts:
            yield f"the licence text of {parent.name} ({parent.role}) is not beside it; add it"


def _licence_texts(place: Path) -> list[Path]:
    if not place.is_dir():
        return []
    found = [
        path for path in sorted(place.iterdir()) if path.name.startswith(("LICENSE", "NOTICE"))
    ]
    return [path for path in found if path.is_file() and path.stat().st_size <= MAX_LICENCE]
