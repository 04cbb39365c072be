"""Conditioning -> latents: sampler table, noise, guidance, prediction type, the loop.

The step maths is diffusers' scheduler classes; everything around a step is here.
"""

from .guidance import Denoiser, Guidance, UNetDenoiser
from .loop import sample
from .noise import make_noise
from .options import SamplingOptions, check_options
from .samplers import SAMPLERS, SamplerSpec, find_sampler, make_noise_scheduler
from .schedules import SCHEDULES, NoiseLevels, make_levels

__all__ = [
    "SAMPLERS",
    "SamplerSpec",
    "find_sampler",
    "make_noise_scheduler",
    "SCHEDULES",
    "NoiseLevels",
    "make_levels",
    "SamplingOptions",
    "check_options",
    "make_noise",
    "Denoiser",
    "UNetDenoiser",
    "Guidance",
    "sample",
]
