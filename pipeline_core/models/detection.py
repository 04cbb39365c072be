"""What `detect(path)` answers: the layout, the parts with their files, and why.

Types only; the reading is in `detect.py`, and `loading` builds modules from a `Detection`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from .specs import EncoderFamily, ModelSpec

Layout = Literal["diffusers", "modelscope", "flagai", "checkpoint"]
PartName = Literal["text_encoder", "tokenizer", "unet", "vae", "safety_checker", "scheduler"]
UNetFamily = Literal["sd1", "sd2", "other"]

PARTS: tuple[PartName, ...] = (
    "text_encoder",
    "tokenizer",
    "unet",
    "vae",
    "safety_checker",
    "scheduler",
)


@dataclass(frozen=True)
class PartFiles:
    """Where one part lies.

    `weights` are the files that hold its tensors (shards together, in order); `config` is its JSON
    (a YAML for FlagAI folders, None where the part lives in a bare checkpoint); `extra` are further
    files by role, such as "preprocessor" or "sentencepiece".
    """

    weights: tuple[Path, ...] = ()
    config: Path | None = None
    extra: Mapping[str, Path] = field(default_factory=dict[str, Path])


@dataclass(frozen=True, kw_only=True)
class Detection:
    """What lies at a path, decided from names and headers alone."""

    path: Path
    layout: Layout
    spec: ModelSpec | None  # the nearest known model; None for a plain SD checkpoint
    encoder: EncoderFamily | None
    unet_family: UNetFamily | None
    parts: Mapping[PartName, PartFiles]
    absent: tuple[PartName, ...] = ()  # declared absent by the folder, such as [null, null]
    missing: tuple[PartName, ...] = ()  # declared by the folder's index, but not there
    has_ema: bool = False
    needs_pickle: bool = False  # at least one part's weights are a pickle
    reasons: tuple[str, ...] = ()  # one line each, for people
