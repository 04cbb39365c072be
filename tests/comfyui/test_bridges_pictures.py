"""Our VAE as the host's, and Load Checkpoint's place taken: the same pictures as our own nodes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def seen(
    run_in_comfyui: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    script = Path(__file__).with_name("bridge_pictures.py")
    return run_in_comfyui(script, tmp_path_factory.mktemp("models"))


@pytest.mark.parametrize("name", ["m9-epsilon", "nano"])
def test_vae_nodes_give_what_ours_give(seen: Any, name: str) -> None:
    assert set(seen["vae"][name]) == {"decode", "tiled", "encode", "inpaint"}
    assert max(seen["vae"][name].values()) <= 1e-4, seen["vae"][name]


def test_tiles_are_close_to_the_whole(seen: Any) -> None:
    assert 0 < seen["tiles"] < 0.1


def test_the_number_of_groups_matters(seen: Any) -> None:
    assert seen["groups"] > 0.1


def test_a_swapped_graph_gives_our_picture(seen: Any) -> None:
    assert seen["swapped"]["latents"] <= 1e-5
    assert seen["swapped"]["pixels"] <= 1e-4


def test_weights_are_not_stored_twice(seen: Any) -> None:
    shared, theirs = seen["shared"]
    assert shared == theirs > 0


def test_only_what_the_host_reads_back_is_saved(seen: Any) -> None:
    refusal, keys = seen["saving"]
    assert "number of groups" in refusal
    assert keys == "244"


def test_hosts_that_make_weights_at_loading_get_the_same(seen: Any) -> None:
    assert seen["late layers"] == 0.0


def test_half_precision_is_kept_and_computed_wider(seen: Any) -> None:
    half = seen["half"]
    assert (half["weights"], half["vae"]) == ("torch.float16", "torch.float32")
    assert half["as float32"] <= 2e-5


def test_a_unet_with_exchanged_layers_is_refused(seen: Any) -> None:
    assert "layers that ComfyUI's own has not" in seen["exchanged"]


def test_all_of_it_can_be_freed(seen: Any) -> None:
    assert seen["left"] == 0
