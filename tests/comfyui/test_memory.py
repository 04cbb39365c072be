"""Networks in the host's memory management: brought whole, counted, unloaded when it says so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import node_graphs
import pytest

# They stay where rows are looked up; see `text/encoders/tower.py`.
WORD_TABLES = {"AltDiffusionEncoder": "roberta.embeddings.word_embeddings.weight"}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return node_graphs.write_models(tmp_path_factory.mktemp("models"))


def test_a_network_is_brought_whole_however_short_memory_is(
    models: Path, run_in_comfyui: Callable[..., Any]
) -> None:
    cases = run_in_comfyui(Path(__file__).with_name("placing.py"), models)
    assert cases.keys() == {"plenty", "short", "lowvram", "novram"}
    for networks in cases.values():
        assert len(networks) == 4
        for name, found in networks.items():
            left = [table] if (table := WORD_TABLES.get(name)) else []
            assert found == {"called": name, "left behind": left, "known": True, "counted": True}


def test_the_host_counts_and_unloads_our_networks(
    models: Path, run_in_comfyui: Callable[..., Any]
) -> None:
    told = run_in_comfyui(Path(__file__).with_name("unloading.py"), models)
    every = ["AltDiffusionEncoder", "AutoencoderKL", "SafetyNetwork", "UNet2DConditionModel"]
    assert told["loaded"] == [[], every, [], every]
    assert told["equal"]
    assert told["alive"] == [] and told["known"] == []
    assert told["between nodes"] == ["meta"]
