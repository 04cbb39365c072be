"""Load one part of a model: detection in, a network with its weights out.

The network is built on the meta device, names and shapes are compared before any data is read, and
the tensors are assigned: mapped from the file where nothing changes, else converted one by one, so
that the peak is the result. Averaged (EMA) weights are a choice for the UNet, which alone has any.
Small networks are copied to memory of their own: matrix products round by the alignment of their
operands, and a picture must not depend on where in a file a tensor happens to lie.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ..models.configs import PNDM_SCHEDULER
from ..models.detection import Detection, PartFiles
from ..models.headers import is_pickle, read_safetensors_header
from ..models.strict_json import parse_json, read_json
from ..text.encoders.tower import WordTable
from .devices import SMALL, choose_device, choose_dtype
from .dtypes import TORCH_DTYPES
from .matching import check_match
from .plans import PartPlan, plan_safety_checker, plan_text_encoder, plan_unet, plan_vae
from .schemas import parse_scheduler_config

SCHEDULER_NOTE = "multilingual_diffusion.scheduler"  # in the metadata of converted single files
GRAFT_NOTE = "multilingual_diffusion.graft"  # in the metadata of grafts: recipe and parents

logger = logging.getLogger("multilingual_diffusion")


@dataclass(frozen=True)
class LoadedPart:
    """A network in inference mode, the config it was built from, and where and how it runs."""

    network: torch.nn.Module
    config: Mapping[str, Any]
    device: torch.device
    dtype: torch.dtype
    reason: str  # one line: why this device and dtype


def load_text_network(
    detection: Detection,
    *,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    allow_pickle: bool = False,
) -> LoadedPart:
    """Load the text encoder; its word table stays mapped on the CPU in the dtype of the file.

    Raises:
        ModelNotFound, FileRefused: as `plan_text_encoder`.
        WeightsMismatch: tensors are missing, extra or misshaped.
        InvalidRequest: the device or dtype is unknown or not there.
    """
    return _fill(plan_text_encoder(detection, allow_pickle=allow_pickle), device, dtype)


def load_unet_network(
    detection: Detection,
    *,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    allow_pickle: bool = False,
    ema: bool = False,
) -> LoadedPart:
    """Load the UNet (diffusers' UNet2DConditionModel), with its averaged weights if `ema`.

    Raises:
        ModelNotFound, FileRefused: as `plan_unet`.
        WeightsMismatch: tensors are missing, extra or misshaped.
        InvalidRequest: the device or dtype is unknown or not there, or `ema` and there are none.
    """
    return _fill(plan_unet(detection, allow_pickle=allow_pickle, ema=ema), device, dtype)


def load_vae_network(
    detection: Detection,
    *,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    allow_pickle: bool = False,
) -> LoadedPart:
    """Load the VAE (diffusers' AutoencoderKL); `config["scaling_factor"]` is always set.

    Raises:
        ModelNotFound, FileRefused: as `plan_vae`.
        WeightsMismatch: tensors are missing, extra or misshaped.
        InvalidRequest: the device or dtype is unknown or not there.
    """
    return _fill(plan_vae(detection, allow_pickle=allow_pickle), device, dtype)


def load_safety_network(
    detection: Detection,
    *,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    allow_pickle: bool = False,
) -> LoadedPart:
    """Load the safety checker's network.

    Raises:
        ModelNotFound, FileRefused: as `plan_safety_checker`.
        WeightsMismatch: tensors are missing, extra or misshaped.
        InvalidRequest: the device or dtype is unknown or not there.
    """
    return _fill(plan_safety_checker(detection, allow_pickle=allow_pickle), device, dtype)


def load_scheduler_config(detection: Detection) -> dict[str, Any]:
    """Return the values of the scheduler file; absent keys are absent.

    A single file has none: the values are those that `convert` noted in it, else its model's, else
    those of Stable Diffusion.

    Raises:
        FileRefused: the file is broken or a value is out of range.
    """
    files = detection.parts.get("scheduler")
    if files is not None and files.config is not None:
        return parse_scheduler_config(read_json(files.config), str(files.config))
    note = _unet_note(detection, SCHEDULER_NOTE)
    if note is not None:
        where = str(detection.path)
        return parse_scheduler_config(parse_json(note.encode(), where), where)
    return dict(detection.spec.scheduler_config if detection.spec else PNDM_SCHEDULER)


def graft_note(detection: Detection) -> str | None:
    """Return what a graft noted in the UNet's files; None: the UNet is no graft."""
    return _unet_note(detection, GRAFT_NOTE)


def _unet_note(detection: Detection, key: str) -> str | None:
    for path in detection.parts.get("unet", PartFiles()).weights:
        note = None if is_pickle(path) else read_safetensors_header(path).metadata.get(key)
        if note is not None:
            return note
    return None


def _fill(plan: PartPlan, device: str | torch.device, dtype: str | torch.dtype) -> LoadedPart:
    """Check the plan against the file, then give the network its tensors."""
    check_match(plan.match, plan.part, plan.source.where)
    where = choose_device(device)
    file_dtype = plan.source.dtype_of(plan.match.found.values())
    how = choose_dtype(dtype, where.device, plan.parameters, file_dtype)
    tensors = _tensors(plan, where.device, how.dtype)
    plan.network.load_state_dict(tensors, assign=True)
    make_buffers = getattr(plan.network, "after_loading", None)
    if make_buffers is not None:  # buffers that no file holds
        make_buffers()
    reason = f"{plan.part}: {where.reason}; {how.reason}"
    logger.info("%s", reason)
    return LoadedPart(plan.network, plan.config, where.device, how.dtype, reason)


def _tensors(plan: PartPlan, device: torch.device, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Return the network's tensors by name: mapped where nothing changes, else converted."""
    source, infos = plan.source, plan.source.tensors
    names = {file_name: name for name, file_name in plan.match.found.items()}
    tables = {
        f"{prefix}.weight"
        for prefix, module in plan.network.named_modules()
        if isinstance(module, WordTable)
    }
    stays = device.type == "cpu" and plan.parameters >= SMALL
    mapped = {
        file_name
        for file_name, name in names.items()
        if name in tables or (stays and TORCH_DTYPES[infos[file_name].dtype] == dtype)
    }
    tensors = {names[file_name]: source.read(file_name) for file_name in mapped}
    for file_name, tensor in source.stream([name for name in names if name not in mapped]):
        tensors[names[file_name]] = tensor.to(device, dtype, copy=True)
    return {name: value.reshape(plan.wanted[name]) for name, value in tensors.items()}
