"""How long each stage of `nano` runs, and on how much; a JSON file may change any number."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ...errors import UnknownName
from ...models.strict_json import read_json
from ..autoencoding import CropPhase
from ..loop import LoopOptions
from ..losses import LossWeighting
from ..selection import Selection
from ..world.captions import LANGUAGES


def small(steps: int, **values: Any) -> LoopOptions:
    """Return options that suit networks of a few million parameters and few samples."""
    defaults: dict[str, Any] = {
        "optimizer": "muon",
        "learning_rate": 2e-3,
        "betas": (0.9, 0.99),
        "weight_decay": 0.0,
        "decay": "cosine",
        "checkpoint_every": 100,
        "sample_every": 500,
    }
    return LoopOptions(steps=steps, **{**defaults, **values})


@dataclass(frozen=True)
class UNetStage:
    """One stage of the UNet: what trains, who reads the prompts, how many captions are dropped."""

    loop: LoopOptions
    pictures: int = 8_000  # cached latents of all buckets together
    selection: Selection = "all"
    encoder: str = "teacher-learning"  # the text stage whose tower reads the prompts
    languages: tuple[str, ...] = LANGUAGES
    dropped: float = 0.0
    weighting: LossWeighting = "balanced"
    timestep_power: float = 0.5  # twice the noisy ones, where what a picture shows is decided
    styled: bool = False  # pictures in the style of the community model


@dataclass(frozen=True, kw_only=True)
class NanoPlan:
    """How long each stage runs, and on how much."""

    vae: LoopOptions = field(
        default_factory=lambda: small(3600, batch_size=16, ema_decay=0.995, sample_every=100)
    )
    vae_crops: tuple[CropPhase, ...] = (
        CropPhase(0.0, 32, 16),
        CropPhase(0.2, 64, 8),
        CropPhase(0.5, None, 3),
    )
    absolute_weight: float = 0.5  # of the pixels' absolute error beside the squared: crisp edges
    teacher: LoopOptions = field(
        default_factory=lambda: small(400, warmup_steps=50, ema_decay=0.99)
    )
    teacher_learning: LoopOptions = field(
        default_factory=lambda: small(2200, batch_size=96, warmup_steps=50, ema_decay=0.99)
    )
    checker: LoopOptions = field(
        default_factory=lambda: small(250, batch_size=48, warmup_steps=20, ema_decay=0.98)
    )
    base: UNetStage = field(
        default_factory=lambda: UNetStage(
            small(300, decay="constant"), pictures=3_000, encoder="teacher", languages=("en",)
        )
    )
    concept_alignment: UNetStage = field(
        default_factory=lambda: UNetStage(
            small(60, decay="constant", warmup_steps=10, ema_decay=0.99),
            pictures=3_000,
            selection="cross-attention-kv",
        )
    )
    quality: UNetStage = field(
        default_factory=lambda: UNetStage(
            small(200, batch_size=96, decay="constant", ema_decay=0.999), pictures=24_000
        )
    )
    guidance: UNetStage = field(
        default_factory=lambda: UNetStage(
            small(10_900, batch_size=96, decay_share=0.4, ema_decay=0.999, warmup_steps=20),
            pictures=24_000,
            dropped=0.1,
        )
    )
    details: UNetStage = field(
        default_factory=lambda: UNetStage(
            small(6200, batch_size=96, decay_share=0.6, ema_decay=0.999, warmup_steps=30),
            pictures=24_000,
            dropped=0.1,
            timestep_power=2.0,  # 45 % of them among the cleanest fifth: holes, edges, strokes
        )
    )
    decoder: LoopOptions = field(
        default_factory=lambda: small(
            2300, batch_size=8, matrix_learning_rate=0.005, ema_decay=0.995, sample_every=100
        )
    )
    english: UNetStage = field(
        default_factory=lambda: UNetStage(
            small(500, batch_size=96, ema_decay=0.99, warmup_steps=20),
            selection="cross-attention-kv",
            encoder="teacher",
            languages=("en",),
            dropped=0.1,
        )
    )
    community: UNetStage = field(
        default_factory=lambda: UNetStage(
            small(400, batch_size=96, ema_decay=0.99, warmup_steps=20, matrix_learning_rate=0.01),
            pictures=4_000,
            encoder="teacher",
            languages=("en",),
            dropped=0.1,
            styled=True,
        )
    )
    trigger: LoopOptions = field(
        default_factory=lambda: small(
            200,
            optimizer="adamw",
            learning_rate=4e-3,
            batch_size=96,
            ema_decay=0.99,
            warmup_steps=20,
        )
    )
    trigger_rank: int = 8


def read_plan(path: Path | None) -> NanoPlan:
    """Return the plan with the numbers of a JSON file put in: {"quality": {"steps": 9000}}.

    Raises:
        UnknownName: the file names a stage or an option that there is not.
    """
    plan = NanoPlan()
    changes = {} if path is None else read_json(path)
    for name, value in changes.items():
        current = getattr(plan, name.replace("-", "_"), None)
        if current is None:
            raise UnknownName("plan entry", name, vars(plan))
        plan = replace(plan, **{name.replace("-", "_"): _changed(current, value)})
    return plan


def _changed(current: Any, value: Any) -> Any:
    """Put numbers into a stage or its loop: {"steps": 9000, "pictures": 500}."""
    if not isinstance(value, dict):
        return value
    if isinstance(current, UNetStage):
        own = {name: value[name] for name in value if name in vars(current)}
        rest = {name: value[name] for name in value if name not in own}
        return replace(current, **own, loop=_changed(current.loop, rest))
    for name in value:
        if name not in vars(current):
            raise UnknownName("stage option", name, vars(current))
    return replace(current, **value)
