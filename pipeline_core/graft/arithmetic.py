"""One tensor of a graft: float64 within, rounded once to the precision of the community model.

Large tensors go through in pieces, so that float64 costs little memory.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from ..errors import NonFiniteResult

PIECE = 2**18  # values that are in float64 at a time


def graft_tensor(
    name: str,
    community: torch.Tensor,
    multilingual: torch.Tensor,
    base: torch.Tensor | None,
    strength: float,
) -> torch.Tensor:
    """Return the grafted tensor, in the community's dtype and on its device.

    Without a base it is the blend `community + strength (multilingual - community)`, with one
    `community + strength (multilingual - base)`. Strength 0 is the community's tensor itself; at
    strength 1 the blend, and every value where the community still has the base's, is the
    multilingual one bit for bit.

    Raises:
        NonFiniteResult: the result does not fit the dtype; `name` is for this message.
    """
    if strength == 0:
        return community
    result = torch.empty_like(community, memory_format=torch.contiguous_format)
    flat = result.view(-1)
    tensors = [community, multilingual] if base is None else [community, multilingual, base]
    for span, values in pieces(tensors, community.device):
        flat[span] = _graft(*values, strength=strength).to(result.device)
    if not result.to(torch.float32).isfinite().all():
        raise NonFiniteResult(
            f"the graft of {name} overflows {str(community.dtype).removeprefix('torch.')}; take a "
            "lower strength, or convert the community model to bf16 or fp32 first"
        )
    return result


def pieces(
    tensors: list[torch.Tensor], device: torch.device
) -> Iterator[tuple[slice, list[torch.Tensor]]]:
    """Yield the same span of several tensors of one size, on that device if it knows float64."""
    device = device if device.type == "cuda" else torch.device("cpu")
    for start in range(0, tensors[0].numel(), PIECE):
        span = slice(start, start + PIECE)
        yield span, [tensor.reshape(-1)[span].to(device) for tensor in tensors]


def change(multilingual: torch.Tensor, base: torch.Tensor) -> torch.Tensor:
    """Return `multilingual - base` in float64, both at the coarser precision of the two.

    So files of two precisions differ where training changed a value, not by rounding.
    """
    coarser = max(multilingual.dtype, base.dtype, key=lambda dtype: torch.finfo(dtype).eps)
    return multilingual.to(coarser).to(torch.float64) - base.to(coarser).to(torch.float64)


def _graft(
    community: torch.Tensor,
    multilingual: torch.Tensor,
    base: torch.Tensor | None = None,
    *,
    strength: float,
) -> torch.Tensor:
    own = community.to(torch.float64)
    if base is None:
        moved, untouched = multilingual.to(torch.float64) - own, torch.ones_like(own) > 0
    else:
        moved, untouched = change(multilingual, base), own == base.to(torch.float64)
    result = round_once(own + strength * moved, community.dtype)
    if strength < 1:
        return result
    return torch.where(untouched, multilingual.to(community.dtype), result)


def round_once(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Round float64 values to the nearest of a dtype.

    torch goes to 16 bits by way of 32, which rounds twice. Rounding to odd on the way there makes
    the second rounding the only one that counts (Boldo & Melquiond, "Emulation of FMA and correctly
    rounded sums", 2008).
    """
    if dtype.itemsize >= torch.float32.itemsize:
        return values.to(dtype)
    single = values.to(torch.float32)
    exact = single.to(torch.float64)
    is_even = single.view(torch.int32) % 2 == 0
    toward = torch.where(values > exact, torch.inf, -torch.inf).to(torch.float32)
    wants_odd = is_even & (exact != values) & exact.isfinite()
    return torch.where(wants_odd, torch.nextafter(single, toward), single).to(dtype)
