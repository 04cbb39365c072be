"""Empty latents in the shapes that pictures have."""

from __future__ import annotations

from typing import Any

from ..pipeline_core.errors import InvalidRequest
from ..pipeline_core.ranges import MAX_PIXELS, MAX_SIDE
from ..pipeline_core.values import Latents
from .conversions import check_choice, to_comfy_latent
from .sockets import UNET, SocketUNet

SHAPES: dict[str, tuple[int, int] | None] = {
    "custom": None,
    "square 1:1": (1, 1),
    "tall 3:4": (3, 4),
    "tall 2:3": (2, 3),
    "tall 9:16": (9, 16),
    "wide 4:3": (4, 3),
    "wide 3:2": (3, 2),
    "wide 16:9": (16, 9),
}
_USUAL_SIZE = 512


class MultilingualEmptyLatent:
    """Make empty latents: a square, a tall or a wide picture at the model's own size, or yours."""

    DISPLAY_NAME = "Multilingual Empty Latent"
    CATEGORY = "multilingual/latents"
    DESCRIPTION = __doc__
    SEARCH_ALIASES = ["empty latent image", "aspect ratio", "size", "portrait", "landscape"]
    RETURN_TYPES = ("LATENT", "INT", "INT")
    RETURN_NAMES = ("latent", "width", "height")
    OUTPUT_TOOLTIPS = (
        "Empty latents, for a sampler.",
        "Width in pixels.",
        "Height in pixels.",
    )
    FUNCTION = "execute"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        side = {"default": _USUAL_SIZE, "min": 8, "max": MAX_SIDE, "step": 8}
        return {
            "required": {
                "shape": (
                    list(SHAPES),
                    {
                        "default": "square 1:1",
                        "tooltip": "Proportions at the model's own size; custom takes width and "
                        "height as they stand below.",
                    },
                ),
                "width": ("INT", {**side, "tooltip": "Pixels, a multiple of 8; for custom."}),
                "height": ("INT", {**side, "tooltip": "Pixels, a multiple of 8; for custom."}),
                "batch_size": (
                    "INT",
                    {"default": 1, "min": 1, "max": 4096, "tooltip": "How many images to make."},
                ),
            },
            "optional": {
                "unet": (
                    UNET,
                    {"tooltip": "Says the model's own size; without it 512 pixels a side."},
                )
            },
        }

    def execute(
        self, shape: str, width: int, height: int, batch_size: int, unet: SocketUNet | None = None
    ) -> tuple[dict[str, Any], int, int]:
        import torch

        check_choice("shape", shape, list(SHAPES))
        ratio = SHAPES[shape]
        if ratio is not None:
            width, height = fit_shape(ratio, unet.native_size if unet else _USUAL_SIZE)
        _check_size(width, height, batch_size)
        samples = torch.zeros(batch_size, 4, height // 8, width // 8)
        return to_comfy_latent(Latents(samples)), width, height


def fit_shape(ratio: tuple[int, int], native_size: int) -> tuple[int, int]:
    """Return width and height: the shorter side is the native size, the longer in even steps."""
    step = max(native_size // 64 * 8, 8)
    shorter, longer = sorted(ratio)
    long_side = round(native_size * longer / shorter / step) * step
    sides = {shorter: native_size, longer: long_side}
    return sides[ratio[0]], sides[ratio[1]]


def _check_size(width: int, height: int, batch_size: int) -> None:
    for name, side in (("width", width), ("height", height)):
        if side % 8 or not 8 <= side <= MAX_SIDE:
            raise InvalidRequest(f"{name} is {side}; it must be a multiple of 8 in 8..{MAX_SIDE}")
    if batch_size < 1 or width * height * batch_size > MAX_PIXELS:
        raise InvalidRequest(
            f"{batch_size} images of {width}x{height}; one run takes 1 image or more and at most "
            f"{MAX_PIXELS // 2**20} megapixels together"
        )


NODES = [MultilingualEmptyLatent]
