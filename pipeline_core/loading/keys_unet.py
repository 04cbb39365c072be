"""Names of a UNet's tensors: diffusers' (the network's own) and CompVis' latent diffusion (LDM).

`ldm_name` computes the LDM name from the diffusers one; with the network's list of names that is a
map in both directions. Rules: CompVis/stable-diffusion, ldm/modules/diffusionmodules.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Any

from ..models.key_prefixes import LIGHTNING_EMA_PREFIX, SECOND_EMA_PREFIX, UNET_PREFIX
from .matching import Spelling, same

_COUNTERS = "decay|num_updates"  # beside Lightning's averages
_TOP = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_MIDDLE = {"resnets.0": "0", "attentions.0": "1", "resnets.1": "2"}
_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}


_KEY_OR_VALUE = re.compile(r".*\.attn2\.to_[kv]\.(weight|bias)")


def reads_text(name: str) -> bool:
    """Tell whether a tensor is of the keys or values that read the text encoder's states.

    Names are diffusers'; queries and outputs of cross-attention are not meant.
    """
    return _KEY_OR_VALUE.fullmatch(name) is not None


def unet_spellings(config: Mapping[str, Any], *, ema: bool = False) -> list[Spelling]:
    """Return the ways files spell a UNet's names; `ema` asks for the averaged weights alone.

    Lightning's averages are named without dots (`model_ema.diffusion_modelinput_blocks00weight`);
    others keep a second dictionary, `state_dict_ema`.
    """
    ldm = functools.partial(ldm_name, config=config)
    if ema:
        return [
            Spelling(
                "LDM averages", LIGHTNING_EMA_PREFIX, lambda name: dotless(ldm(name)), _COUNTERS
            ),
            Spelling("LDM state_dict_ema", SECOND_EMA_PREFIX + UNET_PREFIX, ldm),
        ]
    return [
        Spelling("diffusers", "", same),
        Spelling("LDM", UNET_PREFIX, ldm),
        Spelling("LDM without prefix", "", ldm),
    ]


def dotless(name: str) -> str:
    """Return the name of a tensor among Lightning's averages, from its LDM name."""
    return f"diffusion_model.{name}".replace(".", "")


def ldm_name(name: str, config: Mapping[str, Any]) -> str:
    """Return the LDM name of a diffusers tensor name, for a UNet of that config.

    Any number of blocks and layers: at two layers a block `down_blocks.1.resnets.0.norm1.weight`
    is `input_blocks.4.0.in_layers.0.weight`.
    """
    stem, leaf = name.rsplit(".", 1)
    if stem in _TOP:
        return f"{_TOP[stem]}.{leaf}"
    side, rest = name.split(".", 1)
    if side == "mid_block":
        kind, index, inner = rest.split(".", 2)
        return f"middle_block.{_MIDDLE[f'{kind}.{index}']}.{_inner_name(kind, inner)}"
    block, kind, index, inner = rest.split(".", 3)
    rule = _down_place if side == "down_blocks" else _up_place
    return f"{rule(int(block), kind, int(index), config)}.{_inner_name(kind, inner)}"


def _down_place(block: int, kind: str, index: int, config: Mapping[str, Any]) -> str:
    # block by block: the resnets (with their attentions), then one downsampler; place 0 is conv_in
    stride = config["layers_per_block"] + 1
    if kind == "downsamplers":
        return f"input_blocks.{(block + 1) * stride}.0"
    return f"input_blocks.{block * stride + index + 1}.{int(kind == 'attentions')}"


def _up_place(block: int, kind: str, index: int, config: Mapping[str, Any]) -> str:
    # the upsampler sits behind the last resnet (and its attention, where the block has any)
    stride = config["layers_per_block"] + 1
    if kind == "upsamplers":
        has_attention = "CrossAttn" in config["up_block_types"][block]
        return f"output_blocks.{block * stride + stride - 1}.{1 + has_attention}"
    return f"output_blocks.{block * stride + index}.{int(kind == 'attentions')}"


def _inner_name(kind: str, inner: str) -> str:
    module, leaf = inner.rsplit(".", 1)
    if kind == "resnets":
        return f"{_RESNET[module]}.{leaf}"
    if kind == "downsamplers":
        return f"op.{leaf}"
    return inner  # attentions and upsamplers: the same names on both sides
