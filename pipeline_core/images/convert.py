"""Picture files to pixels and masks; each conversion says its shape and range.

Pixels are [1, 3, H, W] float32 in 0..1, masks [1, 1, H, W] in 0..1 with 1 where to repaint.
Files are opened with caps and only in the formats listed here.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from ..errors import FileRefused, InvalidRequest
from ..ranges import MAX_PIXELS, MAX_SIDE

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")


def open_picture(path: Path | str) -> Image.Image:
    """Open and decode a picture file; its size is checked before any pixel is decoded.

    Raises:
        FileRefused: no such file, not one of `FORMATS`, broken, or larger than the caps.
    """
    name = str(path)[-200:]
    try:
        with Image.open(path, formats=FORMATS) as picture:
            width, height = picture.size
            if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
                raise FileRefused(
                    f"{name}: {width}x{height} pixels; at most {MAX_SIDE} a side and "
                    f"{MAX_PIXELS // 2**20} megapixels are opened"
                )
            picture.load()
            return picture.copy()
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise FileRefused(f"{name}: it declares far too many pixels") from error
    except (OSError, ValueError, SyntaxError) as error:
        known = ", ".join(FORMATS)
        raise FileRefused(f"{name}: not a picture we can read ({known}): {error}") from error


def open_pixels(path: Path | str, size: tuple[int, int] | None = None) -> torch.Tensor:
    """Return the pixels of a picture file, `size` (width, height) if given.

    Raises:
        FileRefused: as `open_picture`.
        InvalidRequest: as `to_pixels`.
    """
    return to_pixels(open_picture(path), size)


def open_mask(path: Path | str, size: tuple[int, int] | None = None) -> torch.Tensor:
    """Return the lightness of a picture file as a mask, `size` (width, height) if given.

    Raises:
        FileRefused: as `open_picture`.
        InvalidRequest: as `to_pixels`.
    """
    return to_mask(open_picture(path), size)


def to_pixels(picture: Image.Image, size: tuple[int, int] | None = None) -> torch.Tensor:
    """Return RGB pixels, upright by its EXIF tag, transparency on white, resized after all that.

    Raises:
        InvalidRequest: the picture holds floats, whose range nobody knows.
    """
    upright = _upright(picture)
    if _has_alpha(upright):
        rgba = upright.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        upright = Image.alpha_composite(white, rgba)
    return _to_tensor(_fit(upright.convert("RGB"), size))


def split_alpha(picture: Image.Image) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return the RGB pixels as they are under the transparency, and the mask it makes.

    The mask is 1 where the picture is transparent (ComfyUI's rule), None without transparency.
    """
    upright = _upright(picture)
    if not _has_alpha(upright):
        return to_pixels(upright), None
    rgba = upright.convert("RGBA")
    return _to_tensor(rgba.convert("RGB")), 1.0 - _to_tensor(rgba.getchannel("A"))


def to_mask(picture: Image.Image, size: tuple[int, int] | None = None) -> torch.Tensor:
    """Return the picture's lightness as a mask: white is 1, repaint; black is 0, keep."""
    return _to_tensor(_fit(_upright(picture).convert("L"), size))


def pixels_digest(pixels: torch.Tensor) -> str:
    """Return the sha256 of a tensor's shape and float32 values, the same on every machine."""
    array = pixels.detach().cpu().float().contiguous().numpy().astype("<f4", copy=False)
    shape = "x".join(str(side) for side in array.shape)
    return hashlib.sha256(f"{shape}:".encode() + array.tobytes()).hexdigest()


def _upright(picture: Image.Image) -> Image.Image:
    """Turn by the EXIF tag; reduce 16-bit grey to 8 bits, which Pillow would clip instead."""
    if picture.mode == "F":
        raise InvalidRequest("the picture holds floats of unknown range; save it as 8 or 16 bits")
    picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith(
        "I"
    ):  # I;16 and its byte orders; I is how Pillow < 11.3 opens 16 bits
        array = np.asarray(picture).astype(np.float64) / 65535.0
        return Image.fromarray((array.clip(0.0, 1.0) * 255.0).round().astype(np.uint8))
    return picture


def _fit(picture: Image.Image, size: tuple[int, int] | None) -> Image.Image:
    """Resize an upright RGB or L picture; any other mode would be resampled by its numbers."""
    return picture if size is None else picture.resize(size, Image.Resampling.LANCZOS)


def _has_alpha(picture: Image.Image) -> bool:
    return "A" in picture.getbands() or "a" in picture.getbands() or "transparency" in picture.info


def _to_tensor(picture: Image.Image) -> torch.Tensor:
    """Return [1, C, H, W] in 0..1 from an 8-bit picture."""
    array = np.asarray(picture, dtype=np.float32) / 255.0
    return torch.from_numpy(array.reshape(*array.shape[:2], -1).transpose(2, 0, 1).copy())[None]
