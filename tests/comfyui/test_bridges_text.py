"""Our text encoder as the host's CLIP: stock nodes get exactly our conditioning."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def seen(
    run_in_comfyui: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    script = Path(__file__).with_name("bridge_text.py")
    return run_in_comfyui(script, tmp_path_factory.mktemp("models"))


@pytest.mark.parametrize("kind", ["m9", "m18", "chinese"])
def test_clip_text_encode_gives_our_conditioning_bit_for_bit(seen: Any, kind: str) -> None:
    assert len(seen["same"][kind]) == 8
    assert all(seen["same"][kind].values()), seen["same"][kind]


def test_weighting_and_long_prompts_are_as_asked(seen: Any) -> None:
    assert seen["options"] == [True] * 6


def test_conditioning_nodes_and_samplers_go_on_from_it(seen: Any) -> None:
    apart, stock_is_finite, ours_is_finite = seen["after"]
    assert apart <= 1e-6 and stock_is_finite and ours_is_finite


def test_what_would_mean_something_else_is_refused(seen: Any) -> None:
    last_layer, save, quietly_set, other_tokens = seen["refusals"]
    assert "one fixed layer" in last_layer and "layer -2" in last_layer
    assert "not saved" in save
    assert quietly_set == last_layer
    assert "another CLIP" in other_tokens


def test_patches_act_on_the_copy_alone(seen: Any) -> None:
    assert seen["patches"] == [True] * 6


def test_the_host_counts_the_network_once_and_frees_it(seen: Any) -> None:
    together, loaded, size, left = seen["memory"]
    assert (together, left) == (1, 0)
    assert loaded == size > 0
