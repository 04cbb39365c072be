"""Grafts and dual conditioning as patches of the host's MODEL give what our own UNets give."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

both = pytest.mark.parametrize("family", ["sd1", "sd2"])


@pytest.fixture(scope="module")
def measured(
    run_in_comfyui: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    script = Path(__file__).with_name("graft_script.py")
    return run_in_comfyui(script, tmp_path_factory.mktemp("models"))


@both
def test_patched_weights_are_those_of_our_graft(measured: Any, family: str) -> None:
    assert len(measured["weights"][family]) == 10
    assert max(measured["weights"][family].values()) <= 1.0  # units in the last place


@both
def test_both_ends_are_exact(measured: Any, family: str) -> None:
    assert all(measured["ends"][family].values()), measured["ends"][family]


@both
def test_stock_sampler_on_patches_equals_ours(measured: Any, family: str) -> None:
    found = dict(measured["pictures"][family])
    assert found.pop("graft changes") > 1e-2
    assert max(found.values()) <= 1e-4, found


def test_a_lora_before_the_graft(measured: Any) -> None:
    found = dict(measured["loras"])
    assert "changes of 1 keys and values are left out" in found.pop("report")
    assert "LoRA" not in found.pop("silent")
    assert found.pop("original has the LoRA") <= 1.0
    assert found.pop("trigger word changes") > 1e-3
    assert all(found.values()), found


def test_a_controlnet_reads_clip(measured: Any) -> None:
    found = measured["controlnet"]
    assert found["reading CLIP changes"] > 1e-3
    assert found["where both are one, nothing"] <= 1e-5
    assert found["the UNet still reads its own"] > 1e-3


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("family", "another family"),
        ("prediction", "predicts v_prediction"),
        ("base", "needs the base"),
        ("base's family", "numbers a token"),
        ("dual twice", "already"),
        ("dual's family", "another family"),
        ("not joined", "Multilingual Dual Conditioning on both sides"),
    ],
)
def test_refusals(measured: Any, case: str, words: str) -> None:
    assert words in measured["refusals"][case]
