"""Two languages in one prompt: two captions of one scene, joined, and what they claim together."""

from __future__ import annotations

import random
from collections.abc import Sequence

from .captions import Caption, Split, caption, details
from .scene import ClaimedThing, Claims, Scene

_STOPS = ".\u3002\u0964"


def two_captions(
    scene: Scene,
    language: str,
    others: Sequence[str],
    rng: random.Random,
    *,
    split: Split = "train",
) -> tuple[Caption, Caption]:
    """Describe a scene in `language` and in another of `others`; neither need say everything.

    What both claim together is what one English caption can claim.
    """
    second = rng.choice([other for other in others if other != language])
    while True:
        pair = (
            caption(scene, language, rng, split=split),
            caption(scene, second, rng, split=split),
        )
        claims = merge(pair[0].claims, pair[1].claims)
        if caption_claiming(scene, "en", claims, rng) is not None:
            return pair if rng.random() < 0.5 else (pair[1], pair[0])


def join(first: Caption, second: Caption) -> Caption:
    """Return both texts as one prompt, under the first one's language."""
    text = f"{first.text.rstrip(_STOPS)}, {second.text}"
    claims = merge(first.claims, second.claims)
    return Caption(text, first.language, claims, f"{first.template} + {second.template}")


def caption_claiming(
    scene: Scene, language: str, claims: Claims, rng: random.Random, *, split: Split = "train"
) -> Caption | None:
    """Return a caption that claims exactly this of its scene; None where no template does."""
    known = details(language, scene.relation, split)
    for detail in rng.sample(known, len(known)):
        found = caption(scene, language, rng, split=split, detail=detail)
        if found.claims == claims:
            return found
    return None


def merge(first: Claims, second: Claims) -> Claims:
    """Return what either of two captions of one scene claims."""
    things = tuple(
        ClaimedThing(a.shape or b.shape, a.colour or b.colour, a.size or b.size, a.place or b.place)
        for a, b in zip(first.things, second.things, strict=True)
    )
    return Claims(things, first.background or second.background, first.relation)
