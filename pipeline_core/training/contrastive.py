"""Stage `teacher`: a small CLIP, text and pictures, learned by contrast in English.

Symmetric cross-entropy over the pairs of a batch (CLIP, arXiv 2103.00020). Used for nano only: for
real models the teacher is any CLIP on disk.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from ..safety.preprocess import Preprocessing
from .text_tower import AltClipText, TextStates

MEAN, STD = Preprocessing.mean, Preprocessing.std  # of CLIP's pictures, 0..1


class Clip(torch.nn.Module):
    """A text tower, a vision tower and the temperature; `forward` gives both sides."""

    def __init__(self, text: AltClipText, vision_config: Mapping[str, Any]) -> None:
        from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

        super().__init__()
        self.text = text
        self.vision = CLIPVisionModelWithProjection(CLIPVisionConfig(**vision_config))
        self.logit_scale = torch.nn.Parameter(torch.tensor(math.log(10.0)))

    def forward(
        self, pixels: torch.Tensor, ids: torch.Tensor
    ) -> tuple[torch.Tensor, TextStates, torch.Tensor]:
        """Return image embeddings [B, D], the text's states, and the temperature."""
        scale = self.logit_scale.clamp(max=math.log(100.0)).exp()
        return self.vision(pixels).image_embeds, self.text(ids), scale


def contrastive_loss(
    images: torch.Tensor, texts: torch.Tensor, scale: torch.Tensor
) -> torch.Tensor:
    """Return CLIP's loss of paired embeddings [B, D]; mean of both directions."""
    images = torch.nn.functional.normalize(images.float(), dim=1)
    texts = torch.nn.functional.normalize(texts.float(), dim=1)
    logits = scale * images @ texts.T
    own = torch.arange(len(logits), device=logits.device)
    cross_entropy = torch.nn.functional.cross_entropy
    return (cross_entropy(logits, own) + cross_entropy(logits.T, own)) / 2


def normalise(pixels: torch.Tensor) -> torch.Tensor:
    """Bring pictures [B, 3, H, W] in 0..1 to CLIP's mean and spread."""
    mean, std = torch.tensor(MEAN), torch.tensor(STD)
    return (pixels - mean[:, None, None]) / std[:, None, None]
