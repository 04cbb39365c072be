"""A family of tiny models for graft tests: base, multilingual (trained further), community.

The multilingual UNet differs from the base in cross-attention and in one convolution, that of the
community in everything. Values are random, so no tensor is equal by chance.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import layouts
import tiny
import torch
from ldm_names import ldm_unet
from multilingual_diffusion.pipeline_core.graft.parents import Parents, open_parents
from multilingual_diffusion.pipeline_core.sources import LoadOptions
from safetensors.torch import load_file, save_file

Family = Literal["sd1", "sd2"]
Tensors = dict[str, torch.Tensor]
MULTILINGUAL: dict[Family, layouts.Model] = {"sd1": "m9", "sd2": "m18"}
LORA_LAYERS = tuple(
    f"down_blocks.1.attentions.0.transformer_blocks.0.{layer}"
    for layer in ("attn2.to_k", "attn2.to_v", "attn2.to_q", "ff.net.2")
)
TRAINED = "down_blocks.1.resnets.0.conv1.weight"  # beyond cross-attention


@functools.cache
def unet_tensors(family: Family, role: str) -> Tensors:
    """Return the UNet of one role, by diffusers' names; do not change it."""
    config = tiny.UNET_M9 if family == "sd1" else tiny.UNET_M18
    base = dict(tiny.unet(config, seed=21).state_dict())
    if role == "base":
        return base
    generator = torch.Generator().manual_seed({"multilingual": 22, "community": 23}[role])
    return {
        name: value + 0.1 * torch.randn(value.shape, generator=generator)
        if role == "community" or ".attn2." in name or name == TRAINED
        else value
        for name, value in base.items()
    }


def write_folder(
    path: Path, model: layouts.Model, unet: Mapping[str, torch.Tensor], **options: Any
) -> Path:
    """Write a diffusers folder with that UNet in it."""
    layouts.write_diffusers_folder(path, model, weights="safetensors", **options)
    save_file(dict(unet), path / "unet" / "diffusion_pytorch_model.safetensors")
    return path


def write_checkpoint(
    path: Path,
    family: Family,
    unet: Mapping[str, torch.Tensor],
    change: Callable[[Tensors], Tensors] = lambda tensors: tensors,
) -> Path:
    """Write a plain Stable Diffusion checkpoint (CLIP, VAE, buffers) with that UNet in it."""
    layouts.write_sd_checkpoint(path, family)
    tensors = load_file(path)
    for name, value in ldm_unet(dict(unet)).items():
        tensors[f"model.diffusion_model.{name}"] = value.contiguous()
    save_file(change(tensors), path, {"modelspec.license": "MIT", "modelspec.hash_sha256": "0x1"})
    return path


def write_family(root: Path, family: Family = "sd1") -> Path:
    """Write `base`, `multilingual`, `community` as folders, `community.safetensors` as a file."""
    for role in ("base", "community"):
        write_folder(root / role, family, unet_tensors(family, role))
    write_folder(root / "multilingual", MULTILINGUAL[family], unet_tensors(family, "multilingual"))
    write_checkpoint(root / "community.safetensors", family, unet_tensors(family, "community"))
    return root


def write_lora(
    path: Path, note: Mapping[str, str] | None = None, layers: Sequence[str] = LORA_LAYERS
) -> Path:
    """Write a LoRA on one key, one value, one query and one feed-forward projection of SD1."""
    tensors = {}
    for seed, layer in enumerate(layers):
        out, inner = unet_tensors("sd1", "base")[f"{layer}.weight"].shape
        generator = torch.Generator().manual_seed(seed)
        tensors[f"unet.{layer}.lora_A.weight"] = torch.randn(2, inner, generator=generator)
        tensors[f"unet.{layer}.lora_B.weight"] = torch.randn(out, 2, generator=generator)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, dict(note or {}))
    return path


def parents_of(root: Path, community: str = "community", base: str | None = "base") -> Parents:
    # a plain SD2 checkpoint does not say what it predicts
    return open_parents(
        root / community,
        root / "multilingual",
        root / base if base else None,
        LoadOptions(),
        "epsilon",
    )


def unet_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")


def assert_bits(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert found[name].dtype == value.dtype and found[name].shape == value.shape, name
        assert torch.equal(found[name].view(torch.uint8), value.view(torch.uint8)), name
