"""Checked images to PNG files that say how they were made; nothing unchecked or half-written.

Names are `<prefix>_<counter>_.png`, as ComfyUI counts; `images/folders.py` keeps them in place.
"""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ..errors import InvalidRequest
from ..values import CheckedImages
from .folders import Folder, open_folder, safe_parts
from .metadata import METADATA_KEY, read_metadata, to_host_text, to_metadata_text

__all__ = ["read_metadata", "write_png", "write_png_as"]

_COMPRESSION = 4  # zlib level: a fifth of the time of 9 for a few per cent of size


def write_png(
    folder: Path | str,
    images: CheckedImages,
    *,
    prefix: str = "multilingual",
    first: int = 1,
    host_text: Mapping[str, Any] | None = None,
) -> list[Path]:
    """Write every image under the next free counter and return the paths.

    The metadata names the image's index in its request; a grid shows them all and has none.

    Args:
        prefix: relative to `folder`, may name sub-folders; empty: the files are `00001.png`.
        first: the lowest counter.
        host_text: further text chunks as JSON values, such as ComfyUI's `prompt` and `workflow`.

    Raises:
        InvalidRequest: not CheckedImages, a name that is refused, metadata that is no JSON.
        PipelineError: the folder is full or read-only; images before the failure are complete.
    """
    _check_type(images)
    *parents, stem = safe_parts(prefix) if prefix else ("",)
    files = [
        _to_file(picture, _metadata(images, index), host_text)
        for index, picture in enumerate(images.to_pil())
    ]
    with open_folder(folder, parents) as target:
        return [target.write_new(_free_names(target, stem, first), data) for data in files]


def write_png_as(
    path: Path | str,
    images: CheckedImages,
    *,
    index: int = 0,
    host_text: Mapping[str, Any] | None = None,
) -> Path:
    """Write one image under exactly this name, which must be free.

    Raises:
        InvalidRequest: not CheckedImages, the name is taken or refused, metadata that is no JSON.
        PipelineError: the folder is full or read-only.
    """
    _check_type(images)
    path = Path(path)
    (name,) = safe_parts(path.name)
    if path.suffix.lower() != ".png":
        raise InvalidRequest(f"file name {name!r}: images are written as .png")
    data = _to_file(images.to_pil()[index], _metadata(images, index), host_text)
    with open_folder(path.parent) as target:
        return target.write_new([name], data)


def _check_type(images: CheckedImages) -> None:
    if not isinstance(images, CheckedImages):
        raise InvalidRequest(
            f"only CheckedImages are written, not {type(images).__name__}; "
            "safety.policy.check makes them"
        )


def _metadata(images: CheckedImages, index: int) -> dict[str, Any]:
    return {**images.metadata, **({} if "grid" in images.metadata else {"index": index})}


def _to_file(
    picture: Image.Image, metadata: Mapping[str, Any], host_text: Mapping[str, Any] | None
) -> bytes:
    info = PngInfo()
    info.add_itxt(METADATA_KEY, to_metadata_text(metadata))
    for key, value in (host_text or {}).items():
        info.add_text(key, to_host_text(key, value))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", pnginfo=info, compress_level=_COMPRESSION)
    return buffer.getvalue()


def _free_names(folder: Folder, stem: str, first: int) -> Iterator[str]:
    """Yield names from the counter after the highest that is taken."""
    pattern = re.compile(rf"{re.escape(stem)}_(\d{{1,12}})_\.png" if stem else r"(\d{1,12})\.png")
    taken = (pattern.fullmatch(name) for name in folder.names())
    start = max([first, *(int(match[1]) + 1 for match in taken if match)])
    for counter in itertools.count(start):
        yield f"{stem}_{counter:05}_.png" if stem else f"{counter:05}.png"
