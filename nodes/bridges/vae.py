"""Our VAE as ComfyUI's: its own AutoencoderKL over the same tensors, with our number of groups.

The host's class always has 32 groups in its norms; `nano`'s VAE has 8, and would otherwise decode
to something else without a word.
"""

# pyright: reportMissingImports=false

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NoReturn

from ...pipeline_core.errors import InvalidRequest
from ...pipeline_core.loading.keys_vae import ldm_name, ldm_shape
from ..sockets import VAE as VAE_SOCKET
from ..sockets import SocketPart

if TYPE_CHECKING:
    import torch

    from ...pipeline_core.vae.codec import VAE

HOST_GROUPS = 32


class MultilingualVAEToVAE:
    """Turn a VAE of this pack into ComfyUI's VAE, for its decode and encode nodes."""

    DISPLAY_NAME = "Multilingual VAE to VAE"
    CATEGORY = "multilingual/comfyui"
    DESCRIPTION = __doc__
    SEARCH_ALIASES = ["bridge", "VAE Decode", "convert VAE", "native vae"]
    RETURN_TYPES = ("VAE",)
    RETURN_NAMES = ("vae",)
    OUTPUT_TOOLTIPS = ("For VAE Decode, VAE Encode and every node that takes a VAE.",)
    FUNCTION = "execute"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"vae": (VAE_SOCKET, {"tooltip": "From a loader of this pack."})}}

    def execute(self, vae: SocketPart[VAE]) -> tuple[Any]:
        return (make_vae(vae),)


def make_vae(vae: SocketPart[VAE]) -> Any:
    """Return a VAE of the host's class with the weights of ours, shared where they lie at rest.

    Raises:
        InvalidRequest: the host's class cannot be this network.
        PipelineError: the model has no VAE.
    """
    import torch
    from comfy.sd import VAE as HostVAE

    codec, place = vae.need(), vae.patcher
    network, groups = codec.network, codec.network.config["norm_num_groups"]
    tensors = ldm_tensors(network, place.offload_device)
    half = network.dtype == torch.float16  # overflows in this VAE: the host chooses a wider one
    made: Any = HostVAE(
        sd=dict(tensors),
        device=place.load_device,
        config={"params": vae_settings(network.config)},
        dtype=None if half else network.dtype,
    )
    for module in made.first_stage_model.modules():
        if isinstance(module, torch.nn.GroupNorm):
            module.num_groups = groups
    shared = {name: tensor.to(made.vae_dtype) for name, tensor in tensors.items()}
    made.first_stage_model.load_state_dict(shared, strict=True, assign=True)
    made.downscale_ratio = made.upscale_ratio = codec.factor
    if groups != HOST_GROUPS:
        made.get_sd = _refuse_to_save
    return made


def vae_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of the host's AutoencoderKL for a diffusers VAE of this config.

    Raises:
        InvalidRequest: the host's class cannot be this network.
    """
    widths = config["block_out_channels"]
    if config["act_fn"] not in ("silu", "swish") or any(
        width % widths[0] or width % HOST_GROUPS for width in widths
    ):
        raise InvalidRequest(
            f"the VAE has activation {config['act_fn']!r} and block_out_channels {list(widths)}; "
            "ComfyUI's own VAE has 'silu' and multiples of the first and of 32; take Multilingual "
            "VAE Decode for this model"
        )
    channels = config["latent_channels"]
    return {
        "embed_dim": channels,
        "ddconfig": {
            "double_z": True,
            "z_channels": channels,
            "resolution": 256,
            "in_channels": config["in_channels"],
            "out_ch": config["out_channels"],
            "ch": widths[0],
            "ch_mult": [width // widths[0] for width in widths],
            "num_res_blocks": config["layers_per_block"],
            "attn_resolutions": [],
            "dropout": 0.0,
        },
    }


def ldm_tensors(network: Any, device: torch.device) -> dict[str, torch.Tensor]:
    """Return a diffusers VAE's tensors by LDM's names and shapes, shared where they lie there."""
    config: Mapping[str, Any] = network.config
    return {
        ldm_name(name, config): tensor.to(device).reshape(ldm_shape(name, tuple(tensor.shape)))
        for name, tensor in network.state_dict().items()
    }


def _refuse_to_save() -> NoReturn:
    raise InvalidRequest(
        "this VAE has another number of groups in its norms than ComfyUI's loader would give it; "
        "copy the model's files instead of saving it here"
    )


NODES = [MultilingualVAEToVAE]
