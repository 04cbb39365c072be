"""Images in, one verdict an image out: how near each lies to the checker's concepts.

Decisions and scores equal those of diffusers' StableDiffusionSafetyChecker.forward, whose special
concepts, once hit, make everything after them stricter. Only this file knows the arithmetic.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from ..errors import NonFiniteResult
from ..values import Images, Verdict
from .network import SafetyNetwork
from .preprocess import Preprocessing

SPECIAL_CARE_ADJUSTMENT = 0.01


class SafetyChecker:
    """Score images with a loaded network; the images are only read."""

    def __init__(self, network: SafetyNetwork, preprocessing: Preprocessing | None = None) -> None:
        """Join a network and its preprocessing, CLIP's at the network's own size if None.

        Raises:
            FileRefused: the preprocessing gives pictures of another size than the network takes.
        """
        side = network.image_size
        self.network = network
        self.preprocessing = preprocessing or Preprocessing(
            shortest_edge=side, crop_size=(side, side)
        )
        self.preprocessing.check_fits(side)

    @torch.no_grad()
    def score(self, images: Images, *, adjustment: float = 0.0) -> tuple[Verdict, ...]:
        """Return a verdict an image; `adjustment` is added to every score (above 0: stricter).

        One image at a time, so that a verdict never depends on its neighbours in the batch.

        Raises:
            NonFiniteResult: an embedding holds NaN, which no score could flag.
        """
        weight = self.network.visual_projection.weight
        verdicts: list[Verdict] = []
        for picture in _to_pil(images.pixels):
            values = self.preprocessing(picture).to(weight.device, weight.dtype)
            verdicts += judge(self.network(values), self.network, adjustment)
        return tuple(verdicts)


@torch.no_grad()
def judge(
    embeddings: torch.Tensor, concepts: SafetyNetwork, adjustment: float = 0.0
) -> tuple[Verdict, ...]:
    """Compare image embeddings [B, P] with the network's concepts, in float32 on the CPU.

    Raises:
        NonFiniteResult: an embedding holds NaN or infinity.
    """
    if not torch.isfinite(embeddings).all():
        raise NonFiniteResult(
            "the safety checker's network gave NaN or infinity; load it in float32 or bfloat16"
        )
    special = _cosines(embeddings, concepts.special_care_embeds)
    ordinary = _cosines(embeddings, concepts.concept_embeds)
    special_limits = concepts.special_care_embeds_weights.tolist()
    limits = concepts.concept_embeds_weights.tolist()
    return tuple(
        _verdict(special_row, special_limits, row, limits, adjustment)
        for special_row, row in zip(special, ordinary, strict=True)
    )


def _verdict(
    special: np.ndarray,
    special_limits: list[float],
    ordinary: np.ndarray,
    limits: list[float],
    adjustment: float,
) -> Verdict:
    strictness, special_scores = adjustment, []
    for cosine, limit in zip(special, special_limits, strict=True):
        special_scores.append(_score(cosine, limit, strictness))
        if special_scores[-1] > 0:  # from here on: the next special concepts and all ordinary ones
            strictness = adjustment + SPECIAL_CARE_ADJUSTMENT
    scores = [
        _score(cosine, limit, strictness) for cosine, limit in zip(ordinary, limits, strict=True)
    ]
    return Verdict(max(scores) > 0, tuple(scores), tuple(special_scores))


def _score(cosine: np.float32, limit: float, strictness: float) -> float:
    # numpy's own scalar arithmetic and rounding, as in the reference: 3 decimals, halves to even
    return round(float(round(cosine - limit + strictness, 3)), 3)


def _cosines(embeddings: torch.Tensor, concepts: torch.Tensor) -> np.ndarray:
    """Return [B, concepts] float32."""
    images = torch.nn.functional.normalize(embeddings.float().cpu())
    rows = torch.nn.functional.normalize(concepts.float().cpu())
    return torch.mm(images, rows.t()).numpy()


def _to_pil(pixels: torch.Tensor) -> list[Image.Image]:
    array = (pixels.permute(0, 2, 3, 1).cpu().numpy() * 255.0).round().clip(0, 255)
    return [Image.fromarray(row) for row in array.astype(np.uint8)]
