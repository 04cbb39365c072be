"""Graphs in API format that the tests of the server post."""

from __future__ import annotations

from typing import Any

from node_graphs import HEIGHT, PROMPT, WIDTH

Prompt = dict[str, dict[str, Any]]


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


def picture(model: str = "checked", *, steps: int = 4, seed: int = 1, prefix: str = "t") -> Prompt:
    """Return prompt to saved picture with a model's own parts, every input written out."""
    return {
        "model": node(
            "MultilingualModelLoader",
            model=model, device="auto", dtype="auto", prediction_type="auto",
            allow_pickle=False, ema=False,
        ),
        "positive": node(
            "MultilingualTextEncode",
            text_encoder=["model", 0], text=PROMPT, weighting="toward-empty", long_prompt="chunk",
        ),
        "negative": node(
            "MultilingualTextEncode",
            text_encoder=["model", 0], text="", weighting="toward-empty", long_prompt="chunk",
        ),
        "empty": node(
            "MultilingualEmptyLatent", shape="custom", width=WIDTH, height=HEIGHT, batch_size=1
        ),
        "sampler": node(
            "MultilingualSampler",
            unet=["model", 1], positive=["positive", 0], negative=["negative", 0],
            latent_image=["empty", 0], seed=seed, steps=steps, cfg=7.5, sampler="dpmpp_2m",
            schedule="model", denoise=1.0,
        ),
        "decode": node("MultilingualVAEDecode", vae=["model", 2], latent=["sampler", 0]),
        "save": node("MultilingualSaveImage", images=["decode", 0], filename_prefix=prefix),
    }  # fmt: skip
