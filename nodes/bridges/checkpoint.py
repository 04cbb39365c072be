"""A model's name to MODEL, CLIP and VAE at once: one node in place of Load Checkpoint."""

from __future__ import annotations

from typing import Any

from ..loaders import (
    MultilingualModelLoader,
    MultilingualTextEncoderLoader,
    MultilingualUNetLoader,
    MultilingualVAELoader,
)
from .text import make_clip
from .unet import make_model
from .vae import make_vae


class MultilingualCheckpointLoader:
    """Load a whole model as ComfyUI's MODEL, CLIP and VAE, in place of Load Checkpoint."""

    DISPLAY_NAME = "Multilingual Checkpoint Loader"
    CATEGORY = "multilingual/comfyui"
    DESCRIPTION = __doc__
    SEARCH_ALIASES = ["load checkpoint", "AltDiffusion", "Chinese Stable Diffusion", "swap in"]
    RETURN_TYPES = ("MODEL", "CLIP", "VAE")
    RETURN_NAMES = ("model", "clip", "vae")
    OUTPUT_TOOLTIPS = (
        "For KSampler, LoRAs and ControlNets.",
        "For CLIP Text Encode; it reads prompts in the model's languages.",
        "For VAE Decode and VAE Encode.",
    )
    FUNCTION = "execute"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return MultilingualModelLoader.INPUT_TYPES()

    def execute(
        self, model: str, prediction_type: str = "auto", ema: bool = False, **options: Any
    ) -> tuple[Any, Any, Any]:
        # one by one, so that a safety checker, which no socket here takes, is never read
        text_encoder = MultilingualTextEncoderLoader().execute(model, **options)[0]
        unet: Any = MultilingualUNetLoader().execute(
            model, prediction_type=prediction_type, ema=ema, **options
        )[0]
        vae = MultilingualVAELoader().execute(model, **options)[0]
        return make_model(unet), make_clip(text_encoder), make_vae(vae)


NODES = [MultilingualCheckpointLoader]
