"""Full-size random weights: LoRA and ControlNet files through the host's own loaders, by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.mark.full
@pytest.mark.parametrize(("family", "config"), [("sd1", "SD15"), ("sd2", "SD20")])
def test_full_size(
    run_in_comfyui: Callable[..., Any], tmp_path: Path, family: str, config: str
) -> None:
    seen = run_in_comfyui(Path(__file__).with_name("bridge_full.py"), tmp_path, family)
    assert seen["config"] == config
    assert seen["as our own"] <= 1e-4
    assert seen["as stock"] <= 1e-5
    assert seen["patches"] == [64, 64]  # to_q, to_k, to_v, to_out of 16 cross-attentions
    for changes, apart in (seen["lora"], seen["controlnet"]):
        assert changes > 0.01
        assert apart <= 1e-5
