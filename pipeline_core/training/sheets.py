"""Sample sheets: pictures of the same prompts and seeds every N steps, to watch a run learn."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..models.specs import PredictionType
from ..sampling import SamplingOptions, UNetDenoiser, sample
from ..values import Conditioning
from .loop import Sampler

COLUMNS, GAP = 6, 4  # pictures a row; white pixels between two


def sheet_sampler(
    prompts: torch.Tensor,
    empty: torch.Tensor,
    vae: Any,
    scheduler_config: Mapping[str, Any],
    *,
    prediction_type: PredictionType = "epsilon",
    size: int = 512,
    steps: int = 20,
    guidance_scale: float = 5.0,
) -> Sampler:
    """Return a sampler for `run_stage` that writes `sheets/<step>.png` into the run's folder.

    Args:
        prompts: states [B, T, D], one picture each; `empty` [1, T, D] is guidance's other side.
        vae: diffusers' AutoencoderKL.
        size: pixels, both sides.
    """
    options = SamplingOptions(
        steps=steps,
        guidance_scale=guidance_scale,
        seeds=tuple(range(len(prompts))),
        width=size,
        height=size,
    )

    def on_sample(step: int, network: torch.nn.Module, folder: Path) -> None:
        latents = sample(
            UNetDenoiser(network),
            Conditioning(prompts),
            Conditioning(empty.expand_as(prompts)),
            options,
            scheduler_config=scheduler_config,
            prediction_type=prediction_type,
            scaling_factor=vae.config.scaling_factor,
        )
        pictures = vae.decode(latents.samples.to(vae.dtype)).sample.float() / 2 + 0.5
        write_sheet(pictures.clamp(0, 1), folder / "sheets" / f"{step:07d}.png")

    return on_sample


def write_sheet(pictures: torch.Tensor, path: Path, columns: int = COLUMNS) -> None:
    """Write pictures [B, 3, H, W] in 0..1 as one PNG, row by row on white."""
    from PIL import Image

    count, _, height, width = pictures.shape
    columns = min(columns, count)
    rows = -(-count // columns)
    sheet = torch.ones(3, rows * (height + GAP) + GAP, columns * (width + GAP) + GAP)
    for index, picture in enumerate(pictures):
        top = GAP + index // columns * (height + GAP)
        left = GAP + index % columns * (width + GAP)
        sheet[:, top : top + height, left : left + width] = picture
    path.parent.mkdir(parents=True, exist_ok=True)
    array = (sheet.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
    Image.fromarray(array).save(path)
