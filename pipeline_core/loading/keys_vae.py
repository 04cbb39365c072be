"""Names of a VAE's tensors: diffusers', diffusers' of 2022, and CompVis' (LDM).

`ldm_name` computes the LDM name from the diffusers one; with the network's list of names that is a
map in both directions. Rules: CompVis/stable-diffusion, ldm/modules/diffusionmodules/model.py.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from ..models.key_prefixes import VAE_PREFIX
from .matching import Shape, Spelling, same

_ATTENTION = "mid_block.attentions.0."
_OLD_ATTENTION = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
_TRAINING = r"loss\..*|model_ema\.(decay|num_updates)"  # beside VAEs that were fine-tuned alone
_LDM_ATTENTION = {
    "group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out",
}  # fmt: skip


def vae_spellings(config: Mapping[str, Any]) -> list[Spelling]:
    """Return the ways files spell a VAE's names."""
    ldm = functools.partial(ldm_name, config=config)
    return [
        Spelling("diffusers", "", same),
        Spelling("diffusers, old attention names", "", old_attention_name),
        Spelling("LDM", VAE_PREFIX, ldm),
        Spelling("LDM without prefix", "", ldm, _TRAINING),
    ]


def old_attention_name(name: str) -> str:
    """Return the name as diffusers wrote it in 2022: query, key, value, proj_attn."""
    return _rename_attention(name, _OLD_ATTENTION)


def ldm_name(name: str, config: Mapping[str, Any]) -> str:
    """Return the LDM name of a diffusers tensor name, for a VAE of that config."""
    side, _, rest = name.partition(".")
    if side not in ("encoder", "decoder"):
        return name  # quant_conv, post_quant_conv
    if rest.startswith(_ATTENTION):
        inner = _rename_attention(rest, _LDM_ATTENTION).removeprefix(_ATTENTION)
        return f"{side}.mid.attn_1.{inner}"
    rest = rest.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    parts = rest.split(".")
    if parts[0] == "mid_block":
        return ".".join([side, "mid", f"block_{int(parts[2]) + 1}", *parts[3:]])
    if parts[0] in ("down_blocks", "up_blocks"):
        return ".".join([side, *_block_place(parts, len(config["block_out_channels"]))])
    return f"{side}.{rest}"


def ldm_shape(name: str, shape: Shape) -> Shape:
    """Return the shape LDM gives a tensor of that diffusers name: attention is 1x1 convolution."""
    is_matrix = _ATTENTION in name and len(shape) == 2
    return (*shape, 1, 1) if is_matrix else shape


def _block_place(parts: list[str], blocks: int) -> list[str]:
    # [down_blocks, b, resnets, j, ...] -> [down, b, block, j, ...]; LDM counts up blocks backwards
    side, block, kind, index, *inner = parts
    direction = side.removesuffix("_blocks")
    place = block if direction == "down" else str(blocks - 1 - int(block))
    middle = ["block", index] if kind == "resnets" else [kind.removesuffix("rs")]
    return [direction, place, *middle, *inner]


def _rename_attention(name: str, table: Mapping[str, str]) -> str:
    before, marker, inner = name.partition(_ATTENTION)
    if not marker:
        return name
    module, leaf = inner.rsplit(".", 1)
    return f"{before}{marker}{table.get(module, module)}.{leaf}"
