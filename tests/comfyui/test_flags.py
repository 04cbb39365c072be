"""A server under other flags: models elsewhere, previews, no metadata."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import node_graphs
import pytest
from comfyui import graphs
from comfyui.checkout import Checkout
from comfyui.server import Server, serve
from PIL import Image


@pytest.fixture(scope="module")
def flagged(checkout: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    base = tmp_path_factory.mktemp("flagged")
    node_graphs.write_models(base / "elsewhere" / "ours")
    node_graphs.write_models(base / "elsewhere" / "theirs" / "deep")
    config = base / "extra_model_paths.yaml"
    config.write_text(
        f"tests:\n    base_path: {base / 'elsewhere'}\n    multilingual: ours\n"
        "    diffusers: theirs\n",
        encoding="utf-8",
    )
    flags = ("--preview-method", "latent2rgb", "--preview-size", "300", "--disable-metadata")
    with serve(checkout, base, *flags, "--extra-model-paths-config", str(config)) as server:
        yield server


def test_models_of_extra_paths_are_listed_and_used(flagged: Server) -> None:
    loader = flagged.fetch_json("/object_info/MultilingualModelLoader")["MultilingualModelLoader"]
    assert loader["input"]["required"]["model"][0] == [
        "nano", "checked", "group/bare", "deep/checked", "deep/group/bare",
    ]  # fmt: skip
    assert not (flagged.base / "models" / "multilingual").exists()
    first, second = (
        flagged.pictures(flagged.run(graphs.picture(name)))["save"]
        for name in ("checked", "deep/checked")
    )
    assert first == second


def test_previews_arrive_where_they_are_asked_for(flagged: Server) -> None:
    steps = 5
    with flagged.listen("previews") as listener:
        flagged.run(graphs.picture(steps=steps, seed=2), client="previews")
        listener.wait_for(lambda event: event["type"] == "execution_success")
    previews = listener.told("preview")
    assert len(previews) == steps
    assert {each["format"] for each in previews} == {"JPEG"}
    assert previews[0]["size"] == [300, 300 * node_graphs.HEIGHT // node_graphs.WIDTH]


def test_the_graph_is_left_out_where_the_user_wants_none(flagged: Server) -> None:
    (png,) = flagged.pictures(flagged.run(graphs.picture(seed=3), workflow={"nodes": []}))["save"]
    with Image.open(io.BytesIO(png)) as picture:
        picture.load()
        assert not {"prompt", "workflow"} & set(picture.text)


def test_the_saved_file_is_what_the_browser_gets(flagged: Server) -> None:
    entry = flagged.run(graphs.picture(seed=4, prefix="below/name"))
    (shown,) = entry["outputs"]["save"]["images"]
    assert (shown["subfolder"], shown["type"]) == ("below", "output")
    path = Path(flagged.base) / "output" / "below" / shown["filename"]
    assert [path.read_bytes()] == flagged.pictures(entry)["save"]
