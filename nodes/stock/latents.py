"""Stand-ins for the stock nodes that make, turn, cut, resize and combine LATENTs.

Sizes in widgets are pixels, a latent cell is 8 of them a side. Further keys of a LATENT stay.
"""

from __future__ import annotations

from typing import Any

import torch

from .definition import LATENT, MASK, MAX_SIDE, Latent, StockNode, number, whole
from .resizing import CROPS, LATENT_METHODS, resize

_CELL = 8
_SMALLEST = 64  # pixels a side, of what is resized or cut
_ROTATIONS = ["none", "90 degrees", "180 degrees", "270 degrees"]


def with_samples(latent: Latent, samples: torch.Tensor, **more: Any) -> tuple[dict[str, Any]]:
    """Return a node's result: the LATENT with other samples [B, C, h, w]."""
    return ({**latent, "samples": samples, **more},)


class EmptyLatentImage(StockNode):
    """Make latents of zeros."""

    DISPLAY_NAME = "Empty Latent Image"
    REQUIRED = {
        "width": whole(512, 16, MAX_SIDE, step=8),
        "height": whole(512, 16, MAX_SIDE, step=8),
        "batch_size": whole(1, 1, 4096),
    }
    RETURN_TYPES = ("LATENT",)

    def execute(self, width: int, height: int, batch_size: int) -> tuple[dict[str, Any]]:
        return ({"samples": torch.zeros(batch_size, 4, height // _CELL, width // _CELL)},)


class LatentUpscale(StockNode):
    """Resize latents to a size; a side of 0 follows the other."""

    DISPLAY_NAME = "Upscale Latent"
    REQUIRED = {
        "samples": LATENT,
        "upscale_method": (LATENT_METHODS,),
        "width": whole(512, 0, MAX_SIDE, step=8),
        "height": whole(512, 0, MAX_SIDE, step=8),
        "crop": (CROPS,),
    }
    RETURN_TYPES = ("LATENT",)

    def execute(
        self, samples: Latent, upscale_method: str, width: int, height: int, crop: str
    ) -> tuple[Latent]:
        if width == height == 0:
            return (samples,)
        old_height, old_width = samples["samples"].shape[-2:]
        if width == 0:
            width = round(old_width * max(height, _SMALLEST) / old_height)
        elif height == 0:
            height = round(old_height * max(width, _SMALLEST) / old_width)
        width, height = (max(side, _SMALLEST) // _CELL for side in (width, height))
        resized = resize(samples["samples"], width, height, upscale_method, crop)
        return with_samples(samples, resized)


class LatentUpscaleBy(StockNode):
    """Resize latents by a factor."""

    DISPLAY_NAME = "Upscale Latent By"
    REQUIRED = {
        "samples": LATENT,
        "upscale_method": (LATENT_METHODS,),
        "scale_by": number(1.5, 0.01, 8.0),
    }
    RETURN_TYPES = ("LATENT",)

    def execute(
        self, samples: Latent, upscale_method: str, scale_by: float
    ) -> tuple[dict[str, Any]]:
        height, width = (round(side * scale_by) for side in samples["samples"].shape[-2:])
        return with_samples(samples, resize(samples["samples"], width, height, upscale_method))


class LatentRotate(StockNode):
    """Turn latents clockwise."""

    DISPLAY_NAME = "Rotate Latent"
    REQUIRED = {
        "samples": LATENT,
        "rotation": (_ROTATIONS,),
    }
    RETURN_TYPES = ("LATENT",)

    def execute(self, samples: Latent, rotation: str) -> tuple[dict[str, Any]]:
        quarters = _ROTATIONS.index(rotation)
        return with_samples(samples, samples["samples"].rot90(quarters, (3, 2)))


class LatentFlip(StockNode):
    """Mirror latents."""

    DISPLAY_NAME = "Flip Latent"
    REQUIRED = {
        "samples": LATENT,
        "flip_method": (["x-axis: vertically", "y-axis: horizontally"],),
    }
    RETURN_TYPES = ("LATENT",)

    def execute(self, samples: Latent, flip_method: str) -> tuple[dict[str, Any]]:
        axis = 2 if flip_method.startswith("x") else 3
        return with_samples(samples, samples["samples"].flip(axis))


class LatentCrop(StockNode):
    """Cut a piece out of latents; it starts early enough to be 64 pixels a side."""

    DISPLAY_NAME = "Crop Latent"
    REQUIRED = {
        "samples": LATENT,
        "width": whole(512, 64, MAX_SIDE, step=8),
        "height": whole(512, 64, MAX_SIDE, step=8),
        "x": whole(0, 0, MAX_SIDE, step=8),
        "y": whole(0, 0, MAX_SIDE, step=8),
    }
    RETURN_TYPES = ("LATENT",)

    def execute(
        self, samples: Latent, width: int, height: int, x: int, y: int
    ) -> tuple[dict[str, Any]]:
        cells = samples["samples"]
        smallest = _SMALLEST // _CELL
        top, left = (
            max(min(start // _CELL, side - smallest), 0)
            for start, side in zip((y, x), cells.shape[-2:], strict=True)
        )
        piece = cells[:, :, top : top + height // _CELL, left : left + width // _CELL]
        return with_samples(samples, piece)


class LatentComposite(StockNode):
    """Paste latents onto others at a place, with soft edges inside the picture."""

    DISPLAY_NAME = "Latent Composite"
    REQUIRED = {
        "samples_to": LATENT,
        "samples_from": LATENT,
        "x": whole(0, 0, MAX_SIDE, step=8),
        "y": whole(0, 0, MAX_SIDE, step=8),
        "feather": whole(0, 0, MAX_SIDE, step=8),
    }
    RETURN_TYPES = ("LATENT",)

    def execute(
        self, samples_to: Latent, samples_from: Latent, x: int, y: int, feather: int
    ) -> tuple[dict[str, Any]]:
        canvas = samples_to["samples"].clone()
        height, width = canvas.shape[-2:]
        top, left, soft = y // _CELL, x // _CELL, feather // _CELL
        piece = samples_from["samples"][..., : max(height - top, 0), : max(width - left, 0)]
        place = (..., slice(top, top + piece.shape[2]), slice(left, left + piece.shape[3]))
        rows = _ramp(piece.shape[2], top, height, soft)[:, None]
        weight = (rows * _ramp(piece.shape[3], left, width, soft)).to(canvas)
        canvas[place] = piece * weight + canvas[place] * (1 - weight)
        return with_samples(samples_to, canvas)


def _ramp(length: int, start: int, whole_length: int, soft: int) -> torch.Tensor:
    """Return weights along one side: rising over `soft` cells from an edge inside the canvas."""
    steps = torch.arange(length, dtype=torch.float64) + 1
    rising = (steps * (1.0 / max(soft, 1))).clamp(max=1.0).float()
    ramp = torch.ones(length)
    if soft and start:
        ramp = ramp * rising
    if soft and start + length < whole_length:
        ramp = ramp * rising.flip(0)
    return ramp


class SetLatentNoiseMask(StockNode):
    """Say where latents are painted anew: 1 in the mask."""

    DISPLAY_NAME = "Set Latent Noise Mask"
    REQUIRED = {"samples": LATENT, "mask": MASK}
    RETURN_TYPES = ("LATENT",)

    def execute(self, samples: Latent, mask: torch.Tensor) -> tuple[dict[str, Any]]:
        return ({**samples, "noise_mask": mask.reshape(-1, 1, *mask.shape[-2:])},)


NODES = [
    EmptyLatentImage,
    LatentUpscale,
    LatentUpscaleBy,
    LatentRotate,
    LatentFlip,
    LatentCrop,
    LatentComposite,
    SetLatentNoiseMask,
]
