"""Areas, masks, strengths and timestep ranges: equal to ComfyUI's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any


def test_random_conditioning_means_the_same_in_comfyui(run_in_comfyui: Callable[..., Any]) -> None:
    assert run_in_comfyui(Path(__file__).with_name("regions.py"), 500) <= 1e-5
