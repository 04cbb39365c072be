"""LoRA, ControlNet, PLMS and memory on a bridged MODEL: as on a stock one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def seen(
    run_in_comfyui: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    script = Path(__file__).with_name("bridge_additions.py")
    return run_in_comfyui(script, tmp_path_factory.mktemp("models"))


@pytest.mark.parametrize("name", ["m9-epsilon", "m18-epsilon"])
def test_a_lora_changes_the_picture_as_on_a_stock_model(seen: Any, name: str) -> None:
    lora = seen["loras"][name]
    assert lora["changes"] > 0.05
    assert lora["as stock"] <= 1e-6
    assert lora["as our own"] <= 1e-4


@pytest.mark.parametrize("name", ["m9-epsilon", "m18-epsilon"])
def test_a_lora_leaves_the_unet_that_came_in_as_it_was(seen: Any, name: str) -> None:
    assert seen["loras"][name]["off again"] == 0.0
    assert seen["loras"][name]["ours kept"]


@pytest.mark.parametrize("name", ["m9-epsilon", "m18-epsilon"])
def test_the_report_says_what_load_lora_does(seen: Any, name: str) -> None:
    lora = seen["loras"][name]
    report, applied, skipped = lora["report"]
    assert applied == lora["patches"] > 50
    assert (skipped, lora["clip patches"]) == (2, 0)
    assert f"{applied} layers apply, 2 do not" in report
    assert "belong to a text encoder with other layers" in report


def test_the_report_sees_a_lora_of_another_family(seen: Any) -> None:
    report, applied, skipped = seen["misfit"]
    assert "another shape" in report and skipped > applied


@pytest.mark.parametrize("name", ["m9-epsilon", "m18-epsilon"])
def test_a_controlnet_guides_as_on_a_stock_model(seen: Any, name: str) -> None:
    assert seen["controlnet"][name]["changes"] > 0.05
    assert seen["controlnet"][name]["as stock"] <= 1e-6


def test_areas_and_timestep_ranges_act_as_on_a_stock_model(seen: Any) -> None:
    assert seen["regions"]["changes"] > 0.01
    assert seen["regions"]["as stock"] <= 1e-6


def test_the_host_would_guess_another_prediction_type(seen: Any) -> None:
    assert seen["controlnet"]["m18-epsilon"]["guess"] == "V_PREDICTION"


@pytest.mark.parametrize("name", ["m9-epsilon", "m18-v_prediction"])
def test_plms_in_sampler_custom_is_our_plms(seen: Any, name: str) -> None:
    plms = seen["plms"][name]
    assert plms["same sigmas"] <= 1e-5
    assert plms["own schedule"] <= 1e-5
    assert plms["levels"] <= 1e-5
    assert plms["not euler"] > 1e-2
    assert "unequal timesteps" in plms["refused"]


def test_a_part_of_the_network_may_stay_away(seen: Any) -> None:
    memory = seen["memory"]
    assert memory["streamed"] and memory["loaded"] < 0.6 and memory["freed"] > 0.1
    assert memory["in part"] == memory["in less"] == 0.0


def test_a_second_model_fits_and_all_can_be_freed(seen: Any) -> None:
    memory = seen["memory"]
    assert memory["again"] == 0.0 and memory["second fits"]
    assert (memory["known"], memory["left"]) == ([1, 1], 0)
