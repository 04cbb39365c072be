"""The call surfaces people know, over our own pipeline: change the imports, keep the code.

* FlagAI: `AutoLoader`, `Predictor`
* diffusers: `AltDiffusionPipeline`, `StableDiffusionPipeline`, `XLMRobertaTokenizer`
* ModelScope: `pipeline`, `Tasks`, `OutputKeys`

Nothing is downloaded: a hub id is looked up in the working folder and in the models folder.
"""

from __future__ import annotations

from .diffusers_style import AltDiffusionPipeline, StableDiffusionPipeline
from .flagai import AutoLoader, Predictor
from .modelscope import OutputKeys, Tasks, pipeline
from .own_encoder import XLMRobertaTokenizer

__all__ = [
    "AltDiffusionPipeline",
    "AutoLoader",
    "OutputKeys",
    "Predictor",
    "StableDiffusionPipeline",
    "Tasks",
    "XLMRobertaTokenizer",
    "pipeline",
]
