"""A UNet's config and noise schedule in the words of ComfyUI's own UNetModel; plain data.

diffusers' config has free heads, norms and activations; the host's class fixes most of them. What
it cannot build is refused here, with the value, before anything is made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...pipeline_core.errors import InvalidRequest

# What the host's class has built in, in diffusers' words
_BUILT_IN: Mapping[str, tuple[object, ...]] = {
    "act_fn": ("silu", "swish"),
    "norm_num_groups": (32,),
    "norm_eps": (1e-5,),
    "flip_sin_to_cos": (True,),
    "freq_shift": (0,),
    "center_input_sample": (False,),
    "downsample_padding": (1,),
    "mid_block_scale_factor": (1,),
}
# diffusers' names of schedules and the host's
_BETA_SCHEDULES = {
    "linear": "sqrt_linear",
    "scaled_linear": "linear",
    "squaredcos_cap_v2": "squaredcos_cap_v2",
}


def unet_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of the host's UNetModel for a diffusers UNet of this config.

    Raises:
        InvalidRequest: the host's class cannot be this network.
    """
    for name, values in _BUILT_IN.items():
        if config[name] not in values:
            raise InvalidRequest(
                f"the UNet's {name} is {config[name]!r} and ComfyUI's own UNet has {values[0]!r}; "
                "take Multilingual Sampler for this model"
            )
    layers = config["layers_per_block"]
    widths = config["block_out_channels"]
    return {
        "image_size": 32,
        "in_channels": config["in_channels"],
        "out_channels": config["out_channels"],
        "model_channels": widths[0],
        "channel_mult": _multiples(widths),
        "num_res_blocks": [layers] * len(widths),
        "transformer_depth": _depths(config["down_block_types"], layers),
        "transformer_depth_middle": 1,
        # the host takes these from the end
        "transformer_depth_output": _depths(config["up_block_types"], layers + 1)[::-1],
        "context_dim": config["cross_attention_dim"],
        "use_linear_in_transformer": config["use_linear_projection"],
        "use_spatial_transformer": True,
        "legacy": False,
        "use_checkpoint": False,
        "adm_in_channels": None,
        "use_temporal_attention": False,
        **_heads(config),
    }


def schedule_settings(scheduler_config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the host's `sampling_settings` of a scheduler file; empty for betas of its own.

    Nodes that make a sampling anew (zero SNR, another prediction type) read them.
    """
    if scheduler_config.get("trained_betas") is not None:
        return {}
    return {
        "beta_schedule": _BETA_SCHEDULES[scheduler_config.get("beta_schedule", "linear")],
        "linear_start": scheduler_config.get("beta_start", 0.0001),
        "linear_end": scheduler_config.get("beta_end", 0.02),
        "timesteps": scheduler_config.get("num_train_timesteps", 1000),
        "zsnr": scheduler_config.get("rescale_betas_zero_snr", False),
    }


def _multiples(widths: Sequence[int]) -> list[int]:
    if any(width % widths[0] for width in widths):
        raise InvalidRequest(
            f"the UNet's block_out_channels are {list(widths)} and ComfyUI's own UNet takes "
            "multiples of the first; take Multilingual Sampler for this model"
        )
    return [width // widths[0] for width in widths]


def _depths(block_types: Sequence[str], layers: int) -> list[int]:
    """Return how many transformers stand behind each resnet of these blocks."""
    return [int("CrossAttn" in block) for block in block_types for _ in range(layers)]


def _heads(config: Mapping[str, Any]) -> dict[str, int]:
    """Return one number of heads, or one width of a head, that holds in every attention."""
    widths = config["block_out_channels"]
    # diffusers calls the number of heads `attention_head_dim`
    heads = config["num_attention_heads"] or config["attention_head_dim"]
    counts = [heads] * len(widths) if isinstance(heads, int) else list(heads)
    attended = {len(widths) - 1}  # the middle block has the last block's heads
    attended |= {row for row, kind in enumerate(config["down_block_types"]) if "CrossAttn" in kind}
    attended |= {
        len(widths) - 1 - row
        for row, kind in enumerate(config["up_block_types"])
        if "CrossAttn" in kind
    }
    numbers = {counts[row] for row in attended}
    sizes = {widths[row] / counts[row] for row in attended}
    if len(numbers) == 1:
        return {"num_heads": numbers.pop(), "num_head_channels": -1}
    if len(sizes) == 1 and min(sizes).is_integer():
        return {"num_heads": -1, "num_head_channels": int(sizes.pop())}
    raise InvalidRequest(
        f"the UNet has {counts} heads for {list(widths)} channels; ComfyUI's own UNet takes one "
        "number of heads or one width of a head for all; take Multilingual Sampler for this model"
    )
