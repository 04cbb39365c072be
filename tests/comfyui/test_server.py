"""The pack in the real server: loaded, listed, served."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from comfyui.server import FOLDER, Server, executed_nodes
from multilingual_diffusion.nodes import NODE_CLASS_MAPPINGS


def test_every_node_is_listed(comfyui: Server) -> None:
    listed = comfyui.fetch_json("/object_info")
    assert set(NODE_CLASS_MAPPINGS) <= set(listed)
    assert FOLDER in comfyui.log()


def graph() -> dict[str, Any]:
    return {
        "latent": {
            "class_type": "MultilingualEmptyLatent",
            "inputs": {"shape": "custom", "width": 64, "height": 48, "batch_size": 1},
        },
        "models": {"class_type": "MultilingualVAELoader", "inputs": {"model": "checked"}},
        "image": {
            "class_type": "MultilingualVAEDecode",
            "inputs": {"vae": ["models", 0], "latent": ["latent", 0]},
        },
        "save": {
            "class_type": "MultilingualSaveImage",
            "inputs": {"images": ["image", 0], "filename_prefix": "smoke"},
        },
    }


def test_a_graph_runs(comfyui: Server) -> None:
    entry = comfyui.run(graph())
    assert executed_nodes(entry, graph()) == set(graph())
    (picture,) = comfyui.pictures(entry)["save"]
    assert picture.startswith(b"\x89PNG")


def test_a_script_runs_in_the_host(run_in_comfyui: Callable[..., Any]) -> None:
    script = (
        "from multilingual_diffusion.nodes import host\n"
        "def main(word):\n"
        "    import comfy.model_management as management\n"
        "    return [word, host.is_hosted(), str(management.get_torch_device())]\n"
    )
    assert run_in_comfyui(script, "yes") == ["yes", True, "cpu"]


def test_a_script_runs_without_the_host(run_headless: Callable[..., Any]) -> None:
    script = (
        "from multilingual_diffusion.nodes import host\ndef main():\n    return host.is_hosted()\n"
    )
    assert run_headless(script) is False
