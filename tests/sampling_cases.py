"""What the sampling tests share: a small UNet, conditioning, scheduler files, a plain loop."""

from __future__ import annotations

import functools
import json

import tiny
import torch
from multilingual_diffusion.pipeline_core.sampling import (
    SAMPLERS,
    SamplingOptions,
    UNetDenoiser,
    sample,
)
from multilingual_diffusion.pipeline_core.values import Conditioning, Latents

SCALING = 0.18215
UNET = {
    **tiny.UNET_M9,
    "block_out_channels": [32, 64],
    "layers_per_block": 1,
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
}


@functools.cache
def network() -> torch.nn.Module:
    return tiny.unet(UNET)


@functools.cache
def scheduler_files() -> dict[str, dict]:
    """The published file, and what diffusers writes when it saves it again."""
    from diffusers import PNDMScheduler

    saved = PNDMScheduler.from_config(tiny.SCHEDULER).to_json_string()
    return {"published": tiny.SCHEDULER, "re-saved": json.loads(saved)}


def embeddings(count: int, seed: int) -> torch.Tensor:
    """Conditioning of [count, 7, D]; row i depends on seed + i only."""
    rows = [
        torch.randn(7, tiny.PROJECT, generator=torch.Generator().manual_seed(100 + seed + index))
        for index in range(count)
    ]
    return torch.stack(rows)


def run(options: SamplingOptions, **changes: object) -> torch.Tensor:
    """Sample with the small UNet and everything at its default; return VAE-space latents."""
    count = len(options.seeds)
    arguments = {
        "denoiser": UNetDenoiser(network()),
        "positive": Conditioning(embeddings(count, 1)),
        "negative": Conditioning(embeddings(count, 50)),
        "scheduler_config": tiny.SCHEDULER,
        "prediction_type": "epsilon",
        "scaling_factor": SCALING,
    }
    return sample(**{**arguments, "options": options, **changes}).samples


def small(**changes: object) -> SamplingOptions:
    """Options of two 64x64 pictures in five steps."""
    return SamplingOptions(
        **{"sampler": "ddim", "steps": 5, "seeds": (3, 4), "width": 64, "height": 64, **changes}
    )


def init_latents(count: int = 1, seed: int = 9, size: int = 8) -> Latents:
    generator = torch.Generator().manual_seed(seed)
    return Latents(torch.randn(count, 4, size, size, generator=generator) * 4)


def reference_scheduler(sampler: str, file: dict, prediction_type: str, tmp_path) -> object:
    """`Class.from_config(pipe.scheduler.config)`, the way the model cards swap schedulers."""
    import diffusers

    (tmp_path / "scheduler_config.json").write_text(json.dumps(file), encoding="utf-8")
    published = diffusers.PNDMScheduler.from_pretrained(tmp_path)
    spec = SAMPLERS[sampler]
    return getattr(diffusers, spec.scheduler).from_config(
        published.config, **spec.options, prediction_type=prediction_type
    )


@torch.no_grad()
def plain_loop(scheduler, steps, seeds, latents=None, begin=0, guidance_scale=7.5, **arguments):
    """AltDiffusionPipeline's loop, and its img2img twin's where latents and `begin` are given."""
    scheduler.set_timesteps(steps)
    timesteps = scheduler.timesteps[begin * scheduler.order :]
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(begin * scheduler.order)
    noise = torch.cat(
        [torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    )
    if latents is None:
        latents = noise * scheduler.init_noise_sigma
    else:
        latents = scheduler.add_noise(latents * SCALING, noise, timesteps[:1])
    count = len(seeds)
    sides = torch.cat([embeddings(count, 50), embeddings(count, 1)])
    for timestep in timesteps:
        seen = scheduler.scale_model_input(torch.cat([latents] * 2), timestep)
        output = network()(seen, timestep, encoder_hidden_states=sides, return_dict=False)[0]
        unconditional, conditional = output.chunk(2)
        output = unconditional + guidance_scale * (conditional - unconditional)
        latents = scheduler.step(output, timestep, latents, **arguments, return_dict=False)[0]
    return latents / SCALING
