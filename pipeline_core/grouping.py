"""Which images of a request are sampled together: those whose conditioning has one length.

Windows that are added to a prompt change what the UNet attends to, so a prompt is never lengthened
for the sake of its neighbours in the request.
"""

from __future__ import annotations

from dataclasses import dataclass

from .text.encoder import TextEncoder
from .values import Conditioning, ImageRequest


@dataclass(frozen=True)
class Group:
    """Images that are sampled together: their places in the request and their two sides."""

    rows: list[int]
    positive: Conditioning
    negative: Conditioning

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the encoder has to say of these prompts."""
        return self.positive.warnings + self.negative.warnings


def group_images(
    encoder: TextEncoder, request: ImageRequest, batch_size: int | None
) -> list[Group]:
    """Encode the prompts of all images, in groups of at most `batch_size`."""
    pairs = [pair for pair in _pairs(request) for _ in range(request.images_per_prompt)]
    groups: list[Group] = []
    for rows in _rows_of_one_length(encoder, request, pairs):
        # The batch conventions draw all noise from one stream, which cannot be cut.
        size = batch_size if batch_size and request.noise == "per-image" else len(rows)
        for part in (rows[start : start + size] for start in range(0, len(rows), size)):
            positive, negative = encoder.encode_pair(
                [pairs[row][0] for row in part],
                [pairs[row][1] for row in part],
                weighting=request.weighting,
                long_prompt=request.long_prompt,
            )
            groups.append(Group(part, positive, negative))
    return groups


def _rows_of_one_length(
    encoder: TextEncoder, request: ImageRequest, pairs: list[tuple[str, str]]
) -> list[list[int]]:
    if request.noise != "per-image":
        return [list(range(len(pairs)))]
    lengths = {
        pair: encoder.tokenize(pair, long_prompt=request.long_prompt).ids.shape[1]
        for pair in dict.fromkeys(pairs)
    }
    rows: dict[int, list[int]] = {}
    for row, pair in enumerate(pairs):
        rows.setdefault(lengths[pair], []).append(row)
    return list(rows.values())


def _pairs(request: ImageRequest) -> list[tuple[str, str]]:
    """Return (prompt, negative prompt) for each prompt; no negative prompt is the empty one."""
    negatives = request.negative_prompts or ("",)
    if len(negatives) == 1:
        negatives *= len(request.prompts)
    return list(zip(request.prompts, negatives, strict=True))
