"""Configs of networks in files without one, read off the shapes of their tensors.

What no shape tells is the rule of the families: eight heads where the projections are convolutions
(SD1), 64 channels a head where they are linear (SD2), 32 norm groups, 16 heads in XLM-R-large. A
YAML beside the file is not read: it repeats these values, and copies with wrong ones circulate.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any, NamedTuple

from ..errors import WeightsMismatch
from ..models.configs import KL_F8_VAE, SD1_UNET, SD2_UNET
from .matching import Shape

SD2_HEAD_CHANNELS = 64
MATRIX, CONV = 2, 4  # dimensions of a linear layer's or a table's weight, of a convolution's
Shapes = Mapping[str, Shape]


def strip_prefix(shapes: Shapes, prefix: str) -> dict[str, Shape]:
    """Return the tensors under a prefix, without it."""
    return {
        name.removeprefix(prefix): shape
        for name, shape in shapes.items()
        if name.startswith(prefix)
    }


class _UNetNames(NamedTuple):
    """Where a UNet's sizes are read; one entry of each list for each block on the way down."""

    conv_in: str
    conv_out: str
    middle: str  # the middle block's attention
    layers: list[int]
    convolutions: list[str]  # of the first resnets
    attentions: list[str]  # behind them, where the block has any


def unet_config(shapes: Shapes, where: str) -> dict[str, Any]:
    """Return the config of a UNet from its names (LDM's or diffusers', no prefix) and shapes.

    Raises:
        WeightsMismatch: a tensor that every UNet has is missing, or the blocks differ in depth.
    """
    names = _diffusers_names(shapes) if "conv_in.weight" in shapes else _ldm_names(shapes)
    if not all(names.layers) or len(set(names.layers)) != 1:
        raise WeightsMismatch(f"{where}: the UNet's blocks are not those of Stable Diffusion")
    channels = [_need(shapes, f"{name}.weight", where, CONV)[0] for name in names.convolutions]
    attended = [f"{name}.proj_in.weight" in shapes for name in names.attentions]
    projection = _need(shapes, f"{names.middle}.proj_in.weight", where, MATRIX, CONV)
    linear = len(projection) == MATRIX
    to_k = f"{names.middle}.transformer_blocks.0.attn2.to_k.weight"
    context = _need(shapes, to_k, where, MATRIX)[1]
    heads = [max(1, width // SD2_HEAD_CHANNELS) for width in channels]
    return {
        **(SD2_UNET if linear else SD1_UNET),
        "in_channels": _need(shapes, f"{names.conv_in}.weight", where, CONV)[1],
        "out_channels": _need(shapes, f"{names.conv_out}.weight", where, CONV)[0],
        "block_out_channels": channels,
        "layers_per_block": names.layers[0],
        "down_block_types": ["CrossAttnDownBlock2D" if on else "DownBlock2D" for on in attended],
        "up_block_types": ["CrossAttnUpBlock2D" if on else "UpBlock2D" for on in attended[::-1]],
        "cross_attention_dim": context,
        "attention_head_dim": heads if linear else SD1_UNET["attention_head_dim"],
    }


def vae_config(shapes: Shapes, where: str) -> dict[str, Any]:
    """Return the config of a VAE from its names (LDM's or diffusers', no prefix) and shapes.

    Raises:
        WeightsMismatch: a tensor that every VAE has is missing.
    """
    is_ldm = any(name.startswith("encoder.down.") for name in shapes)
    block, resnet = ("down", "block") if is_ldm else ("down_blocks", "resnets")
    blocks = _count(shapes, f"encoder.{block}.{{}}.{resnet}.0.conv1.weight")
    return {
        **KL_F8_VAE,
        "in_channels": _need(shapes, "encoder.conv_in.weight", where, CONV)[1],
        "out_channels": _need(shapes, "decoder.conv_out.weight", where, CONV)[0],
        "latent_channels": _need(shapes, "decoder.conv_in.weight", where, CONV)[1],
        "block_out_channels": [
            _need(shapes, f"encoder.{block}.{place}.{resnet}.0.conv1.weight", where, CONV)[0]
            for place in range(blocks)
        ],
        "layers_per_block": _count(shapes, f"encoder.{block}.0.{resnet}.{{}}.conv1.weight"),
        "down_block_types": ["DownEncoderBlock2D"] * blocks,
        "up_block_types": ["UpDecoderBlock2D"] * blocks,
    }


def text_config(shapes: Shapes, published: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the config of a text encoder: the published one, its sizes replaced by the file's.

    Raises:
        WeightsMismatch: a tensor that every such encoder has is missing.
    """
    tower = "roberta." if "project_dim" in published else ""  # Chinese-CLIP has no prefix
    tables = f"{tower}embeddings."
    vocab_size, hidden_size = _need(shapes, f"{tables}word_embeddings.weight", where, MATRIX)
    positions, _ = _need(shapes, f"{tables}position_embeddings.weight", where, MATRIX)
    types, _ = _need(shapes, f"{tables}token_type_embeddings.weight", where, MATRIX)
    layer = f"{tower}encoder.layer.0.intermediate.dense.weight"
    config = {
        **published,
        "vocab_size": vocab_size,
        "hidden_size": hidden_size,
        "max_position_embeddings": positions,
        "type_vocab_size": types,
        "intermediate_size": _need(shapes, layer, where, MATRIX)[0],
        "num_hidden_layers": _count(shapes, f"{tower}encoder.layer.{{}}.intermediate.dense.weight"),
    }
    if tower:
        head = "transformation_pre" if published.get("has_pre_transformation") else "transformation"
        config["project_dim"] = _need(shapes, f"{head}.weight", where, MATRIX)[0]
    return config


def _ldm_names(shapes: Shapes) -> _UNetNames:
    blocks = _ldm_blocks(shapes)
    firsts = [block[0] for block in blocks if block]
    return _UNetNames(
        conv_in="input_blocks.0.0",
        conv_out="out.2",
        middle="middle_block.1",
        layers=[len(block) for block in blocks],
        convolutions=[f"input_blocks.{place}.0.in_layers.2" for place in firsts],
        attentions=[f"input_blocks.{place}.1" for place in firsts],
    )


def _diffusers_names(shapes: Shapes) -> _UNetNames:
    blocks = range(_count(shapes, "down_blocks.{}.resnets.0.conv1.weight"))
    return _UNetNames(
        conv_in="conv_in",
        conv_out="conv_out",
        middle="mid_block.attentions.0",
        layers=[
            _count(shapes, f"down_blocks.{block}.resnets.{{}}.conv1.weight") for block in blocks
        ],
        convolutions=[f"down_blocks.{block}.resnets.0.conv1" for block in blocks],
        attentions=[f"down_blocks.{block}.attentions.0" for block in blocks],
    )


def _ldm_blocks(shapes: Shapes) -> list[list[int]]:
    """Return the places in `input_blocks` of each block's resnets; a downsampler ends a block."""
    blocks: list[list[int]] = [[]]
    place = 1
    while any(f"input_blocks.{place}.0.{kind}.weight" in shapes for kind in ("op", "in_layers.2")):
        if f"input_blocks.{place}.0.op.weight" in shapes:
            blocks.append([])
        else:
            blocks[-1].append(place)
        place += 1
    return blocks


def _need(shapes: Shapes, name: str, where: str, *ranks: int) -> Shape:
    """Return the shape of a tensor that must be there, with as many dimensions as its kind has."""
    if name not in shapes:
        raise WeightsMismatch(f"{where}: the tensor {name!r} is missing; the file is incomplete")
    if len(shapes[name]) not in ranks:
        raise WeightsMismatch(
            f"{where}: {name} is {list(shapes[name])}, which has not "
            f"{' or '.join(map(str, ranks))} dimensions; the file is of another model"
        )
    return shapes[name]


def _count(shapes: Shapes, name: str) -> int:
    """Return how many tensors there are of a name with a number in it, from 0 on."""
    return next(number for number in itertools.count() if name.format(number) not in shapes)
