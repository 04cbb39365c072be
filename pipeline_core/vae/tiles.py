"""One function run over overlapping tiles of an image, seams blended.

Each tile is cut with a margin of context. The outer quarter of an overlap, where a network sees
padding instead of picture, weighs nothing; the middle half fades from one tile into the next.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch

# Called after each tile with (done, total); raise `Cancelled` to stop.
TileCallback = Callable[[int, int], None]


def run_tiled(
    function: Callable[[torch.Tensor], torch.Tensor],
    values: torch.Tensor,
    *,
    tile: int,
    overlap: int,
    factors: tuple[int, int],
    on_tile: TileCallback | None = None,
) -> torch.Tensor:
    """Run `function` over tiles of `values` [B, C, H, W] and join the results.

    `tile` and `overlap` count cells; `factors` are the pixels a cell has on its side in `values`
    and in the result, such as (1, 4) where the function makes its input four times as large.
    """
    factor_in, factor_out = factors
    height, width = (side // factor_in for side in values.shape[-2:])
    rows, columns = _spans(height, tile, overlap), _spans(width, tile, overlap)
    total: torch.Tensor | None = None
    weights = torch.zeros(1, 1, height * factor_out, width * factor_out)
    for done, (row, column) in enumerate(itertools.product(rows, columns), start=1):
        result = function(values[..., _scaled(row, factor_in), _scaled(column, factor_in)])
        fade_down = _fade(row, height, overlap, factor_out)
        fade = fade_down[:, None] * _fade(column, width, overlap, factor_out)
        target = (..., _scaled(row, factor_out), _scaled(column, factor_out))
        if total is None:
            weights = weights.to(result.device)
            total = result.new_zeros((*result.shape[:2], *weights.shape[2:]), dtype=torch.float32)
        total[target] += result.float() * fade.to(result.device)
        weights[target] += fade.to(result.device)
        if on_tile:
            on_tile(done, len(rows) * len(columns))
    assert total is not None
    return total / weights


def _spans(length: int, tile: int, overlap: int) -> list[slice]:
    """Cut 0..length into slices of `tile`, each overlapping the next by at least `overlap`."""
    if length <= tile:
        return [slice(0, length)]
    count = -(-(length - overlap) // (tile - overlap))
    starts = [(length - tile) * index // (count - 1) for index in range(count)]
    return [slice(start, start + tile) for start in starts]


def _fade(span: slice, length: int, overlap: int, factor: int) -> torch.Tensor:
    """Return a tile's weights along one side: 1 inside, fading where a neighbour takes over."""
    size, dead, ramp = (span.stop - span.start) * factor, overlap * factor / 4, overlap * factor / 2
    position = torch.arange(size, dtype=torch.float32) + 0.5
    weights = torch.ones(size)
    if span.start > 0:
        weights = torch.minimum(weights, ((position - dead) / ramp).clamp(0.0, 1.0))
    if span.stop < length:
        weights = torch.minimum(weights, ((size - position - dead) / ramp).clamp(0.0, 1.0))
    return weights


def _scaled(span: slice, factor: int) -> slice:
    return slice(span.start * factor, span.stop * factor)
