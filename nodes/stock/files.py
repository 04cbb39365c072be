"""Stand-ins for the stock nodes that read pictures from the input folder and write them.

Names come from workflow files, so none leads out of its folder. One picture a file is read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ...pipeline_core.errors import InvalidRequest
from ...pipeline_core.models.digests import file_digest
from ...pipeline_core.models.folders import safe_join
from .. import host
from ..images import MultilingualPreviewImage, MultilingualSaveImage
from .definition import IMAGE, StockNode

_HIDDEN = {"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"}
_BATCH_NUMBER = "%batch_num%"

# "cat.png [output]": a picture of another folder, as the browser writes it
_NAME = re.compile(r"(?P<name>.*?)(?: ?\[(?P<folder>input|output|temp)\])?", re.DOTALL)
_FOLDERS = {
    "input": host.input_folder,
    "output": host.output_folder,
    "temp": host.preview_folder,
}
_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
_CHANNELS = ["alpha", "red", "green", "blue"]
_NO_ALPHA = (1, 64, 64)  # the empty mask of a picture without transparency


class LoadImage(StockNode):
    """Read a picture of the input folder, and its transparency as a mask."""

    DISPLAY_NAME = "Load Image"
    RETURN_TYPES = ("IMAGE", "MASK")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, dict[str, Any]]:
        return {"required": {"image": (_names(), {"image_upload": True})}}

    @classmethod
    def VALIDATE_INPUTS(cls, image: str) -> bool | str:
        return _check(image)

    @classmethod
    def IS_CHANGED(cls, image: str) -> str:
        return _digest(image)

    def execute(self, image: str) -> tuple[torch.Tensor, torch.Tensor]:
        return _load(image)


class LoadImageMask(StockNode):
    """Read one channel of a picture as a mask; alpha is turned round."""

    DISPLAY_NAME = "Load Image (as Mask)"
    RETURN_TYPES = ("MASK",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, dict[str, Any]]:
        image = (_names(), {"image_upload": True})
        return {"required": {"image": image, "channel": (_CHANNELS,)}}

    @classmethod
    def VALIDATE_INPUTS(cls, image: str) -> bool | str:
        return _check(image)

    @classmethod
    def IS_CHANGED(cls, image: str, channel: str) -> str:
        return _digest(image)

    def execute(self, image: str, channel: str) -> tuple[torch.Tensor]:
        pixels, mask = _load(image)
        return (mask if channel == "alpha" else pixels[..., _CHANNELS.index(channel) - 1],)


class SaveImage(StockNode):
    """Save images as PNG with the graph in them; values are cut off to 8 bits, as the host does."""

    DISPLAY_NAME = "Save Image"
    REQUIRED = {"images": IMAGE, "filename_prefix": ("STRING", {"default": "ComfyUI"})}
    HIDDEN = _HIDDEN
    RETURN_TYPES = ("IMAGE",)
    RETURN_NAMES = ("images",)
    OUTPUT_NODE = True

    def execute(
        self,
        images: torch.Tensor,
        filename_prefix: str = "ComfyUI",
        prompt: Mapping[str, Any] | None = None,
        extra_pnginfo: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        batches, saver = [images], MultilingualSaveImage()
        if _BATCH_NUMBER in filename_prefix:
            batches = list(images.split(1))
        shown: list[Any] = []
        for number, batch in enumerate(batches):
            prefix = filename_prefix.replace(_BATCH_NUMBER, str(number))
            saved = saver.execute(_cut_off(batch), prefix, None, prompt, extra_pnginfo)
            shown += saved["ui"]["images"]
        return {"ui": {"images": shown}, "result": (images,)}


class PreviewImage(StockNode):
    """Show images without keeping them."""

    DISPLAY_NAME = "Preview Image"
    REQUIRED = {"images": IMAGE}
    HIDDEN = _HIDDEN
    RETURN_TYPES = ("IMAGE",)
    RETURN_NAMES = ("images",)
    OUTPUT_NODE = True

    def execute(
        self,
        images: torch.Tensor,
        prompt: Mapping[str, Any] | None = None,
        extra_pnginfo: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        shown = MultilingualPreviewImage().execute(_cut_off(images), prompt, extra_pnginfo)
        return {**shown, "result": (images,)}


def _names() -> list[str]:
    """Return the pictures that lie in the input folder itself."""
    folder = host.input_folder()
    if not folder.is_dir():
        return []
    files = [path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES]
    return sorted(path.name for path in files if path.is_file())


def _find(image: str) -> Path:
    """Return where a picture lies.

    Raises:
        InvalidRequest: the name could leave its folder.
    """
    match = _NAME.fullmatch(image)
    name, folder = (match["name"], match["folder"]) if match else (image, None)
    return safe_join(_FOLDERS[folder or "input"](), name)


def _check(image: str) -> bool | str:
    """Take any picture below the folders, listed or not, as the host does."""
    try:
        is_there = _find(image).is_file()
    except InvalidRequest:
        is_there = False
    return is_there or f"Invalid image file: {image}"


def _digest(image: str) -> str:
    return file_digest(_find(image))


def _load(image: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the IMAGE [1, H, W, 3] and the MASK [1, H, W] of a picture."""
    from ...pipeline_core.images.convert import open_picture, split_alpha

    pixels, mask = split_alpha(open_picture(_find(image)))
    return pixels.permute(0, 2, 3, 1), torch.zeros(_NO_ALPHA) if mask is None else mask[:, 0]


def _cut_off(images: torch.Tensor) -> torch.Tensor:
    """Return images whose values are whole 8-bit ones, the next lower each."""
    return (images * 255.0).clamp(0, 255).floor() / 255.0


NODES = [LoadImage, LoadImageMask, SaveImage, PreviewImage]
