"""A script in ComfyUI's process: stock samplers on a bridged MODEL against our own sampler.

Both start from the noise of one seed and walk the same sigmas; the differences go back, in shares
of the largest latent.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from comfy import samplers
from comfyui.bridge_cases import (
    KINDS,
    PREDICTION_TYPES,
    PROMPTS,
    call,
    difference,
    empty,
    encode,
    load,
    make_models,
    stock,
)

SAMPLERS = ("euler", "dpmpp_2m", "ddim")
SEED, STEPS, CFG = 7, 4, 5.0
Sides = tuple[Any, Any]


def sides_of(name: str) -> Sides:
    positive, negative = PROMPTS.get(name.split("-")[0], PROMPTS["m9"])
    return encode(name, positive), encode(name, negative)


def sigmas_of(model: Any, schedule: str) -> torch.Tensor:
    sampling = model.get_model_object("model_sampling")
    return samplers.calculate_sigmas(sampling, schedule, STEPS)


def stock_latents(
    model: Any, sides: Sides, sampler: str, schedule: str, start: Any = None
) -> torch.Tensor:
    (latent,) = stock(
        "KSampler",
        model=model, positive=sides[0], negative=sides[1], latent_image=start or empty(), seed=SEED,
        steps=STEPS, cfg=CFG, sampler_name=sampler, scheduler=schedule,
    )  # fmt: skip
    return latent["samples"]


def our_latents(
    unet: Any, sides: Sides, sampler: str, sigmas: torch.Tensor, start: Any = None
) -> torch.Tensor:
    latent, _ = call(
        "MultilingualSamplerAdvanced",
        unet=unet, positive=sides[0], negative=sides[1], latent_image=start or empty(), seed=SEED,
        cfg=CFG, sampler=sampler, sigmas=sigmas, noise="batch",
    )  # fmt: skip
    return latent["samples"]


def same_sigmas(name: str) -> dict[str, float]:
    """Compare text to image with KSampler, for each sampler."""
    unet, sides = load(name)[1], sides_of(name)
    (model,) = call("MultilingualUNetToModel", unet=unet)
    sigmas = sigmas_of(model, "simple")
    return {
        sampler: difference(
            stock_latents(model, sides, sampler, "simple"),
            our_latents(unet, sides, sampler, sigmas),
        )
        for sampler in SAMPLERS
    }


def from_an_image(name: str) -> float:
    """Compare going on from latents, two images, a schedule that starts below the last level."""
    unet, sides = load(name)[1], sides_of(name)
    (model,) = call("MultilingualUNetToModel", unet=unet)
    start = {"samples": torch.randn(2, 4, 6, 8, generator=torch.Generator().manual_seed(1))}
    sigmas = sigmas_of(model, "ddim_uniform")
    return difference(
        stock_latents(model, sides, "euler", "ddim_uniform", start),
        our_latents(unet, sides, "euler", sigmas, start),
    )


def in_two_parts(name: str) -> float:
    """Compare KSampler with KSampler (Advanced) in two parts."""
    (model,), sides = call("MultilingualUNetToModel", unet=load(name)[1]), sides_of(name)
    common = {
        "model": model, "positive": sides[0], "negative": sides[1], "noise_seed": SEED,
        "steps": STEPS, "cfg": CFG, "sampler_name": "euler", "scheduler": "simple",
    }  # fmt: skip
    (middle,) = stock(
        "KSamplerAdvanced", **common, latent_image=empty(), add_noise="enable",
        start_at_step=0, end_at_step=3, return_with_leftover_noise="enable",
    )  # fmt: skip
    (latent,) = stock(
        "KSamplerAdvanced", **common, latent_image=middle, add_noise="disable",
        start_at_step=3, end_at_step=10_000, return_with_leftover_noise="disable",
    )  # fmt: skip
    return difference(latent["samples"], stock_latents(model, sides, "euler", "simple"))


def custom(name: str) -> float:
    """Compare KSampler with SamplerCustom."""
    (model,), sides = call("MultilingualUNetToModel", unet=load(name)[1]), sides_of(name)
    latent, _ = stock(
        "SamplerCustom",
        model=model, add_noise=True, noise_seed=SEED, cfg=CFG, positive=sides[0],
        negative=sides[1], sampler=samplers.sampler_object("dpmpp_2m"),
        sigmas=sigmas_of(model, "simple"), latent_image=empty(),
    )  # fmt: skip
    return difference(latent["samples"], stock_latents(model, sides, "dpmpp_2m", "simple"))


def sampled_as_the_other_type(name: str) -> float:
    """Compare a v model bridged as epsilon: what a wrong prediction type would do."""
    unet, sides = load(name)[1], sides_of(name)
    wrong = load(name, prediction_type="epsilon")[1]
    (model,) = call("MultilingualUNetToModel", unet=wrong)
    found = stock_latents(model, sides, "euler", "simple")
    return difference(found, our_latents(unet, sides, "euler", sigmas_of(model, "simple")))


def shared_tensors(name: str) -> list[int]:
    """Return how many of the MODEL's tensors lie in the memory of our UNet's, and how many."""
    unet = load(name)[1]
    (model,) = call("MultilingualUNetToModel", unet=unet)
    ours = {tensor.data_ptr() for tensor in unet.need().network.parameters()}
    theirs = [tensor.data_ptr() for tensor in model.model.diffusion_model.parameters()]
    return [sum(place in ours for place in theirs), len(theirs), len(ours)]


def main(folder: str) -> dict[str, Any]:
    make_models(Path(folder))
    names = [f"{kind}-{what}" for kind in KINDS for what in PREDICTION_TYPES]
    with torch.inference_mode():
        return {
            "same sigmas": {name: same_sigmas(name) for name in [*names, "nano"]},
            "from an image": from_an_image("m18-v_prediction"),
            "in two parts": in_two_parts("m9-epsilon"),
            "custom": custom("chinese-v_prediction"),
            "wrong type": sampled_as_the_other_type("m9-v_prediction"),
            "shared": shared_tensors("m9-epsilon"),
        }
