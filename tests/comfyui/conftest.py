"""Fixtures for tests in real ComfyUI; see `server.py` and `checkout.py` for what they give.

`comfyui` is a server for the whole session with tiny models (`node_graphs.write_models`) in
`models/multilingual`; `start_comfyui(*flags)` starts another; `run_in_comfyui(script, *arguments)`
runs a script's `main` in a process with ComfyUI's modules, `run_headless` in one without.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import node_graphs
import pytest
from comfyui.checkout import Checkout, find_checkout, run_script
from comfyui.server import Server, serve


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test of this folder."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker("comfyui")


@pytest.fixture(scope="session")
def checkout() -> Checkout:
    found = find_checkout()
    if found is None:
        pytest.skip("set COMFYUI_DIR to a ComfyUI checkout, COMFYUI_PYTHON to its interpreter")
    return found


@pytest.fixture(scope="session")
def comfyui(checkout: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    base = tmp_path_factory.mktemp("comfyui")
    node_graphs.write_models(base / "models" / "multilingual")
    with serve(checkout, base) as server:
        yield server


@pytest.fixture
def start_comfyui(
    checkout: Checkout, tmp_path: Path
) -> Callable[..., AbstractContextManager[Server]]:
    """Return `start(*flags)`: a server of this test's own, in `tmp_path`."""
    return lambda *flags: serve(checkout, tmp_path, *flags)


@pytest.fixture(scope="session")
def run_in_comfyui(
    checkout: Checkout, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Any]:
    folder = tmp_path_factory.mktemp("scripts")
    return lambda script, *arguments: run_script(checkout, folder, script, *arguments)


@pytest.fixture(scope="session")
def run_headless(
    checkout: Checkout, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Any]:
    folder = tmp_path_factory.mktemp("scripts")
    return lambda script, *arguments: run_script(checkout, folder, script, *arguments, hosted=False)
