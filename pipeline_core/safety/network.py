"""The safety checker's network: a CLIP vision tower, one projection, and its table of concepts.

Pictures go in, embeddings come out; what they mean is judged in `checker.py`. Keys are the same for
every transformers version: the tower is held without the wrapper that 4.x puts around it.
Layout: CompVis/stable-diffusion-safety-checker, as diffusers' safety_checker.py reads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ..errors import InvalidRequest

CONCEPTS = 17
SPECIAL_CONCEPTS = 3

# Keys a config may set, with their range; all others (auto_map, attention kernels) stay outside.
_WHOLE_NUMBERS = {
    "hidden_size": (1, 16384),
    "intermediate_size": (1, 65536),
    "num_hidden_layers": (1, 128),
    "num_attention_heads": (1, 256),
    "num_channels": (3, 3),
    "image_size": (8, 2048),
    "patch_size": (1, 256),
}
_ACTIVATIONS = ("quick_gelu", "gelu")


class SafetyNetwork(torch.nn.Module):
    """Embed pictures and hold the concepts they are compared with."""

    def __init__(self, vision: dict[str, Any], width: int, operations: Any) -> None:
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

    def after_loading(self) -> None:
        """Fill the buffer that no file holds; needed after building on the meta device."""
        embeddings: Any = self.vision_model.embeddings
        device = embeddings.position_embedding.weight.device
        embeddings.position_ids = torch.arange(embeddings.num_positions, device=device)[None]


def build_safety_network(config: Mapping[str, Any], operations: Any = torch.nn) -> SafetyNetwork:
    """Build the network from a published `config.json`; under a meta device it costs nothing.

    `config` is the checker's file (values in `vision_config`) or the vision values themselves;
    absent values are those of CLIPVisionConfig, as in diffusers.

    Raises:
        InvalidRequest: a value is out of range.
    """
    nested = config.get("vision_config", config)
    vision: dict[str, Any] = {
        key: _whole_number(key, nested[key]) for key in _WHOLE_NUMBERS if key in nested
    }
    if "layer_norm_eps" in nested:
        vision["layer_norm_eps"] = float(nested["layer_norm_eps"])
    activation = nested.get("hidden_act", "quick_gelu")
    if activation not in _ACTIVATIONS:
        raise InvalidRequest(
            f"safety checker config: hidden_act is {activation!r}; known: {', '.join(_ACTIVATIONS)}"
        )
    width = config.get("projection_dim", nested.get("projection_dim", 768))
    if isinstance(width, bool) or not isinstance(width, int) or not 1 <= width <= 16384:
        raise InvalidRequest(f"safety checker config: projection_dim is {width!r}")
    network = SafetyNetwork({**vision, "hidden_act": activation}, width, operations)
    return network.train(False).requires_grad_(False)


def rename_key(published: str) -> str | None:
    """Return the network's key for a published one, None for a buffer that is not loaded."""
    if published.endswith(".position_ids"):
        return None
    return published.replace("vision_model.vision_model.", "vision_model.", 1)


def _constant(*shape: int) -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.ones(*shape), requires_grad=False)


def _whole_number(key: str, value: object) -> int:
    low, high = _WHOLE_NUMBERS[key]
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InvalidRequest(
            f"safety checker config: {key} is {value!r}; it must be a whole number {low}..{high}"
        )
    return value
