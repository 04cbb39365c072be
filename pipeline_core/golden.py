"""Compare a real AltDiffusion (m2) with slices of pictures that diffusers published for it.

Source: diffusers, commit before a0c54828a1, tests/pipelines/altdiffusion (GPU, fp32): the last 3x3
pixels of the last channel of one 512x512 picture for each sampler, tolerance 1e-2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .values import ImageRequest, StepCallback

if TYPE_CHECKING:
    from .pipeline import TextToImagePipeline

MODEL = "altdiffusion"  # the only model with published slices
TOLERANCE = 1e-2
SIZE = 512  # pixels, both sides
_PROMPT = "A painting of a squirrel eating a burger"


@dataclass(frozen=True)
class GoldenSlice:
    """One published picture: how it was made, and its last 3x3 blue values, row by row."""

    sampler: str
    steps: int
    guidance_scale: float
    values: tuple[float, ...]


SLICES = (
    GoldenSlice(
        "ddim", 2, 7.5, (0.4019, 0.4052, 0.3810, 0.4119, 0.3916, 0.3982, 0.4651, 0.4195, 0.5323)
    ),
    GoldenSlice(
        "plms", 20, 6.0, (0.1010, 0.0800, 0.0794, 0.0885, 0.0843, 0.0762, 0.0769, 0.0729, 0.0586)
    ),
)


@dataclass(frozen=True)
class Comparison:
    """What came out for one published slice."""

    slice: GoldenSlice
    values: tuple[float, ...]

    @property
    def difference(self) -> float:
        """Largest absolute difference; pixels are in 0..1."""
        pairs = zip(self.values, self.slice.values, strict=True)
        return max(abs(ours - published) for ours, published in pairs)

    @property
    def agrees(self) -> bool:
        """Whether it lies within the published tolerance."""
        return self.difference <= TOLERANCE


def compare(
    pipeline: TextToImagePipeline, golden: GoldenSlice, on_step: StepCallback | None = None
) -> Comparison:
    """Make the published picture again and compare its slice; the pipeline must be fp32."""
    request = ImageRequest(
        prompts=(_PROMPT,),
        width=SIZE,
        height=SIZE,
        steps=golden.steps,
        sampler=golden.sampler,
        guidance_scale=golden.guidance_scale,
        seed=0,
        safety="off",
    )
    pixels = pipeline(request, on_step=on_step).pixels
    return Comparison(golden, tuple(pixels[0, -1, -3:, -3:].flatten().tolist()))
