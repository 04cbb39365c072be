"""The names of the original latent diffusion code, made from diffusers' names (models.md 1.5).

Written the other way round than the product's key maps and without them, so that the tests of
those maps compare two independent accounts. Four levels of two layers, as Stable Diffusion has.
"""

from __future__ import annotations

import re

import torch

Tensors = dict[str, torch.Tensor]

_UNET_RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}


def ldm_unet(tensors: Tensors) -> Tensors:
    """Rename a diffusers UNet (four levels of two layers) by walking the LDM list of blocks."""
    pairs = {
        "time_embed.0": "time_embedding.linear_1",
        "time_embed.2": "time_embedding.linear_2",
        "input_blocks.0.0": "conv_in",
        "middle_block.1": "mid_block.attentions.0",
        "out.0": "conv_norm_out",
        "out.2": "conv_out",
    }
    resnets = {"middle_block.0": "mid_block.resnets.0", "middle_block.2": "mid_block.resnets.1"}
    for i in range(1, 12):
        level, layer = divmod(i - 1, 3)
        if layer == 2:
            pairs[f"input_blocks.{i}.0.op"] = f"down_blocks.{level}.downsamplers.0.conv"
        else:
            resnets[f"input_blocks.{i}.0"] = f"down_blocks.{level}.resnets.{layer}"
            pairs[f"input_blocks.{i}.1"] = f"down_blocks.{level}.attentions.{layer}"
    for i in range(12):
        level, layer = divmod(i, 3)
        resnets[f"output_blocks.{i}.0"] = f"up_blocks.{level}.resnets.{layer}"
        pairs[f"output_blocks.{i}.1"] = f"up_blocks.{level}.attentions.{layer}"
    upsamplers = {"output_blocks.2.1": 0, "output_blocks.5.2": 1, "output_blocks.8.2": 2}
    for ldm, level in upsamplers.items():
        pairs[f"{ldm}.conv"] = f"up_blocks.{level}.upsamplers.0.conv"
    for ldm, diffusers in resnets.items():
        pairs |= {f"{ldm}.{a}": f"{diffusers}.{b}" for a, b in _UNET_RESNET.items()}
    return _rename(tensors, pairs)


def ldm_vae(tensors: Tensors) -> Tensors:
    """Rename a diffusers AutoencoderKL of four levels; attention becomes 1x1 convolutions."""
    pairs = {"quant_conv": "quant_conv", "post_quant_conv": "post_quant_conv"}
    for side in ("encoder", "decoder"):
        pairs |= {f"{side}.conv_in": f"{side}.conv_in", f"{side}.conv_out": f"{side}.conv_out"}
        pairs[f"{side}.norm_out"] = f"{side}.conv_norm_out"
        pairs |= _vae_resnet(f"{side}.mid.block_1", f"{side}.mid_block.resnets.0")
        pairs |= _vae_resnet(f"{side}.mid.block_2", f"{side}.mid_block.resnets.1")
        attention = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v"}
        for ldm, diffusers in {**attention, "proj_out": "to_out.0"}.items():
            pairs[f"{side}.mid.attn_1.{ldm}"] = f"{side}.mid_block.attentions.0.{diffusers}"
    for level in range(4):
        down, up = f"encoder.down_blocks.{level}", f"decoder.up_blocks.{3 - level}"
        pairs[f"encoder.down.{level}.downsample.conv"] = f"{down}.downsamplers.0.conv"
        pairs[f"decoder.up.{level}.upsample.conv"] = f"{up}.upsamplers.0.conv"
        for layer in range(3):
            pairs |= _vae_resnet(f"encoder.down.{level}.block.{layer}", f"{down}.resnets.{layer}")
            pairs |= _vae_resnet(f"decoder.up.{level}.block.{layer}", f"{up}.resnets.{layer}")
    renamed = _rename(tensors, pairs)
    is_projection = re.compile(r"\.attn_1\.(q|k|v|proj_out)\.weight$")
    return {
        name: value[:, :, None, None] if is_projection.search(name) else value
        for name, value in renamed.items()
    }


def _vae_resnet(ldm: str, diffusers: str) -> dict[str, str]:
    same = {f"{ldm}.{part}": f"{diffusers}.{part}" for part in ("norm1", "conv1", "norm2", "conv2")}
    return {**same, f"{ldm}.nin_shortcut": f"{diffusers}.conv_shortcut"}


def _rename(tensors: Tensors, pairs: dict[str, str]) -> Tensors:
    """Move every tensor to its LDM name; each must have exactly one."""
    renamed: Tensors = {}
    for name, value in tensors.items():
        (match,) = [
            ldm + name[len(diffusers) :]
            for ldm, diffusers in pairs.items()
            if name.startswith(diffusers + ".")
        ]
        renamed[match] = value
    assert len(renamed) == len(tensors)
    return renamed
