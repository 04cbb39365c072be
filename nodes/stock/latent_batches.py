"""Stand-ins for the stock nodes that take LATENT batches apart and put them together.

`batch_index` keeps each picture's number in the batch it came from, so that it keeps its noise.
"""

from __future__ import annotations

from typing import Any

import torch

from ..conversions import repeat_rows
from .definition import LATENT, MAX_SIDE, Latent, StockNode, whole
from .latents import with_samples
from .resizing import resize


def _indices(latent: Latent) -> list[int]:
    return list(latent.get("batch_index", range(latent["samples"].shape[0])))


class LatentFromBatch(StockNode):
    """Take some latents of a batch; a negative index counts from the end."""

    DISPLAY_NAME = "Get Latent From Batch"
    REQUIRED = {
        "samples": LATENT,
        "batch_index": whole(0, -MAX_SIDE, MAX_SIDE),
        "length": whole(1, 1, 64),
    }
    RETURN_TYPES = ("LATENT",)

    def execute(self, samples: Latent, batch_index: int, length: int) -> tuple[dict[str, Any]]:
        count = samples["samples"].shape[0]
        start = min(max(batch_index + (count if batch_index < 0 else 0), 0), count - 1)
        taken = slice(start, min(start + length, count))
        more: dict[str, Any] = {"batch_index": _indices(samples)[taken]}
        masks = samples.get("noise_mask")
        if masks is not None:
            more["noise_mask"] = masks if len(masks) == 1 else repeat_rows(masks, count)[taken]
        return with_samples(samples, samples["samples"][taken], **more)


class RepeatLatentBatch(StockNode):
    """Repeat a batch; every repetition gets numbers of its own."""

    DISPLAY_NAME = "Repeat Latent Batch"
    REQUIRED = {"samples": LATENT, "amount": whole(1, 1, 64)}
    RETURN_TYPES = ("LATENT",)

    def execute(self, samples: Latent, amount: int) -> tuple[dict[str, Any]]:
        more: dict[str, Any] = {}
        masks, indices = samples.get("noise_mask"), samples.get("batch_index")
        if masks is not None and len(masks) > 1:
            more["noise_mask"] = masks.repeat(amount, 1, 1, 1)
        if indices is not None:
            span = max(indices) - min(indices) + 1
            more["batch_index"] = [index + span * i for i in range(amount) for index in indices]
        return with_samples(samples, samples["samples"].repeat(amount, 1, 1, 1), **more)


class LatentBatch(StockNode):
    """Join two batches, the second at the size of the first."""

    DISPLAY_NAME = "Batch Latents (DEPRECATED)"
    REQUIRED = {"samples1": LATENT, "samples2": LATENT}
    RETURN_TYPES = ("LATENT",)

    def execute(self, samples1: Latent, samples2: Latent) -> tuple[dict[str, Any]]:
        first, second = samples1["samples"], samples2["samples"]
        if first.shape[1:] != second.shape[1:]:
            second = resize(second, first.shape[3], first.shape[2], "bilinear", "center")
        joined = torch.cat([first, second])
        return with_samples(samples1, joined, batch_index=_indices(samples1) + _indices(samples2))


NODES = [LatentFromBatch, RepeatLatentBatch, LatentBatch]
