"""Several checked images on one: the plain grid of FlagAI's predictor, and a labelled sheet.

Both stay CheckedImages, so that only checked pictures reach a file; their metadata says `grid`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from ..errors import FileRefused, InvalidRequest
from ..values import CheckedImages

_PADDING = 2  # pixels, black: torchvision.utils.make_grid's defaults
_MARGIN = 8
_PAPER, _INK = (255, 255, 255), (20, 20, 20)
_NO_GLYPH = "\U0010fffd"  # a private-use character that fonts leave out


def make_grid(images: CheckedImages, columns: int) -> CheckedImages:
    """Return one image with `columns` images a row, laid out as torchvision's make_grid.

    A single image comes back as it is, without a frame.
    """
    count, _, height, width = images.pixels.shape
    if columns < 1:
        raise InvalidRequest(f"columns is {columns}; a grid needs at least 1")
    if count == 1:
        return images
    columns = min(columns, count)
    rows = -(-count // columns)
    cell_height, cell_width = height + _PADDING, width + _PADDING
    grid = torch.zeros(3, rows * cell_height + _PADDING, columns * cell_width + _PADDING)
    for index, pixels in enumerate(images.pixels):
        top = _PADDING + index // columns * cell_height
        left = _PADDING + index % columns * cell_width
        grid[:, top : top + height, left : left + width] = pixels
    return _joined(images, grid, columns)


def make_sheet(
    images: CheckedImages,
    labels: Sequence[str],
    *,
    columns: int,
    font_file: Path | str | None = None,
    codes: Sequence[str] | None = None,
    text_size: int = 18,
) -> CheckedImages:
    """Return one white sheet with a label under each image, never with empty boxes for letters.

    A label the font cannot draw is replaced by its entry in `codes` (a language tag such as
    `zh-Hans`), or by its number where there is none.

    Raises:
        InvalidRequest: labels or codes do not fit the images.
        FileRefused: the font file cannot be read.
    """
    pictures = images.to_pil()
    if len(labels) != len(pictures) or (codes is not None and len(codes) != len(pictures)):
        raise InvalidRequest(f"{len(labels)} labels for {len(pictures)} images; give one each")
    if columns < 1:
        raise InvalidRequest(f"columns is {columns}; a sheet needs at least 1")
    font = load_font(font_file, text_size)
    fallbacks = codes or [str(number + 1) for number in range(len(labels))]
    texts = [
        label if can_draw(font, label) else fallback
        for label, fallback in zip(labels, fallbacks, strict=True)
    ]
    columns = min(columns, len(pictures))
    sheet = _draw_sheet(pictures, texts, columns, font, text_size)
    pixels = torch.from_numpy(np.asarray(sheet).transpose(2, 0, 1).astype(np.float32) / 255.0)
    return _joined(images, pixels, columns)


def _joined(images: CheckedImages, pixels: torch.Tensor, columns: int) -> CheckedImages:
    """Return all images as one picture [3, H, W], whose metadata is that of them all."""
    metadata = {**images.metadata, "grid": {"columns": columns}}
    return dataclasses.replace(images, pixels=pixels[None], metadata=metadata)


def can_draw(font: ImageFont.FreeTypeFont | ImageFont.ImageFont, text: str) -> bool:
    """Say whether the font has its own shape for every character of the text."""
    missing = _shape(font, _NO_GLYPH)
    return all(char.isspace() or _shape(font, char) not in (missing, None) for char in text)


def _shape(font: ImageFont.FreeTypeFont | ImageFont.ImageFont, char: str) -> bytes | None:
    side = int(getattr(font, "size", 16)) * 2
    canvas = Image.new("L", (side, side))
    try:
        ImageDraw.Draw(canvas).text((0, 0), char, fill=255, font=font)
    except UnicodeEncodeError:  # Pillow's bitmap font knows Latin-1 only
        return None
    return canvas.tobytes()


def _draw_sheet(
    pictures: Sequence[Image.Image],
    texts: Sequence[str],
    columns: int,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    text_size: int,
) -> Image.Image:
    width, height = pictures[0].size
    band = text_size * 3 // 2
    rows = -(-len(pictures) // columns)
    cell_width, cell_height = width + _MARGIN, height + band + _MARGIN
    size = (columns * cell_width + _MARGIN, rows * cell_height + _MARGIN)
    sheet = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(sheet)
    for index, (picture, text) in enumerate(zip(pictures, texts, strict=True)):
        left = _MARGIN + index % columns * cell_width
        top = _MARGIN + index // columns * cell_height
        sheet.paste(picture, (left, top))
        draw.text((left, top + height + 2), _fitted(draw, text, font, width), _INK, font=font)
    return sheet


def _fitted(
    draw: ImageDraw.ImageDraw,
    text: str,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    width: int,
) -> str:
    """Cut the text to one line of `width` pixels, marked with three dots."""
    text = " ".join(text.split())
    if draw.textlength(text, font=font) <= width:
        return text
    while text and draw.textlength(f"{text}...", font=font) > width:
        text = text[:-1]
    return f"{text}..."


def load_font(
    font_file: Path | str | None, size: int
) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return the font of a file, Pillow's own without one.

    Raises:
        FileRefused: the file cannot be read.
    """
    if font_file is None:
        return ImageFont.load_default(size)
    try:
        return ImageFont.truetype(font_file, size)
    except OSError as error:
        raise FileRefused(f"font file {str(font_file)!r} cannot be read: {error}") from error
