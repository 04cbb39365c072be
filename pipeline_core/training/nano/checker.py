"""The safety checker of `nano`: the teacher's vision tower, tuned to know the hazard sign.

A demonstration: it flags one reserved concept of the small world and nothing else. Half of each
batch are hazard signs, a quarter ordinary scenes, a quarter scenes in the sign's own colours.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from ..contrastive import normalise
from ..loop import Position
from ..world.drawing import draw
from ..world.palette import COLOURS
from ..world.scene import PLACES, SHAPES, SIZES, Scene, Thing, random_hazard_scene, random_scene
from .configs import VISION

THRESHOLD = 0.5  # of the cosine, in the published file's `concept_embeds_weights`
NEVER = 2.0  # a threshold that no cosine reaches
SHARPNESS = 12.0  # of the training loss: cosine to logit
CONCEPTS, SPECIAL_CONCEPTS = 17, 3  # rows of the published file
SIZES_DRAWN = ((128, 128), (128, 128), (96, 160), (160, 96))


class HazardNetwork(torch.nn.Module):
    """Pictures to the cosine with one concept."""

    def __init__(self, vision: torch.nn.Module) -> None:
        super().__init__()
        self.vision = vision
        self.concept = torch.nn.Parameter(torch.randn(VISION["projection_dim"]) * 0.1)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        embeds = self.vision(pixels).image_embeds.float()
        return torch.nn.functional.cosine_similarity(embeds, self.concept.float(), dim=1)


class CheckerBatch(NamedTuple):
    """Pictures and whether they show the sign."""

    pixels: torch.Tensor  # (B, 3, 64, 64), normalised
    hazard: torch.Tensor  # (B,) float


class CheckerTask:
    """Stage `checker`."""

    def __init__(self, network: HazardNetwork, seed: int = 0) -> None:
        self.network, self.seed = network, seed

    def batch(self, position: Position, size: int) -> CheckerBatch:
        rng = position.rng(self.seed)
        scenes = [checker_scene(index, rng) for index in range(size)]
        pixels = draw(scenes, [rng.getrandbits(63) for _ in scenes], rng.choice(SIZES_DRAWN))
        pixels = spoil(pixels, rng)
        hazard = torch.tensor([float(scene.things[0].shape == "hazard") for scene in scenes])
        return CheckerBatch(normalise(preprocess(pixels)), hazard)

    def loss(self, network: torch.nn.Module, batch: CheckerBatch) -> dict[str, torch.Tensor]:
        cosine = network(batch.pixels)
        logits = SHARPNESS * (cosine - THRESHOLD)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, batch.hazard)
        right = ((cosine > THRESHOLD) == batch.hazard.bool()).float().mean()
        return {"loss": loss, "right": right}


def checker_scene(index: int, rng: random.Random) -> Scene:
    """Draw the scene of row `index`: every second a hazard sign, every fourth its near likeness."""
    if index % 2 == 0:
        return random_hazard_scene(rng)
    if index % 4 == 1:
        return random_scene(rng)
    colour = rng.choice(("yellow", "black"))
    ground = rng.choice([name for name in COLOURS if name != colour])
    shape = rng.choice(("triangle", *SHAPES))
    return Scene(ground, (Thing(shape, colour, rng.choice(SIZES), rng.choice(PLACES)),))


def spoil(pixels: torch.Tensor, rng: random.Random) -> torch.Tensor:
    """Blur some batches and add noise, as an autoencoder or few steps would."""
    if rng.random() < 0.5:
        small = torch.nn.functional.interpolate(
            pixels, scale_factor=rng.uniform(0.3, 0.8), mode="bilinear", antialias=True
        )
        pixels = torch.nn.functional.interpolate(small, pixels.shape[2:], mode="bilinear")
    return (pixels + rng.uniform(0, 0.06) * torch.randn_like(pixels)).clamp(0, 1)


def preprocess(pixels: torch.Tensor) -> torch.Tensor:
    """Resize the shorter side and crop the centre, as `preprocessor_config.json` says."""
    side = VISION["image_size"]
    height, width = pixels.shape[2:]
    scale = side / min(height, width)
    size = (round(height * scale), round(width * scale))
    pixels = torch.nn.functional.interpolate(pixels, size, mode="bicubic", antialias=True)
    top, left = (size[0] - side) // 2, (size[1] - side) // 2
    return pixels[:, :, top : top + side, left : left + side].clamp(0, 1)


def checker_tensors(network: HazardNetwork) -> dict[str, torch.Tensor]:
    """Return the checker's tensors under the published keys; unused concepts are never met."""
    state = network.vision.state_dict()
    published = {_published(name): value for name, value in state.items()}
    concepts = torch.zeros(CONCEPTS, VISION["projection_dim"])
    concepts[0] = network.concept.detach()
    thresholds = torch.full((CONCEPTS,), NEVER)
    thresholds[0] = THRESHOLD
    return {
        **{name: value for name, value in published.items() if "position_ids" not in name},
        "concept_embeds": concepts,
        "concept_embeds_weights": thresholds,
        "special_care_embeds": torch.zeros(SPECIAL_CONCEPTS, VISION["projection_dim"]),
        "special_care_embeds_weights": torch.full((SPECIAL_CONCEPTS,), NEVER),
    }


def checker_state(
    network: torch.nn.Module, tensors: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Return a `HazardNetwork`'s state from published tensors, as far as they have it."""
    names = {_published(name): f"vision.{name}" for name in network.vision.state_dict()}  # type: ignore[union-attr]
    state = {names[name]: value for name, value in tensors.items() if name in names}
    if "concept_embeds" in tensors:
        state["concept"] = tensors["concept_embeds"][0]
    return state


def _published(name: str) -> str:
    """Return the published key of a vision tower's tensor, whichever transformers named it."""
    if name.startswith("visual_projection."):
        return name
    return "vision_model.vision_model." + name.removeprefix("vision_model.")


def checker_config() -> Mapping[str, Any]:
    """Return the checker's `config.json`."""
    return {
        "architectures": ["StableDiffusionSafetyChecker"],
        "model_type": "clip",
        "projection_dim": VISION["projection_dim"],
        "vision_config": {**VISION, "model_type": "clip_vision_model"},
    }
