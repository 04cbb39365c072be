"""Each stand-in gives what the host's own node gives for the same inputs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from multilingual_diffusion.nodes.stock import STOCK_CLASS_MAPPINGS

# Bit-equal but for these, whose networks are diffusers' here and the host's own there.
TOLERANCES = {"VAEDecode": 1e-5, "VAEEncode": 5e-5, "VAEEncodeForInpaint": 5e-5}
# Tiles are blended in our own way (`test_vae.py` compares them with the whole), and a preview is a
# saved picture in another folder.
NOT_COMPARED = {"VAEDecodeTiled", "VAEEncodeTiled", "PreviewImage"}


@pytest.fixture(scope="module")
def differences(
    run_in_comfyui: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, list[float]]:
    script = Path(__file__).parent / "stock_cases.py"
    version, found = run_in_comfyui(script, tmp_path_factory.mktemp("stock"))
    if not found:
        pytest.skip(f"the stand-ins are those of ComfyUI 0.33, this one is {version}")
    return found


@pytest.mark.parametrize("name", sorted(set(STOCK_CLASS_MAPPINGS) - NOT_COMPARED))
def test_stand_in_equals_the_hosts_node(name: str, differences: dict[str, list[float]]) -> None:
    assert differences[name]
    assert max(differences[name]) <= TOLERANCES.get(name, 0.0)
