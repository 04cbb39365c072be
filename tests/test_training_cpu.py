"""The process settings of training commands: in force within, taken back afterwards."""

from __future__ import annotations

import pytest
import torch
from multilingual_diffusion.pipeline_core.training.cpu import tuned_cpu


def denormals_live() -> bool:
    """Say whether a product below the smallest normal float32 is kept."""
    return bool((torch.full((64,), 1e-38) * 1e-5).count_nonzero())


@pytest.mark.skipif(not torch.set_flush_denormal(False), reason="this CPU cannot flush denormals")
def test_denormals_are_zero_within_and_back_afterwards() -> None:
    assert denormals_live()
    with tuned_cpu():
        assert not denormals_live()
    assert denormals_live()


@pytest.mark.skipif(not torch.set_flush_denormal(False), reason="this CPU cannot flush denormals")
def test_a_command_that_fails_leaves_the_process_as_it_was() -> None:
    @tuned_cpu()
    def command() -> None:
        assert not denormals_live()
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        command()
    assert denormals_live()
