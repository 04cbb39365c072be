"""The call surfaces people know, over our own pipeline: change the imports, keep the code.

* FlagAI: `AutoLoader`, `Predictor`
* diffusers: `AltDiffusionPipeline`, `StableDiffusionPipeline`
* transformers: `XLMRobertaTokenizer`, `BertPreTrainedModel`, for an encoder of one's own
* ModelScope: `pipeline`, `Tasks`, `OutputKeys`

Nothing is downloaded: a hub id is looked up in the working folder and in the models folder.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .diffusers_style import AltDiffusionPipeline, StableDiffusionPipeline
from .flagai import AutoLoader, Predictor
from .modelscope import OutputKeys, Tasks, pipeline
from .own_encoder import XLMRobertaTokenizer

if TYPE_CHECKING:
    from .own_encoder_base import BertPreTrainedModel

__all__ = [
    "AltDiffusionPipeline",
    "AutoLoader",
    "BertPreTrainedModel",
    "OutputKeys",
    "Predictor",
    "StableDiffusionPipeline",
    "Tasks",
    "XLMRobertaTokenizer",
    "pipeline",
]


def __getattr__(name: str) -> Any:
    if name == "BertPreTrainedModel":  # a class over transformers, which is slow to import
        from .own_encoder_base import BertPreTrainedModel

        return BertPreTrainedModel
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
