"""Stand-ins for the stock nodes that resize, join and extend IMAGEs [B, H, W, C] in 0..1."""

from __future__ import annotations

import torch

from .definition import IMAGE, MAX_SIDE, StockNode, number, whole
from .resizing import CROPS, IMAGE_METHODS, resize_image

_GREY = 0.5


class ImageScale(StockNode):
    """Resize images to a size; a side of 0 follows the other."""

    DISPLAY_NAME = "Upscale Image"
    REQUIRED = {
        "image": IMAGE,
        "upscale_method": (IMAGE_METHODS,),
        "width": whole(512, 0, MAX_SIDE, step=1),
        "height": whole(512, 0, MAX_SIDE, step=1),
        "crop": (CROPS,),
    }
    RETURN_TYPES = ("IMAGE",)

    def execute(
        self, image: torch.Tensor, upscale_method: str, width: int, height: int, crop: str
    ) -> tuple[torch.Tensor]:
        if width == height == 0:
            return (image,)
        old_height, old_width = image.shape[1:3]
        width = width or max(1, round(old_width * height / old_height))
        height = height or max(1, round(old_height * width / old_width))
        return (resize_image(image, width, height, upscale_method, crop),)


class ImageScaleBy(StockNode):
    """Resize images by a factor."""

    DISPLAY_NAME = "Upscale Image By"
    REQUIRED = {
        "image": IMAGE,
        "upscale_method": (IMAGE_METHODS,),
        "scale_by": number(1.0, 0.01, 8.0),
    }
    RETURN_TYPES = ("IMAGE",)

    def execute(
        self, image: torch.Tensor, upscale_method: str, scale_by: float
    ) -> tuple[torch.Tensor]:
        height, width = (round(side * scale_by) for side in image.shape[1:3])
        return (resize_image(image, width, height, upscale_method),)


class ImageInvert(StockNode):
    """Turn colours into their opposites."""

    DISPLAY_NAME = "Invert Image Colors"
    REQUIRED = {"image": IMAGE}
    RETURN_TYPES = ("IMAGE",)

    def execute(self, image: torch.Tensor) -> tuple[torch.Tensor]:
        return (1.0 - image,)


class ImageBatch(StockNode):
    """Join two batches, the second at the size of the first; missing alpha is opaque."""

    DISPLAY_NAME = "Batch Images (DEPRECATED)"
    REQUIRED = {"image1": IMAGE, "image2": IMAGE}
    RETURN_TYPES = ("IMAGE",)

    def execute(self, image1: torch.Tensor, image2: torch.Tensor) -> tuple[torch.Tensor]:
        channels = max(image1.shape[3], image2.shape[3])
        first, second = (
            torch.nn.functional.pad(image, (0, channels - image.shape[3]), value=1.0)
            for image in (image1, image2)
        )
        if first.shape[1:] != second.shape[1:]:
            second = resize_image(second, first.shape[2], first.shape[1], "bilinear", "center")
        return (torch.cat([first, second]),)


class ImagePadForOutpaint(StockNode):
    """Put a grey border around images, with the mask that paints it and fades into the picture."""

    DISPLAY_NAME = "Pad Image for Outpainting"
    REQUIRED = {
        "image": IMAGE,
        **{edge: whole(0, 0, MAX_SIDE, step=8) for edge in ("left", "top", "right", "bottom")},
        "feathering": whole(40, 0, MAX_SIDE, step=1, advanced=True),
    }
    RETURN_TYPES = ("IMAGE", "MASK")

    def execute(
        self,
        image: torch.Tensor,
        left: int,
        top: int,
        right: int,
        bottom: int,
        feathering: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        border = (left, right, top, bottom)
        padded = torch.nn.functional.pad(image, (0, 0, *border), value=_GREY)
        height, width = image.shape[1:3]
        mask = torch.zeros(height, width)
        if 0 < feathering * 2 < min(height, width):
            rows = _distance(height, bool(top), bool(bottom))[:, None]
            nearest = torch.minimum(rows, _distance(width, bool(left), bool(right)))
            mask = (((feathering - nearest) / feathering).clamp(min=0.0) ** 2).float()
        return padded, torch.nn.functional.pad(mask, border, value=1.0)[None]


def _distance(length: int, before: bool, after: bool) -> torch.Tensor:
    """Return how many pixels lie between each pixel of a side and the nearest border beside it."""
    position = torch.arange(length, dtype=torch.float64)
    start = position if before else torch.full_like(position, length)
    return torch.minimum(start, length - position) if after else start


NODES = [ImageScale, ImageScaleBy, ImageInvert, ImageBatch, ImagePadForOutpaint]
