"""The safety checker's network: a CLIP vision tower, one projection, and its table of concepts.

Pictures go in, embeddings come out; what they mean is judged in `checker.py`. Keys are the same for
every transformers version: the tower is held without the wrapper that 4.x puts around it.
Layout: CompVis/stable-diffusion-safety-checker, as diffusers' safety_checker.py reads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

CONCEPTS = 17
SPECIAL_CONCEPTS = 3


class SafetyNetwork(torch.nn.Module):
    """Embed pictures and hold the concepts they are compared with."""

    def __init__(self, vision: Mapping[str, Any], width: int, operations: Any) -> None:
        from transformers import CLIPVisionConfig, CLIPVisionModel

        super().__init__()
        model = CLIPVisionModel(CLIPVisionConfig(**vision))
        self.vision_model = getattr(model, "vision_model", model)
        self.visual_projection = operations.Linear(model.config.hidden_size, width, bias=False)
        self.concept_embeds = _constant(CONCEPTS, width)
        self.special_care_embeds = _constant(SPECIAL_CONCEPTS, width)
        self.concept_embeds_weights = _constant(CONCEPTS)
        self.special_care_embeds_weights = _constant(SPECIAL_CONCEPTS)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Return the projected embeddings [B, P] of preprocessed pictures [B, 3, S, S]."""
        return self.visual_projection(self.vision_model(pixel_values).pooler_output)

    @property
    def image_size(self) -> int:
        """Pixels a side of the pictures that it takes."""
        embeddings: Any = self.vision_model.embeddings
        return embeddings.image_size

    def after_loading(self) -> None:
        """Fill the buffer that no file holds; needed after building on the meta device."""
        embeddings: Any = self.vision_model.embeddings
        device = embeddings.position_embedding.weight.device
        embeddings.position_ids = torch.arange(embeddings.num_positions, device=device)[None]


def build_safety_network(config: Mapping[str, Any], operations: Any = torch.nn) -> SafetyNetwork:
    """Build the network from its checked config; under a meta device it costs nothing.

    `config` is what `loading.schemas.parse_safety_config` returns: its values are checked and it
    has no other keys. Absent ones are those of CLIPVisionConfig, as in diffusers.
    """
    vision = config["vision_config"]
    width = config.get("projection_dim", vision.get("projection_dim", 768))
    return SafetyNetwork(vision, width, operations).train(False).requires_grad_(False)


def rename_key(published: str) -> str | None:
    """Return the network's key for a published one, None for a buffer that is not loaded."""
    if published.endswith(".position_ids"):
        return None
    return published.replace("vision_model.vision_model.", "vision_model.", 1)


def _constant(*shape: int) -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.ones(*shape), requires_grad=False)
