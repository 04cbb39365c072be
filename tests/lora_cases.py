"""LoRAs for tests: random low-rank pairs for layers of a UNet, under every name files give them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import ldm_names
import torch

RANK, ALPHA = 3, 2.0
ATTENTION = "down_blocks.1.attentions.0.transformer_blocks.0."
LAYERS = (
    f"{ATTENTION}attn1.to_q",
    f"{ATTENTION}attn2.to_k",
    f"{ATTENTION}attn2.to_out.0",
    f"{ATTENTION}ff.net.0.proj",
    "down_blocks.1.attentions.0.proj_in",  # a 1x1 convolution in SD1, linear in SD2
    "mid_block.attentions.0.proj_out",
)
CONVOLUTIONS = (
    "conv_in",
    "down_blocks.0.resnets.0.conv1",
    "down_blocks.1.downsamplers.0.conv",
    "up_blocks.0.upsamplers.0.conv",
    "mid_block.resnets.1.time_emb_proj",
)
Pairs = dict[str, tuple[torch.Tensor, torch.Tensor]]  # (up, down) by layer


def random_pairs(
    weights: Mapping[str, torch.Tensor], layers: Sequence[str] = LAYERS, seed: int = 0
) -> Pairs:
    """Return random sides for layers of a UNet, as convolutions where the layer is one."""
    generator = torch.Generator().manual_seed(seed)
    found: Pairs = {}
    for layer in layers:
        weight = weights[f"{layer}.weight"]
        ones = (1,) * (weight.ndim - 2)
        up = torch.randn(weight.shape[0], RANK, *ones, generator=generator)
        down = torch.randn(RANK, *weight.shape[1:], generator=generator)
        found[layer] = (up * 0.3, down * 0.3)
    return found


def ldm_of(layer: str) -> str:
    """Return the LDM name by the tests' own account of the names."""
    blank = {f"{layer}.weight": torch.zeros(1)}
    return next(iter(ldm_names.ldm_unet(blank))).removesuffix(".weight")


def flat(layer: str) -> str:
    return layer.replace(".", "_")


def processor(layer: str) -> str:
    name = layer.replace(".to_", ".processor.to_")
    return name.replace(".to_out.0", ".to_out")


KOHYA = ("{}.lora_up.weight", "{}.lora_down.weight", "{}.alpha")
SPELLINGS = {
    "kohya": (lambda layer: f"lora_unet_{flat(layer)}", *KOHYA),
    "kohya, LDM names": (lambda layer: f"lora_unet_{flat(ldm_of(layer))}", *KOHYA),
    "lycoris": (lambda layer: f"lycoris_{flat(layer)}", *KOHYA),
    "PEFT": (lambda layer: f"unet.{layer}", "{}.lora_B.weight", "{}.lora_A.weight", None),
    "PEFT alone": (lambda layer: layer, "{}.lora_B.weight", "{}.lora_A.weight", "{}.alpha"),
    "PEFT, adapter": (
        lambda layer: f"base_model.model.{layer}",
        "{}.lora_B.default.weight", "{}.lora_A.default.weight", None,
    ),
    "processors": (
        lambda layer: f"unet.{processor(layer)}", "{}_lora.up.weight", "{}_lora.down.weight", None,
    ),
    "diffusers": (lambda layer: f"unet.{layer}", "{}.lora.up.weight", "{}.lora.down.weight", None),
    "host": (lambda layer: f"diffusion_model.{ldm_of(layer)}", *KOHYA),
}  # fmt: skip


def spell(found: Pairs, spelling: str = "kohya") -> tuple[dict[str, torch.Tensor], float]:
    """Return a file's tensors, and alpha / rank as that spelling says it."""
    rename, up_name, down_name, alpha_name = SPELLINGS[spelling]
    tensors = {}
    for layer, (up, down) in found.items():
        name = rename(layer)
        tensors[up_name.format(name)], tensors[down_name.format(name)] = up, down
        if alpha_name:
            tensors[alpha_name.format(name)] = torch.tensor(ALPHA)
    return tensors, (ALPHA / RANK if alpha_name else 1.0)
