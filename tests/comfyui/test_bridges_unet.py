"""Our UNet as the host's MODEL gives what our own sampler gives, for every kind of model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def measured(
    run_in_comfyui: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    script = Path(__file__).with_name("bridge_sampling.py")
    return run_in_comfyui(script, tmp_path_factory.mktemp("models"))


@pytest.mark.parametrize(
    "name",
    [
        "m9-epsilon", "m9-v_prediction", "m18-epsilon", "m18-v_prediction", "chinese-epsilon",
        "chinese-v_prediction", "nano",
    ],
)  # fmt: skip
def test_same_sigmas_and_noise_give_the_same_latents(measured: Any, name: str) -> None:
    differences = measured["same sigmas"][name]
    assert set(differences) == {"euler", "dpmpp_2m", "ddim"}
    assert max(differences.values()) <= 2e-5


def test_going_on_from_latents(measured: Any) -> None:
    assert measured["from an image"] <= 2e-5


def test_other_stock_samplers_take_the_model(measured: Any) -> None:
    assert measured["in two parts"] <= 1e-5
    assert measured["custom"] <= 1e-5


def test_a_wrong_prediction_type_would_be_seen(measured: Any) -> None:
    assert measured["wrong type"] > 0.1


def test_weights_are_not_stored_twice(measured: Any) -> None:
    shared, theirs, ours = measured["shared"]
    assert shared == theirs == ours
