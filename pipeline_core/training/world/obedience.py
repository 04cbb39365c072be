"""How often pictures show what their captions claim: a rate per language and attribute.

Pictures and claims in, a `Tally` out; tallies of batches add up. Intervals: Wilson, 1927, 95 %.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from ...errors import InvalidRequest
from .reader import read_picture
from .scene import ATTRIBUTES, Claims, obeys

UNDETERMINED = "und"  # BCP-47, of claims that no caption made
Z_95 = 1.959964


@dataclass(frozen=True)
class Rate:
    """Hits among trials."""

    hits: int = 0
    trials: int = 0

    @property
    def share(self) -> float:
        """Hits in trials, 0..1; NaN without trials."""
        return self.hits / self.trials if self.trials else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Lower and upper end of the 95 % Wilson interval; 0 and 1 without trials."""
        if not self.trials:
            return 0.0, 1.0
        spread = Z_95**2 / self.trials
        middle = (self.share + spread / 2) / (1 + spread)
        half = math.sqrt(self.share * (1 - self.share) * spread + spread**2 / 4) / (1 + spread)
        return max(0.0, middle - half), min(1.0, middle + half)


@dataclass(frozen=True)
class Tally:
    """Rates by (language, attribute); attributes are those of `obeys`, "all" among them."""

    rates: dict[tuple[str, str], Rate]

    def __add__(self, other: Tally) -> Tally:
        keys = [*self.rates, *(key for key in other.rates if key not in self.rates)]
        return Tally({key: _sum([self.rate(*key), other.rate(*key)]) for key in keys})

    @property
    def languages(self) -> tuple[str, ...]:
        """Languages in the order they came."""
        return tuple(dict.fromkeys(language for language, _ in self.rates))

    @property
    def attributes(self) -> tuple[str, ...]:
        """Attributes that were claimed, in the order of `ATTRIBUTES`, then "all"."""
        claimed = {attribute for _, attribute in self.rates}
        return tuple(name for name in (*ATTRIBUTES, "all") if name in claimed)

    def rate(self, language: str, attribute: str = "all") -> Rate:
        """Return one language's rate, empty where nothing was claimed."""
        return self.rates.get((language, attribute), Rate())

    def overall(self, attribute: str = "all") -> Rate:
        """Return the rate of all pictures together."""
        return _sum([self.rate(language, attribute) for language in self.languages])

    def mean(self, attribute: str = "all") -> float:
        """Average the languages' shares; each that claims the attribute weighs the same."""
        rates = [self.rate(language, attribute) for language in self.languages]
        shares = [rate.share for rate in rates if rate.trials]
        return sum(shares) / len(shares) if shares else math.nan

    def worst(self, attribute: str = "all") -> str:
        """Return the language with the lowest share.

        Raises:
            InvalidRequest: no language claims the attribute.
        """
        rates = {language: self.rate(language, attribute) for language in self.languages}
        claiming = {language: rate for language, rate in rates.items() if rate.trials}
        if not claiming:
            raise InvalidRequest(f"nothing was claimed of {attribute!r}; known: {self.attributes}")
        return min(claiming, key=lambda language: claiming[language].share)


def measure(
    pictures: Iterable[torch.Tensor],
    claims: Iterable[Claims],
    languages: Iterable[str] | None = None,
) -> Tally:
    """Read each picture [3, H, W], 0..1, and hold it against its claims.

    Args:
        languages: one a picture, the language its claims were made in; None counts all under "und".

    Raises:
        InvalidRequest: not as many claims, or languages, as pictures.
    """
    pictures, claims = list(pictures), list(claims)
    tags = [UNDETERMINED] * len(claims) if languages is None else list(languages)
    if not len(pictures) == len(claims) == len(tags):
        raise InvalidRequest(
            f"each picture takes one claim and one language; got {len(pictures)} pictures, "
            f"{len(claims)} claims, {len(tags)} languages"
        )
    hits, trials = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    for picture, claim, language in zip(pictures, claims, tags, strict=True):
        for attribute, agrees in obeys(claim, read_picture(picture)).items():
            hits[language, attribute] += agrees
            trials[language, attribute] += 1
    return Tally({key: Rate(hits[key], count) for key, count in trials.items()})


def _sum(rates: list[Rate]) -> Rate:
    return Rate(sum(rate.hits for rate in rates), sum(rate.trials for rate in rates))
