"""Two languages in one prompt: two captions of one scene, joined, and what they claim together."""

from __future__ import annotations

import random
from collections.abc import Sequence

from .captions import Caption, Split, caption
from .grammar import detail_name
from .scene import ClaimedThing, Claims, Scene

STOPS = ".\u3002\u0964"  # full stops


def two_captions(
    scene: Scene,
    language: str,
    others: Sequence[str],
    rng: random.Random,
    *,
    split: Split = "train",
    detail: str | None = None,
) -> tuple[Caption, Caption]:
    """Describe a scene in `language` and in another of `others`; neither need say everything.

    `detail` as in `caption`, for both.
    """
    languages = [language, rng.choice([other for other in others if other != language])]
    rng.shuffle(languages)
    first, second = (caption(scene, tag, rng, split=split, detail=detail) for tag in languages)
    return first, second


def join(first: Caption, second: Caption) -> Caption:
    """Return both texts as one prompt, under the first one's language."""
    text = f"{first.text.rstrip(STOPS)}, {second.text}"
    claims = merge(first.claims, second.claims)
    return Caption(text, first.language, claims, f"{first.template} + {second.template}")


def caption_claiming(
    scene: Scene, language: str, claims: Claims, rng: random.Random, *, split: Split = "train"
) -> Caption:
    """Return a caption that claims exactly this of its scene; English has one for all claims.

    Raises:
        UnknownName: no template of the language does.
    """
    return caption(scene, language, rng, split=split, detail=detail_of(claims))


def detail_of(claims: Claims) -> str:
    """Name what is claimed beside shape and colour, as `details` does."""
    first = claims.things[0]
    said = {"background": claims.background, "size": first.size, "place": first.place}
    named = {name for name, value in said.items() if value is not None}
    return detail_name(named, claims.relation)


def merge(first: Claims, second: Claims) -> Claims:
    """Return what either of two captions of one scene claims."""
    things = tuple(
        ClaimedThing(a.shape or b.shape, a.colour or b.colour, a.size or b.size, a.place or b.place)
        for a, b in zip(first.things, second.things, strict=True)
    )
    return Claims(things, first.background or second.background, first.relation)
