"""Pictures as the safety checker's vision tower wants them, without torchvision.

Equal to transformers' CLIPImageProcessor (its PIL path): shortest edge bicubic, centre crop,
rescale, normalise; every value comes from the model's `preprocessor_config.json`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..errors import FileRefused

if TYPE_CHECKING:
    from PIL import Image

_MAX_SIDE = 4096


@dataclass(frozen=True)
class Preprocessing:
    """What happens to a picture on its way in; sizes are (height, width) in pixels."""

    shortest_edge: int | None = 224  # keeps the aspect ratio; None: resize to `exact_size`
    exact_size: tuple[int, int] | None = None
    resample: int = 3  # PIL's number: 0 nearest, 1 lanczos, 2 bilinear, 3 bicubic
    crop_size: tuple[int, int] | None = (224, 224)
    rescale_factor: float = 1 / 255
    mean: tuple[float, ...] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, ...] = (0.26862954, 0.26130258, 0.27577711)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Preprocessing:
        """Read a `preprocessor_config.json`: `size: 224` (old) or `{"shortest_edge": 224}` (new).

        Raises:
            FileRefused: a value has no meaning here.
        """
        shortest, exact = _resize_target(config)
        crop = config.get("crop_size", 224) if config.get("do_center_crop", True) else None
        rescale = config.get("rescale_factor", 1 / 255) if config.get("do_rescale", True) else 1.0
        mean, std = (0.0,) * 3, (1.0,) * 3
        if config.get("do_normalize", True):
            mean = _channels("image_mean", config.get("image_mean", cls.mean), _number)
            std = _channels("image_std", config.get("image_std", cls.std), _positive)
        return cls(
            shortest_edge=shortest,
            exact_size=exact,
            resample=_whole_number("resample", config.get("resample", 3), 0, 5),
            crop_size=None if crop is None else _size("crop_size", crop),
            rescale_factor=_positive("rescale_factor", rescale),
            mean=mean,
            std=std,
        )

    def check_fits(self, side: int) -> None:
        """Raise unless every picture comes out `side` x `side`.

        Raises:
            FileRefused: naming both sizes.
        """
        size = self.crop_size or self.exact_size
        if size != (side, side):
            given = f"{size[0]} x {size[1]}" if size else "of any size"
            raise FileRefused(
                f"preprocessor config: its pictures are {given}; the safety checker's network "
                f"takes {side} x {side}; get both files of one model"
            )

    def __call__(self, picture: Image.Image) -> torch.Tensor:
        """Return one RGB picture as [1, 3, height, width] float32, normalised."""
        size = self._resized(picture.height, picture.width)
        if size is not None:
            picture = picture.resize((size[1], size[0]), resample=self.resample)  # type: ignore[arg-type]
        array = np.asarray(picture)  # (H, W, 3)
        if self.crop_size is not None:
            array = _centre_crop(array, *self.crop_size)
        # float64, then float32: the reference's order, equal to the last bit
        values = (array.astype(np.float64) * self.rescale_factor).astype(np.float32)
        values = (values - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)
        return torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1)))[None]

    def _resized(self, height: int, width: int) -> tuple[int, int] | None:
        if self.shortest_edge is None:
            return self.exact_size
        longest = int(self.shortest_edge * max(height, width) / min(height, width))
        if width <= height:
            return longest, self.shortest_edge
        return self.shortest_edge, longest


def _centre_crop(array: np.ndarray, height: int, width: int) -> np.ndarray:
    """Cut the middle out of (H, W, 3); what is missing on a small picture is zero."""
    missing = (max(0, height - array.shape[0]), max(0, width - array.shape[1]))
    array = np.pad(array, [(-(-lack // 2), lack // 2) for lack in missing] + [(0, 0)])
    top, left = (array.shape[0] - height) // 2, (array.shape[1] - width) // 2
    return array[top : top + height, left : left + width]


def _resize_target(config: Mapping[str, Any]) -> tuple[int | None, tuple[int, int] | None]:
    size = config.get("size", 224)
    if not config.get("do_resize", True):
        return None, None
    if isinstance(size, int):
        return _whole_number("size", size, 1, _MAX_SIDE), None
    if isinstance(size, Mapping) and "shortest_edge" in size:
        return _whole_number("size.shortest_edge", size["shortest_edge"], 1, _MAX_SIDE), None
    return None, _size("size", size)


def _size(name: str, value: object) -> tuple[int, int]:
    if isinstance(value, Mapping):
        height, width = value.get("height"), value.get("width")
    else:
        height = width = value
    return (
        _whole_number(f"{name} height", height, 1, _MAX_SIDE),
        _whole_number(f"{name} width", width, 1, _MAX_SIDE),
    )


def _channels(name: str, values: object, read: Callable[[str, object], float]) -> tuple[float, ...]:
    if not isinstance(values, (list, tuple)) or len(values) != 3:
        raise FileRefused(
            f"preprocessor config: {name} is {values!r:.80}; it must be three numbers"
        )
    return tuple(read(name, value) for value in values)


def _positive(name: str, value: object) -> float:
    number = _number(name, value)
    if number <= 0:
        raise FileRefused(f"preprocessor config: {name} is {value!r:.80}; it must be above 0")
    return number


def _number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not np.isfinite(value):
        raise FileRefused(
            f"preprocessor config: {name} is {value!r:.80}; it must be a finite number"
        )
    return float(value)


def _whole_number(name: str, value: object, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise FileRefused(
            f"preprocessor config: {name} is {value!r:.80}; it must be a whole number {low}..{high}"
        )
    return value
