"""One tensor of a graft: rounded once, exact at both ends, the same in pieces."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from multilingual_diffusion.pipeline_core.errors import NonFiniteResult
from multilingual_diffusion.pipeline_core.graft import arithmetic
from multilingual_diffusion.pipeline_core.graft.arithmetic import change, graft_tensor, round_once


def draw(seed: int, *shape: int) -> torch.Tensor:
    """Return values of very different sizes."""
    generator = torch.Generator().manual_seed(seed)
    sizes = 10.0 ** torch.randint(-6, 3, shape, generator=generator)
    return (torch.randn(shape, generator=generator) * sizes).float()


def test_rounded_once_to_16_bits() -> None:
    # halfway in float32's eyes between two float16, above it in truth
    tie = 1 + 2**-11 + 2**-40
    assert torch.tensor(tie, dtype=torch.float64).half().item() == 1  # torch rounds twice
    assert round_once(torch.tensor([tie], dtype=torch.float64), torch.float16).item() == 1 + 2**-10
    bits = torch.randint(-(2**62), 2**62, (200_000,), generator=torch.Generator().manual_seed(0))
    values = bits.view(torch.float64)
    near = values[(values.abs() > 2.0**-30) & (values.abs() < 2.0**15)]
    edges = torch.tensor([0.0, -0.0, 1e-8, 6e-8, -1e-45, 65504.0], dtype=torch.float64)
    ties = draw(1, 5_000).half().double() * (1 + 2**-11) + draw(2, 5_000).double() * 2.0**-45
    for sample in (near, ties, -ties, edges):
        wanted = torch.from_numpy(sample.numpy().astype("float16"))  # numpy rounds once
        found = round_once(sample, torch.float16)
        assert torch.equal(found.view(torch.int16), wanted.view(torch.int16))
    assert len(near) > 1000


def test_bf16_is_the_nearest_by_fractions() -> None:
    values = torch.cat([draw(3, 300).double(), draw(4, 300).bfloat16().double() * (1 + 2**-9)])
    for value, found in zip(values.tolist(), round_once(values, torch.bfloat16), strict=True):
        around = [
            torch.nextafter(found, torch.tensor(side, dtype=torch.bfloat16)).item()
            for side in (torch.inf, -torch.inf)
        ]
        distance = abs(Fraction(value) - Fraction(found.item()))
        assert all(distance <= abs(Fraction(value) - Fraction(other)) for other in around)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_full_delta_on_the_base_is_exact_where_plain_sums_are_not(dtype: torch.dtype) -> None:
    base, multilingual = draw(5, 999).to(dtype), draw(6, 999).to(dtype)
    multilingual[:2], base[1] = (
        torch.tensor([-0.0, 3.0]),
        torch.tensor(2.0**40).to(dtype).clamp(max=60000),
    )
    grafted = graft_tensor("x", base, multilingual, base, 1.0)
    assert torch.equal(grafted.view(torch.uint8), multilingual.view(torch.uint8))
    plain = (base.double() + (multilingual.double() - base.double())).to(dtype)
    assert not torch.equal(plain.view(torch.uint8), multilingual.view(torch.uint8))


def test_a_value_in_fractions() -> None:
    community, multilingual, base = draw(7, 200), draw(8, 200), draw(9, 200)
    delta = graft_tensor("x", community, multilingual, base, 0.3)
    blend = graft_tensor("x", community, multilingual, None, 0.3)
    for i in range(200):
        c, m, b = (Fraction(each[i].item()) for each in (community, multilingual, base))
        for found, start in ((delta[i], b), (blend[i], c)):
            exact = c + Fraction(0.3) * (m - start)
            step = Fraction(2.0) ** -23 * max(abs(exact), Fraction(2) ** -126)
            # half a unit of float32, and the float64 sum's own rounding of the largest term
            slack = Fraction(2) ** -52 * max(abs(c), abs(m), abs(b))
            assert abs(Fraction(found.item()) - exact) <= step / 2 + slack


def test_strength_0_is_the_same_tensor_and_1_the_other_one() -> None:
    community, multilingual = draw(10, 4, 4).half(), draw(11, 4, 4)
    assert graft_tensor("x", community, multilingual, None, 0.0) is community
    full = graft_tensor("x", community, multilingual, None, 1.0)
    assert torch.equal(full, multilingual.half())


def test_rounding_between_files_is_no_change() -> None:
    base = draw(12, 100)
    assert not change(base.half(), base).any() and not change(base, base.bfloat16()).any()
    assert change(base.half(), base + 1).any()


def test_pieces_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    community, multilingual, base = draw(13, 9, 7, 3, 3), draw(14, 9, 7, 3, 3), draw(15, 9, 7, 3, 3)
    whole = graft_tensor("x", community, multilingual, base, 0.7)
    monkeypatch.setattr(arithmetic, "PIECE", 10)
    channels_last = community.to(memory_format=torch.channels_last)
    assert torch.equal(graft_tensor("x", channels_last, multilingual, base, 0.7), whole)


def test_overflow_names_the_tensor() -> None:
    one = torch.ones(2).half()
    with pytest.raises(NonFiniteResult, match="graft of conv_in overflows float16"):
        graft_tensor("conv_in", one, torch.full((2,), 1e6), None, 0.5)
