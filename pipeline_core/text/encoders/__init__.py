"""The encoder families, one file each: how it is built, and which keys of its files it leaves.

Keys of `ENCODERS` are `models.specs.EncoderFamily`. A new family is a file and a row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from ...models.specs import EncoderFamily
from . import altdiffusion, altdiffusion_m18, chinese_clip
from .tower import TextNetwork

__all__ = ["ENCODERS", "EncoderSpec", "TextNetwork"]


class BuildEncoder(Protocol):
    """`build(config, operations=torch.nn)`; works under `torch.device("meta")`."""

    def __call__(self, config: Mapping[str, Any], *, operations: Any = torch.nn) -> TextNetwork: ...


@dataclass(frozen=True)
class EncoderSpec:
    """One family.

    `build` makes the module: its state-dict keys are the published ones. After
    `load_state_dict(..., assign=True)` call `module.after_loading()`. `unused(config)` gives
    regular expressions (full match) of keys that published files may hold and the module has not.
    """

    build: BuildEncoder
    unused: Callable[[Mapping[str, Any]], tuple[str, ...]]


ENCODERS: dict[EncoderFamily, EncoderSpec] = {
    "altdiffusion": EncoderSpec(altdiffusion.build, altdiffusion.unused),
    "altdiffusion-m18": EncoderSpec(altdiffusion_m18.build, altdiffusion_m18.unused),
    "chinese-clip": EncoderSpec(chinese_clip.build, chinese_clip.unused),
}
