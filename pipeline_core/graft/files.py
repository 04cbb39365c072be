"""A grafted UNet as one more weights file: a tensor is computed when it is read.

So whatever loads, converts or writes models takes a graft as it takes a file, one tensor at a time.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch

from ..loading.plans import PartPlan
from ..loading.tensors import TensorSource
from ..models.headers import TensorInfo
from .arithmetic import graft_tensor
from .parents import Parents
from .recipe import GraftRecipe


class GraftedFile:
    """The community's UNet tensors under the names of its own file, those of the recipe grafted."""

    metadata: Mapping[str, str] = {}

    def __init__(self, parents: Parents, recipe: GraftRecipe) -> None:
        self.recipe = recipe
        self._community = parents.community.reader()
        self._multilingual = parents.multilingual.reader()
        self._base = parents.base.reader() if parents.base and recipe.needs_base else None
        plan = parents.community.plan
        self._names = {file_name: name for name, file_name in plan.match.found.items()}
        self.tensors: Mapping[str, TensorInfo] = {
            file_name: plan.source.tensors[file_name] for file_name in self._names
        }

    def read(self, name: str) -> torch.Tensor:
        """Return one grafted tensor, by the community's name and in its shape and dtype."""
        own = self._names[name]
        grafted = self._community(own)
        strength = self.recipe.strength_of(own)
        if strength > 0:
            base = self._base(own) if self._base else None
            grafted = graft_tensor(own, grafted, self._multilingual(own), base, strength)
        return grafted.reshape(self.tensors[name].shape)

    def stream(self, names: Iterable[str]) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield tensors, none of which is kept here."""
        for name in names:
            yield name, self.read(name)


def grafted_plan(parents: Parents, recipe: GraftRecipe) -> PartPlan:
    """Return the community's plan with grafted tensors in it.

    Raises:
        InvalidRequest: the recipe needs a base and there is none.
    """
    recipe.check_base(parents.base)
    file = GraftedFile(parents, recipe)
    paths: tuple[Path, ...] = parents.community.plan.source.paths
    source = TensorSource((file,), paths, file.tensors, dict.fromkeys(file.tensors, file))
    return dataclasses.replace(parents.community.plan, source=source)
