"""Latents to images and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..pipeline_core.errors import InvalidRequest
from . import host
from .conversions import (
    check_choice,
    from_comfy_image,
    from_comfy_latent,
    from_comfy_mask,
    log_warnings,
    to_comfy_image,
    to_comfy_latent,
)
from .sockets import VAE as VAE_SOCKET
from .sockets import SocketPart

if TYPE_CHECKING:
    import torch

    from ..pipeline_core.vae.codec import VAE

FILLS = ("keep", "grey")
MAX_GROWTH = 64  # pixels

# Of the full-size decoder, for each pixel of one image in 16 bits: an estimate on the generous side
_BYTES_PER_PIXEL = 4608

_VAE_INPUT = (VAE_SOCKET, {"tooltip": "From a loader of this pack."})
_TILING_INPUT = (
    "BOOLEAN",
    {
        "default": False,
        "tooltip": "Work in tiles: less memory, slower. It happens by itself when memory runs out.",
    },
)


class MultilingualVAEDecode:
    """Decode latents to images; large ones in tiles where memory is short."""

    DISPLAY_NAME = "Multilingual VAE Decode"
    CATEGORY = "multilingual/vae"
    DESCRIPTION = __doc__
    SEARCH_ALIASES = ["decode", "latent to image", "tiled"]
    RETURN_TYPES = ("IMAGE",)
    RETURN_NAMES = ("images",)
    OUTPUT_TOOLTIPS = ("The images, not yet checked.",)
    FUNCTION = "execute"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "vae": _VAE_INPUT,
                "latent": ("LATENT", {"tooltip": "From a sampler."}),
            },
            "optional": {"tiling": _TILING_INPUT},
        }

    def execute(
        self, vae: SocketPart[VAE], latent: Mapping[str, Any], tiling: bool = False
    ) -> tuple[torch.Tensor]:
        latents = from_comfy_latent(latent)
        height, width = latents.samples.shape[2:]
        codec = vae.ready(64 * height * width * _BYTES_PER_PIXEL)
        images = codec.decode(latents, tiling=tiling, on_tile=host.Progress().tile)
        log_warnings(images.warnings)
        return (to_comfy_image(images.pixels),)


class MultilingualVAEEncode:
    """Encode images to latents, to go on from them."""

    DISPLAY_NAME = "Multilingual VAE Encode"
    CATEGORY = "multilingual/vae"
    DESCRIPTION = __doc__
    SEARCH_ALIASES = ["encode", "image to latent", "img2img"]
    RETURN_TYPES = ("LATENT",)
    RETURN_NAMES = ("latent",)
    OUTPUT_TOOLTIPS = ("The latents, in VAE space.",)
    FUNCTION = "execute"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "vae": _VAE_INPUT,
                "images": ("IMAGE", {"tooltip": "Both sides multiples of 8."}),
            },
            "optional": {"tiling": _TILING_INPUT},
        }

    def execute(
        self, vae: SocketPart[VAE], images: torch.Tensor, tiling: bool = False
    ) -> tuple[dict[str, Any]]:
        return (to_comfy_latent(_encode(vae, from_comfy_image(images), tiling)),)


class MultilingualVAEEncodeForInpaint:
    """Encode images with a mask of what is painted anew."""

    DISPLAY_NAME = "Multilingual VAE Encode (for Inpainting)"
    CATEGORY = "multilingual/vae"
    DESCRIPTION = __doc__
    SEARCH_ALIASES = ["inpaint", "mask", "fill"]
    RETURN_TYPES = ("LATENT",)
    RETURN_NAMES = ("latent",)
    OUTPUT_TOOLTIPS = ("The latents with their noise mask; where it is 0 they come out unchanged.",)
    FUNCTION = "execute"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "vae": _VAE_INPUT,
                "images": ("IMAGE", {"tooltip": "Both sides multiples of 8."}),
                "mask": ("MASK", {"tooltip": "1 where the picture is painted anew, 0 where kept."}),
                "grow_mask_by": (
                    "INT",
                    {
                        "default": 6,
                        "min": 0,
                        "max": MAX_GROWTH,
                        "tooltip": "Pixels by which the mask grows on every side, for a seam that "
                        "does not show.",
                    },
                ),
                "fill": (
                    list(FILLS),
                    {
                        "default": "keep",
                        "tooltip": "What lies under the mask. keep: the picture, for any denoise; "
                        "grey: nothing, for denoise 1.",
                    },
                ),
            },
            "optional": {"tiling": _TILING_INPUT},
        }

    def execute(
        self,
        vae: SocketPart[VAE],
        images: torch.Tensor,
        mask: torch.Tensor,
        grow_mask_by: int,
        fill: str,
        tiling: bool = False,
    ) -> tuple[dict[str, Any]]:
        import torch

        check_choice("fill", fill, FILLS)
        pixels = from_comfy_image(images)
        holes = _grow(_fit(from_comfy_mask(mask), pixels), grow_mask_by)
        if fill == "grey":
            pixels = torch.where(holes > 0.5, 0.5, pixels)
        latents = _encode(vae, pixels, tiling)
        # A latent is painted anew where any of its 8 x 8 pixels is.
        small = torch.nn.functional.max_pool2d(holes, 8).to(host.intermediate_device())
        return (to_comfy_latent(latents, noise_mask=small),)


def _encode(vae: SocketPart[VAE], pixels: torch.Tensor, tiling: bool) -> Any:
    codec = vae.ready(pixels.shape[2] * pixels.shape[3] * _BYTES_PER_PIXEL)
    return codec.encode(pixels, tiling=tiling, on_tile=host.Progress().tile)


def _fit(mask: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
    """Return the mask [1 or B, 1, H, W] at the size of the pixels."""
    import torch

    if mask.shape[0] not in (1, pixels.shape[0]):
        raise InvalidRequest(f"{mask.shape[0]} masks for {pixels.shape[0]} images; give 1")
    if mask.shape[2:] == pixels.shape[2:]:
        return mask
    return torch.nn.functional.interpolate(mask, size=pixels.shape[2:], mode="bilinear")


def _grow(mask: torch.Tensor, reach: int) -> torch.Tensor:
    """Return the mask grown by so many pixels on every side."""
    import torch

    if not 0 <= reach <= MAX_GROWTH:
        raise InvalidRequest(f"grow_mask_by is {reach}; it must lie in 0..{MAX_GROWTH}")
    side = 2 * reach + 1
    rows = torch.nn.functional.max_pool2d(mask, (side, 1), stride=1, padding=(reach, 0))
    return torch.nn.functional.max_pool2d(rows, (1, side), stride=1, padding=(0, reach))


NODES = [MultilingualVAEEncode, MultilingualVAEEncodeForInpaint, MultilingualVAEDecode]
