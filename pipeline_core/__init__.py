"""The self-contained library: prompt in any language -> checked PNG. It knows nothing of ComfyUI.

What needs torch is loaded when first used, so importing this package costs next to nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .errors import PipelineError
from .models.specs import MODELS, ModelSpec
from .values import (
    CheckedImages,
    Conditioning,
    ImageRequest,
    Images,
    Latents,
    TokenBatch,
    Verdict,
)

if TYPE_CHECKING:
    from .assemble import load_pipeline
    from .models.detect import detect
    from .pipeline import TextToImagePipeline

__version__ = "0.1.0"

__all__ = [
    "load_pipeline",
    "ImageRequest",
    "detect",
    "TextToImagePipeline",
    "TokenBatch",
    "Conditioning",
    "Latents",
    "Images",
    "CheckedImages",
    "Verdict",
    "MODELS",
    "ModelSpec",
    "PipelineError",
]


def __getattr__(name: str) -> Any:
    if name == "load_pipeline":
        from .assemble import load_pipeline

        return load_pipeline
    if name == "detect":
        from .models.detect import detect

        return detect
    if name == "TextToImagePipeline":
        from .pipeline import TextToImagePipeline

        return TextToImagePipeline
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
