"""The pack in the real server: loaded, listed, served."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import workflow_examples as examples
from comfyui.checkout import PACK
from comfyui.server import FOLDER, Server
from multilingual_diffusion.nodes import NODE_CLASS_MAPPINGS, bridges, host

LOADING_SECONDS = 0.1  # of the processor, beyond torch, which the host has


def own_nodes() -> dict[str, type]:
    return {**NODE_CLASS_MAPPINGS, **{each.__name__: each for each in bridges.NODES}}


@pytest.fixture(scope="module")
def listed(comfyui: Server) -> dict[str, Any]:
    everything = comfyui.fetch_json("/object_info")
    return {
        name: node
        for name, node in everything.items()
        if node["python_module"] == f"custom_nodes.{FOLDER}"
    }


def test_the_pack_loads_without_a_complaint(comfyui: Server) -> None:
    about_us = [line for line in comfyui.log().splitlines() if FOLDER in line]
    assert [line for line in about_us if re.search(rf"[\d.]+ seconds: \S*{FOLDER}$", line)]
    assert not [line for line in about_us if "FAILED" in line or "Cannot" in line]


def test_loading_costs_little_and_every_node_is_there_whatever_is_missing(
    run_in_comfyui: Any,
) -> None:
    script = (
        "import asyncio, sys, time\n"
        "def main(pack):\n"
        "    import nodes as stock\n"
        "    from comfy_config import config_parser\n"
        "    config_parser.extract_node_configuration(pack)  # the host's own cost\n"
        "    for name in ('diffusers', 'sentencepiece'):\n"
        "        sys.modules[name] = None  # as where it is not installed\n"
        "    begin = time.process_time()\n"
        "    loaded = asyncio.run(stock.load_custom_node(pack))\n"
        "    seconds = time.process_time() - begin\n"
        "    return [loaded, seconds, list(stock.NODE_CLASS_MAPPINGS)]\n"
    )
    loaded, seconds, names = run_in_comfyui(script, PACK)
    assert loaded and seconds <= LOADING_SECONDS
    assert set(own_nodes()) <= set(names)


def test_every_node_is_listed_with_exactly_its_table(
    comfyui: Server, listed: dict[str, Any]
) -> None:
    assert set(listed) == set(own_nodes())
    models = comfyui.base / "models" / "multilingual"
    with host.use_folders(host.HeadlessFolders(models=(models,))):
        for name, node_class in own_nodes().items():
            types = json.loads(json.dumps(getattr(node_class, "INPUT_TYPES")()))  # noqa: B009
            node = listed[name]
            assert node["input"] == types, name
            kinds = {kind: list(inputs) for kind, inputs in types.items()}
            assert node["input_order"] == kinds, name
            assert node["output"] == list(vars(node_class)["RETURN_TYPES"]), name
            assert node["display_name"] == vars(node_class)["DISPLAY_NAME"]
            assert node["category"].startswith("multilingual/") and node["description"]


def test_every_input_and_output_has_a_tooltip(listed: dict[str, Any]) -> None:
    for name, node in listed.items():
        assert len(node["output_tooltips"]) == len(node["output"]) == len(node["output_name"])
        assert all(node["output_tooltips"]), name
        for kind in ("required", "optional"):
            for each, (_, options) in node["input"].get(kind, {}).items():
                assert options["tooltip"], (name, each)


def test_models_are_choices_under_the_names_of_headless_runs(listed: dict[str, Any]) -> None:
    assert listed["MultilingualModelLoader"]["input"]["required"]["model"][0] == [
        "nano", "checked", "group/bare",
    ]  # fmt: skip


def test_help_pages_are_served(comfyui: Server, listed: dict[str, Any]) -> None:
    for name in listed:
        page = comfyui.fetch(f"/extensions/{FOLDER}/docs/{name}.md")
        assert page == (PACK / "web" / "docs" / f"{name}.md").read_bytes()


def test_example_workflows_are_templates(comfyui: Server) -> None:
    names = {path.stem for path in examples.all_examples()}
    assert set(comfyui.fetch_json("/workflow_templates")[FOLDER]) == names
    for path in examples.all_examples():
        for file in (path, path.with_suffix(".jpg")):
            served = comfyui.fetch(f"/api/workflow_templates/{FOLDER}/{file.name}")
            assert served == file.read_bytes()


def test_scripts_run_with_and_without_the_host(run_in_comfyui: Any, run_headless: Any) -> None:
    script = (
        "from multilingual_diffusion.nodes import host\n"
        "def main(word):\n"
        "    return [word, host.is_hosted()]\n"
    )
    assert run_in_comfyui(script, "a word") == ["a word", True]
    assert run_headless(script, "a word") == ["a word", False]
