"""Grafts of loaded networks: what was not grafted is shared with the community's, not copied."""

from __future__ import annotations

from typing import Any

import torch

from ..loading.sharing import share_weights
from .arithmetic import graft_tensor
from .diff import DiffReport, diff_tensors
from .parents import Structure, check_structures
from .recipe import GraftRecipe


def graft_network(
    community: Any,
    multilingual: Any,
    base: Any | None,
    recipe: GraftRecipe,
    *,
    device: torch.device | None = None,
) -> Any:
    """Return a new UNet2DConditionModel; the three that are given are not changed.

    Grafted tensors have the community's dtype; `device` None leaves them where they lie. The
    parents' own precision counts: load them with dtype "keep" where every bit matters.

    Raises:
        InvalidRequest: the networks are not of one family, or the recipe lacks its base.
        NonFiniteResult: a result does not fit the community's dtype.
    """
    recipe.check_base(base)
    first = Structure.of("the community model", community, community.config)
    check_structures(
        first, Structure.of("the multilingual model", multilingual, multilingual.config)
    )
    if base is not None:
        check_structures(first, Structure.of("the base", base, base.config))
    return share_weights(community, graft_tensors(community, multilingual, base, recipe), device)


def graft_tensors(
    community: torch.nn.Module,
    multilingual: torch.nn.Module,
    base: torch.nn.Module | None,
    recipe: GraftRecipe,
) -> dict[str, torch.Tensor]:
    """Return the grafted tensors by name; those that the recipe leaves alone are not among them."""
    new = multilingual.state_dict()
    old = base.state_dict() if base is not None and recipe.needs_base else {}
    return {
        name: graft_tensor(name, value, new[name], old.get(name), recipe.strength_of(name))
        for name, value in community.state_dict().items()
        if recipe.strength_of(name) > 0
    }


def diff_networks(base: Any, multilingual: Any, titles: tuple[str, str]) -> DiffReport:
    """Compare two loaded UNets; `titles` are what the report calls base and multilingual model.

    Raises:
        InvalidRequest: they are not of one family.
    """
    check_structures(
        Structure.of(titles[0], base, base.config),
        Structure.of(titles[1], multilingual, multilingual.config),
    )
    old, new = base.state_dict(), multilingual.state_dict()
    changes = diff_tensors(old, old.__getitem__, new.__getitem__)
    return DiffReport(*titles, tuple(changes))
