"""LoRAs and embeddings in the real host: equal to its own LoRA loader, from its own folders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def measured(
    run_in_comfyui: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    script = Path(__file__).with_name("lora_weights.py")
    return run_in_comfyui(script, tmp_path_factory.mktemp("models"))


def test_every_spelling_changes_the_weights_as_the_hosts_own_loader(measured: Any) -> None:
    assert len(measured["weights"]) == 10
    for name, found in measured["weights"].items():
        assert found["theirs"] == found["ours"] == (3 if "processors" in name else 11), name
        assert found["difference"] <= 1e-6, name


def test_a_middle_convolution_too(measured: Any) -> None:
    assert measured["middle"]["theirs"] == measured["middle"]["ours"] == 1
    assert measured["middle"]["difference"] <= 1e-6


def test_branches_with_and_without_a_lora_in_turns(measured: Any) -> None:
    found = measured["branches"]
    assert found.pop("report") == "x.safetensors at 1: 1 layers changed"
    assert all(found.values()), found


def test_embeddings_come_from_the_hosts_folder(measured: Any) -> None:
    assert "embedding:cat takes 3 tokens" in measured["embedding"]["report"]
    assert measured["embedding"]["changes"]
