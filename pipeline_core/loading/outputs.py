"""Which tensors a converted model consists of: names, shapes and dtypes in the new layout."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from ..models.detection import PartName
from ..models.key_prefixes import TEXT_PREFIX, UNET_PREFIX, VAE_PREFIX
from . import keys_unet, keys_vae
from .dtypes import TORCH_DTYPES
from .matching import Shape
from .plans import PartPlan
from .writing import Output

Namer = Callable[[str, Shape, PartPlan], tuple[str, Shape]]  # of the network to the new layout


def folder_outputs(plan: PartPlan, dtype: torch.dtype | None) -> list[Output]:
    """Return a part's tensors as a diffusers folder has them; `dtype` None keeps each one's own.

    The safety checker keeps the names of its file: libraries know the published ones.
    """
    if plan.part == "safety_checker":
        return _outputs(plan, dtype, lambda name, shape, plan: (plan.match.found[name], shape))
    return _outputs(plan, dtype, lambda name, shape, plan: (name, shape))


def single_outputs(plan: PartPlan, dtype: torch.dtype | None) -> list[Output]:
    """Return a part's tensors as a checkpoint of the original code has them (A1111 reads it)."""
    return _outputs(plan, dtype, _LDM_NAMERS[plan.part])


def _ldm_text(name: str, shape: Shape, plan: PartPlan) -> tuple[str, Shape]:
    return TEXT_PREFIX + name, shape


def _ldm_unet(name: str, shape: Shape, plan: PartPlan) -> tuple[str, Shape]:
    return UNET_PREFIX + keys_unet.ldm_name(name, plan.config), shape


def _ldm_vae(name: str, shape: Shape, plan: PartPlan) -> tuple[str, Shape]:
    new_name = VAE_PREFIX + keys_vae.ldm_name(name, plan.config)
    return new_name, keys_vae.ldm_shape(name, shape)


_LDM_NAMERS: Mapping[PartName, Namer] = {
    "text_encoder": _ldm_text,
    "unet": _ldm_unet,
    "vae": _ldm_vae,
}


def _outputs(plan: PartPlan, dtype: torch.dtype | None, name_of: Namer) -> list[Output]:
    tensors, wanted = plan.source.tensors, plan.wanted
    sources = {name: (file_name, wanted[name]) for name, file_name in plan.match.found.items()}
    if plan.part == "text_encoder":  # the pooler and other branches, for tools that want them
        spelling = plan.match.spelling
        for file_name in plan.match.unused:
            if not file_name.endswith("position_ids"):
                sources[spelling.behind(file_name)] = file_name, tensors[file_name].shape
    outputs: list[Output] = []
    for name, (file_name, shape) in sources.items():
        new_name, new_shape = name_of(name, shape, plan)
        own = TORCH_DTYPES[tensors[file_name].dtype]
        new_dtype = dtype if dtype is not None and own.is_floating_point else own
        outputs.append(Output(new_name, new_shape, new_dtype, plan.source, file_name))
    return outputs
