"""The recipe in miniature learns: a small UNet, one minute, from noise to the right colours.

It trains on the smallest corner of the world with nano's own VAE and text encoder; obedience is
read from the pixels of sampled pictures, before and after.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from multilingual_diffusion.pipeline_core import load_pipeline
from multilingual_diffusion.pipeline_core.models.folders import NANO_FOLDER
from multilingual_diffusion.pipeline_core.sampling import SamplingOptions, UNetDenoiser, sample
from multilingual_diffusion.pipeline_core.training.denoising import DenoisingBatch, DenoisingTask
from multilingual_diffusion.pipeline_core.training.loop import (
    HISTORY,
    LoopOptions,
    Position,
    read_history,
    run_stage,
)
from multilingual_diffusion.pipeline_core.training.nano.configs import SCHEDULER, UNET
from multilingual_diffusion.pipeline_core.training.nano.scenes import make_encoder
from multilingual_diffusion.pipeline_core.training.world.captions import caption
from multilingual_diffusion.pipeline_core.training.world.drawing import draw
from multilingual_diffusion.pipeline_core.training.world.obedience import measure
from multilingual_diffusion.pipeline_core.training.world.scene import Scene, Thing
from multilingual_diffusion.pipeline_core.values import Conditioning

SIDE, STEPS, COLOURS = 64, 450, ("red", "blue", "white", "black")
LANGUAGES = ("en", "zh", "ar")
MARGIN = 0.4  # what training must add to the share of right backgrounds


def corner(rng: random.Random) -> Scene:
    """A large circle in the middle, in one of four colours, on another."""
    thing, ground = rng.sample(COLOURS, 2)
    return Scene(ground, (Thing("circle", thing, "large", "centre"),))


def small_unet() -> torch.nn.Module:
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    widths = {
        "block_out_channels": [64, 64],
        "attention_head_dim": [2, 2],
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
    }
    return UNet2DConditionModel.from_config({**UNET, **widths})


class CornerSource:
    """Latents and states of the corner's scenes, made once."""

    def __init__(self) -> None:
        pipeline = load_pipeline(NANO_FOLDER, dtype="fp32", parts=("text_encoder", "vae"))
        self.vae = pipeline.parts.vae.network  # type: ignore[union-attr]
        rng = random.Random(0)
        scenes = [corner(rng) for _ in range(120)]
        pixels = draw(scenes, range(len(scenes)), (SIDE, SIDE))
        self.latents = torch.cat([make_encoder(self.vae)(part) for part in pixels.split(20)])
        captions = [
            caption(scene, LANGUAGES[index % 3], rng, detail="background")
            for index, scene in enumerate(scenes)
        ]
        self.claims = [item.claims for item in captions]
        self.states = pipeline.encode([item.text for item in captions]).embeddings

    def batch(self, position: Position, size: int) -> DenoisingBatch:
        rows = position.rng(0).sample(range(len(self.latents)), size)
        return DenoisingBatch(self.latents[rows], self.states[rows])


def right_backgrounds(unet: torch.nn.Module, source: CornerSource) -> float:
    """Return the share of right backgrounds among 24 pictures."""
    count = 24
    options = SamplingOptions(
        steps=10, guidance_scale=1.0, seeds=tuple(range(count)), width=SIDE, height=SIDE
    )
    latents = sample(
        UNetDenoiser(unet),
        Conditioning(source.states[:count]),
        None,
        options,
        scheduler_config=SCHEDULER,
        prediction_type="epsilon",
        scaling_factor=source.vae.config.scaling_factor,
    )
    with torch.no_grad():
        pixels = source.vae.decode(latents.samples).sample / 2 + 0.5
    tally = measure(pixels.clamp(0, 1), source.claims[:count])
    return tally.overall("background").share


@pytest.mark.skipif(not (NANO_FOLDER / "vae").is_dir(), reason="nano is not in this checkout")
def test_a_miniature_run_learns_colours(tmp_path: Path) -> None:
    source, unet = CornerSource(), small_unet()
    before = right_backgrounds(unet.train(False), source)
    options = LoopOptions(
        steps=STEPS,
        batch_size=12,
        optimizer="muon",
        learning_rate=3e-3,
        matrix_learning_rate=0.03,
        weight_decay=0.0,
        warmup_steps=10,
        decay="cosine",
        ema_decay=0.95,
    )
    task = DenoisingTask(unet, source, SCHEDULER, weighting="balanced")
    average = run_stage(task, options, tmp_path)
    average.write_to(dict(unet.named_parameters()))
    losses = [line["loss"] for line in read_history(tmp_path / HISTORY)]
    after = right_backgrounds(unet.train(False), source)
    assert losses[-1] < 0.5 * losses[0], losses
    assert after > before + MARGIN, (before, after)
