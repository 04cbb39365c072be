"""Stand-ins for the stock VAE nodes, over this pack's VAE socket.

Images whose sides are no multiples of 8 are cut to it around their middle, as the host does.
"""

from __future__ import annotations

from typing import Any

import torch

from ...pipeline_core.vae.codec import VAE
from .. import host
from ..conversions import from_comfy_latent, log_warnings, to_comfy_image
from ..sockets import VAE as VAE_SOCKET
from ..sockets import SocketPart
from .definition import IMAGE, LATENT, MASK, Latent, StockNode, whole

_VAE = (f"VAE,{VAE_SOCKET}",)
_SMALLEST_TILE = 16  # latent pixels a side
_TILES = {
    "overlap": whole(64, 0, 4096, step=32, advanced=True),
    "temporal_size": whole(64, 8, 4096, step=4, advanced=True),
    "temporal_overlap": whole(8, 4, 4096, step=4, advanced=True),
}


class VAEDecode(StockNode):
    """Decode latents to images."""

    DISPLAY_NAME = "VAE Decode"
    REQUIRED = {"samples": LATENT, "vae": _VAE}
    RETURN_TYPES = ("IMAGE",)

    def execute(self, samples: Latent, vae: SocketPart[VAE]) -> tuple[torch.Tensor]:
        return _decode(vae.ready(), samples)


class VAEDecodeTiled(StockNode):
    """Decode latents in tiles of `tile_size` pixels; their seams are hidden by our own overlap."""

    DISPLAY_NAME = "VAE Decode (Tiled)"
    REQUIRED = {
        "samples": LATENT,
        "vae": _VAE,
        "tile_size": whole(512, 64, 4096, step=32, advanced=True),
        **_TILES,
    }
    RETURN_TYPES = ("IMAGE",)

    def execute(
        self, samples: Latent, vae: SocketPart[VAE], tile_size: int, **_for_other_vaes: int
    ) -> tuple[torch.Tensor]:
        return _decode(_in_tiles(vae.ready(), tile_size), samples, tiling=True)


class VAEEncode(StockNode):
    """Encode images to latents."""

    DISPLAY_NAME = "VAE Encode"
    REQUIRED = {"pixels": IMAGE, "vae": _VAE}
    RETURN_TYPES = ("LATENT",)

    def execute(self, pixels: torch.Tensor, vae: SocketPart[VAE]) -> tuple[dict[str, Any]]:
        return ({"samples": _encode(vae.ready(), pixels)},)


class VAEEncodeTiled(StockNode):
    """Encode images in tiles of `tile_size` pixels; their seams are hidden by our own overlap."""

    DISPLAY_NAME = "VAE Encode (Tiled)"
    REQUIRED = {
        "pixels": IMAGE,
        "vae": _VAE,
        "tile_size": whole(512, 64, 4096, step=64, advanced=True),
        **_TILES,
    }
    RETURN_TYPES = ("LATENT",)

    def execute(
        self, pixels: torch.Tensor, vae: SocketPart[VAE], tile_size: int, **_for_other_vaes: int
    ) -> tuple[dict[str, Any]]:
        return ({"samples": _encode(_in_tiles(vae.ready(), tile_size), pixels, tiling=True)},)


class VAEEncodeForInpaint(StockNode):
    """Encode images with grey under the mask, to paint it anew from nothing."""

    DISPLAY_NAME = "VAE Encode (for Inpainting)"
    REQUIRED = {
        "pixels": IMAGE,
        "vae": _VAE,
        "mask": MASK,
        "grow_mask_by": whole(6, 0, 64, step=1),
    }
    RETURN_TYPES = ("LATENT",)

    def execute(
        self, pixels: torch.Tensor, vae: SocketPart[VAE], mask: torch.Tensor, grow_mask_by: int
    ) -> tuple[dict[str, Any]]:
        codec = vae.ready()
        size = pixels.shape[1:3]
        mask = mask.reshape(-1, 1, *mask.shape[-2:])
        mask = torch.nn.functional.interpolate(mask, size=size, mode="bilinear").round()
        pixels = _cut(pixels[..., :3], codec.factor)
        mask = _cut(mask.movedim(1, -1), codec.factor)  # [B, H, W, 1]
        holed = (pixels - 0.5) * (1.0 - mask) + 0.5
        grown = _grow(mask.movedim(-1, 1), grow_mask_by)
        return ({"samples": _encode(codec, holed), "noise_mask": grown},)


def _decode(codec: VAE, samples: Latent, *, tiling: bool = False) -> tuple[torch.Tensor]:
    latents = from_comfy_latent(samples)
    images = codec.decode(latents, tiling=tiling, on_tile=host.Progress().tile)
    log_warnings(images.warnings)
    return (to_comfy_image(images.pixels),)


def _encode(codec: VAE, pixels: torch.Tensor, *, tiling: bool = False) -> torch.Tensor:
    """Return the samples of an IMAGE; values beyond 0..1 are encoded as they are."""
    channels_first = _cut(pixels[..., :3], codec.factor).movedim(-1, 1).contiguous().float()
    return codec.encode(channels_first, tiling=tiling, on_tile=host.Progress().tile).samples


def _cut(image: torch.Tensor, factor: int) -> torch.Tensor:
    """Return [B, H, W, C] cut around the middle to multiples of `factor`."""
    for axis in (1, 2):
        side = image.shape[axis]
        image = image.narrow(axis, side % factor // 2, side // factor * factor)
    return image


def _grow(mask: torch.Tensor, side: int) -> torch.Tensor:
    """Return a mask [B, 1, H, W] where each pixel of 1 is a square of `side` pixels."""
    if side < 2:
        return mask
    height, width = mask.shape[2:]
    pool = torch.nn.functional.max_pool2d
    rows = pool(mask, (side, 1), stride=1, padding=(side // 2, 0))
    return pool(rows, (1, side), stride=1, padding=(0, side // 2))[..., :height, :width]


def _in_tiles(codec: VAE, tile_size: int) -> VAE:
    """Return the codec with tiles of so many pixels, or of the smallest that work."""
    return VAE(codec.network, tile=max(tile_size // codec.factor, _SMALLEST_TILE))


NODES = [VAEEncode, VAEEncodeTiled, VAEEncodeForInpaint, VAEDecode, VAEDecodeTiled]
