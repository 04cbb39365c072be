"""Images to PNG files: saved with the graph that made them, or only shown."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..pipeline_core.errors import InvalidRequest
from . import host
from .conversions import log_warnings, to_images
from .sockets import SAFETY_RECORD

if TYPE_CHECKING:
    import torch

    from ..pipeline_core.values import CheckedImages

_HIDDEN = {"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"}


class MultilingualSaveImage:
    """Save images as PNG with the graph in them, and what the safety check said."""

    DISPLAY_NAME = "Multilingual Save Image"
    CATEGORY = "multilingual/images"
    DESCRIPTION = __doc__
    SEARCH_ALIASES = ["save", "write image", "export", "metadata"]
    RETURN_TYPES = ()
    OUTPUT_TOOLTIPS = ()
    FUNCTION = "execute"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "images": ("IMAGE", {"tooltip": "The images to save."}),
                "filename_prefix": (
                    "STRING",
                    {
                        "default": "multilingual",
                        "tooltip": "Start of the file names, below the output folder. May hold "
                        "%date:yyyy-MM-dd%, %width%, %height% and %Node.input%.",
                    },
                ),
            },
            "optional": {
                "safety_record": (
                    SAFETY_RECORD,
                    {
                        "tooltip": "From Multilingual Safety Check. Without it the metadata says "
                        "that these images were not checked (safety: off)."
                    },
                )
            },
            "hidden": _HIDDEN,
        }

    def execute(
        self,
        images: torch.Tensor,
        filename_prefix: str,
        safety_record: Mapping[str, Any] | None = None,
        prompt: Mapping[str, Any] | None = None,
        extra_pnginfo: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        checked = _as_checked(images, safety_record)
        folder = host.output_folder()
        paths = _write(folder, checked, filename_prefix, prompt, extra_pnginfo)
        return {"ui": {"images": _shown(paths, folder, "output")}}


class MultilingualPreviewImage:
    """Show images without keeping them."""

    DISPLAY_NAME = "Multilingual Preview Image"
    CATEGORY = "multilingual/images"
    DESCRIPTION = __doc__
    SEARCH_ALIASES = ["preview", "show image", "view"]
    RETURN_TYPES = ()
    OUTPUT_TOOLTIPS = ()
    FUNCTION = "execute"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {"images": ("IMAGE", {"tooltip": "The images to show."})},
            "hidden": _HIDDEN,
        }

    def execute(
        self,
        images: torch.Tensor,
        prompt: Mapping[str, Any] | None = None,
        extra_pnginfo: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        folder = host.preview_folder()
        checked = _as_checked(images, None)
        paths = _write(folder, checked, "multilingual_preview", prompt, extra_pnginfo)
        return {"ui": {"images": _shown(paths, folder, "temp")}}


def _as_checked(images: torch.Tensor, record: Mapping[str, Any] | None) -> CheckedImages:
    """Return what may be written: an IMAGE, whose check (or none) stands in the metadata."""
    from ..pipeline_core.outline import GENERATOR
    from ..pipeline_core.safety.policy import check

    checked = check(to_images(images), None, "off", metadata={"generator": GENERATOR})
    if record is None:
        return checked
    flagged = record.get("flagged")
    if flagged is not None and len(flagged) != len(checked.verdicts):
        raise InvalidRequest(
            f"the safety record speaks of {len(flagged)} images and {len(checked.verdicts)} come "
            "to be saved; wire the record of these images"
        )
    return dataclasses.replace(checked, metadata={**checked.metadata, "safety": dict(record)})


def _write(
    folder: Path,
    images: CheckedImages,
    prefix: str,
    prompt: Mapping[str, Any] | None,
    extra_pnginfo: Mapping[str, Any] | None,
) -> list[Path]:
    from ..pipeline_core.images.png import write_png
    from ..pipeline_core.workflow import expand_prefix, parse_api

    height, width = images.pixels.shape[2:]
    name = expand_prefix(
        prefix, width=width, height=height, workflow=parse_api(prompt) if prompt else None
    )
    graph = {**({"prompt": prompt} if prompt else {}), **(extra_pnginfo or {})}
    text = _fitting(graph) if host.writes_metadata() else {}
    return write_png(folder, images, prefix=name, host_text=text)


def _fitting(graph: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of the graph can be written: a picture is worth more than its metadata."""
    from ..pipeline_core.images.metadata import to_host_text

    fitting: dict[str, Any] = {}
    for key, value in graph.items():
        try:
            to_host_text(key, value)
            fitting[key] = value
        except InvalidRequest as exc:
            log_warnings([f"the picture is saved without its {key}: {exc}"])
    return fitting


def _shown(paths: list[Path], folder: Path, kind: str) -> list[dict[str, str]]:
    """Return the files as the browser asks for them."""
    shown: list[dict[str, str]] = []
    root = folder.resolve()  # files are written under the folder's real name
    for path in paths:
        place = path.parent.relative_to(root).as_posix()
        shown.append(
            {"filename": path.name, "subfolder": "" if place == "." else place, "type": kind}
        )
    return shown


NODES = [MultilingualSaveImage, MultilingualPreviewImage]
