"""Stand-ins for the stock nodes that make and change MASKs [B, H, W], 1 where to paint anew."""

from __future__ import annotations

import torch

from .definition import IMAGE, MASK, MAX_SIDE, StockNode, combo, number, whole

_SIDE = whole(512, 1, MAX_SIDE, step=1)
_EDGE = whole(0, 0, MAX_SIDE, step=1)
_CHANNELS = ("red", "green", "blue", "alpha")


class SolidMask(StockNode):
    """Make a mask of one value."""

    DISPLAY_NAME = "Create Solid Mask"
    REQUIRED = {"value": number(1.0, 0.0, 1.0), "width": _SIDE, "height": _SIDE}
    RETURN_TYPES = ("MASK",)

    def execute(self, value: float, width: int, height: int) -> tuple[torch.Tensor]:
        return (torch.full((1, height, width), value, dtype=torch.float32),)


class InvertMask(StockNode):
    """Swap what is painted anew and what is kept."""

    DISPLAY_NAME = "Invert Mask"
    REQUIRED = {"mask": MASK}
    RETURN_TYPES = ("MASK",)

    def execute(self, mask: torch.Tensor) -> tuple[torch.Tensor]:
        return (1.0 - mask,)


class MaskToImage(StockNode):
    """Show a mask as a grey image."""

    DISPLAY_NAME = "Convert Mask to Image"
    REQUIRED = {"mask": MASK}
    RETURN_TYPES = ("IMAGE",)

    def execute(self, mask: torch.Tensor) -> tuple[torch.Tensor]:
        return (_batch(mask)[..., None].expand(-1, -1, -1, 3),)


class ImageToMask(StockNode):
    """Take one channel of an image as a mask."""

    DISPLAY_NAME = "Convert Image to Mask"
    REQUIRED = {"image": IMAGE, "channel": combo(_CHANNELS)}
    RETURN_TYPES = ("MASK",)

    def execute(self, image: torch.Tensor, channel: str) -> tuple[torch.Tensor]:
        return (image[..., _CHANNELS.index(channel)],)


class FeatherMask(StockNode):
    """Let a mask fade towards its edges, over so many pixels each."""

    DISPLAY_NAME = "Feather Mask"
    REQUIRED = {"mask": MASK, "left": _EDGE, "top": _EDGE, "right": _EDGE, "bottom": _EDGE}
    RETURN_TYPES = ("MASK",)

    def execute(
        self, mask: torch.Tensor, left: int, top: int, right: int, bottom: int
    ) -> tuple[torch.Tensor]:
        mask = _batch(mask)
        height, width = mask.shape[1:]
        mask = mask * _rise(width, left) * _rise(width, right).flip(0)
        return (mask * _rise(height, top)[:, None] * _rise(height, bottom).flip(0)[:, None],)


def _rise(length: int, reach: int) -> torch.Tensor:
    """Return weights that rise to 1 over the first `reach` of `length` pixels."""
    reach = min(reach, length)
    return ((torch.arange(length) + 1) / max(reach, 1)).clamp(max=1.0)


class GrowMask(StockNode):
    """Let a mask grow, or shrink below 0, by so many pixels; tapered corners are cut off."""

    DISPLAY_NAME = "Grow Mask"
    REQUIRED = {
        "mask": MASK,
        "expand": whole(0, -MAX_SIDE, MAX_SIDE, step=1),
        "tapered_corners": ("BOOLEAN", {"advanced": True, "default": True}),
    }
    RETURN_TYPES = ("MASK",)

    def execute(
        self, mask: torch.Tensor, expand: int, tapered_corners: bool
    ) -> tuple[torch.Tensor]:
        sign = -1.0 if expand < 0 else 1.0
        mask = _batch(mask) * sign  # to shrink is to let what is kept grow
        for _ in range(abs(expand)):
            grown = _grow(mask, tapered_corners)
            if torch.equal(grown, mask):
                break
            mask = grown
        return (mask * sign,)


def _grow(mask: torch.Tensor, tapered: bool) -> torch.Tensor:
    """Return the mask grown by one pixel: to all 8 neighbours, or to 4."""
    pool = torch.nn.functional.max_pool2d
    if not tapered:
        return pool(mask, 3, stride=1, padding=1)
    across = pool(mask, (1, 3), stride=1, padding=(0, 1))
    return torch.maximum(across, pool(mask, (3, 1), stride=1, padding=(1, 0)))


def _batch(mask: torch.Tensor) -> torch.Tensor:
    """Turn a MASK of any form into [B, H, W]."""
    return mask.reshape(-1, *mask.shape[-2:])


NODES = [SolidMask, InvertMask, MaskToImage, ImageToMask, FeatherMask, GrowMask]
