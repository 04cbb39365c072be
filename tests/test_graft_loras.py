"""LoRAs and grafts, in either order: what was learned on CLIP's tokens has no place after one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import node_graphs as graphs
import pytest
import torch
from graft_models import LORA_LAYERS, unet_tensors, write_family, write_lora
from multilingual_diffusion.pipeline_core import load_pipeline
from multilingual_diffusion.pipeline_core.adapters.lora import LoraDenoiser
from multilingual_diffusion.pipeline_core.adapters.lora_files import OWN_NOTE
from multilingual_diffusion.pipeline_core.graft.parents import open_parents
from multilingual_diffusion.pipeline_core.graft.recipe import GraftRecipe
from multilingual_diffusion.pipeline_core.graft.write import write_graft
from multilingual_diffusion.pipeline_core.loading.convert import convert
from multilingual_diffusion.pipeline_core.sources import LoadOptions
from multilingual_diffusion.pipeline_core.training.lora import add_lora
from multilingual_diffusion.pipeline_core.training.lora import write_lora as write_trained
from safetensors import safe_open

KEYS_VALUES, OTHERS = LORA_LAYERS[:2], LORA_LAYERS[2:]
RECIPE = GraftRecipe("replace-kv")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a models folder with a family, a graft of it in three layouts, and two LoRAs."""
    root = write_family(tmp_path_factory.mktemp("models"))
    parents = open_parents(root / "community", root / "multilingual", None, LoadOptions())
    write_graft(parents, RECIPE, root / "grafted")
    write_graft(parents, RECIPE, root / "grafted.safetensors")
    convert(root / "grafted", root / "converted", dtype="keep")
    write_lora(root / "loras" / "style.safetensors")
    write_lora(root / "loras" / "ours.safetensors", {OWN_NOTE: "multilingual tokens"})
    return root


@pytest.fixture(autouse=True)
def places(root: Path, tmp_path: Path) -> Iterator[None]:
    with graphs.folders(root, tmp_path):
        yield


def weights(unet: Any) -> dict[str, torch.Tensor]:
    """Return the weights that the LoRAs are made for, by layer."""
    tensors = unet.network.state_dict()
    return {layer: tensors[f"{layer}.weight"] for layer in LORA_LAYERS}


def changed(found: Any, before: Any) -> set[str]:
    """Return the layers in which two UNets differ."""
    ours, theirs = weights(found), weights(before)
    return {layer for layer in LORA_LAYERS if not torch.equal(ours[layer], theirs[layer])}


def load(root: Path, name: str, *loras: str) -> Any:
    return load_pipeline(
        name, models_dir=root, parts=("unet",), loras=[(lora, 1.0) for lora in loras]
    ).parts.unet


@pytest.mark.parametrize("name", ["grafted", "grafted.safetensors", "converted"])
def test_a_lora_on_a_written_graft(root: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    plain = load(root, name)
    assert changed(load(root, name, "style"), plain) == set(OTHERS)
    assert "learned on CLIP's tokens" in caplog.text and "attn2.to_k" in caplog.text
    assert changed(load(root, name, "ours"), plain) == set(LORA_LAYERS)


def test_a_lora_on_what_is_no_graft_applies_whole(root: Path) -> None:
    for name in ("community", "multilingual"):
        assert changed(load(root, name, "style"), load(root, name)) == set(LORA_LAYERS)


def unet_node(name: str) -> Any:
    return graphs.call("MultilingualUNetLoader", model=name)[0]


def lora_node(unet: Any, name: str = "style.safetensors") -> tuple[Any, str]:
    return graphs.call("MultilingualLoraLoader", unet=unet, lora_name=name, strength=1.0)


def graft_node(unet: Any, **options: Any) -> tuple[Any, str]:
    options = {"mode": "replace-kv", **options}
    multilingual = unet_node("multilingual")
    return graphs.call("MultilingualGraft", unet=unet, multilingual=multilingual, **options)


def test_before_and_after_the_graft_are_the_same(root: Path) -> None:
    community = unet_node("community")
    before, lines = graft_node(lora_node(community)[0])
    assert "LoRA style.safetensors: 2 of 4 layers left out" in lines
    after, report = lora_node(graft_node(community)[0])
    assert report.startswith("style.safetensors at 1: 2 layers changed\nnot used: keys and values")
    assert not changed(before.part, after.part)
    for layer in KEYS_VALUES:
        wanted = unet_tensors("sd1", "multilingual")[f"{layer}.weight"]
        assert torch.equal(weights(after.part)[layer], wanted)
    assert changed(after.part, graft_node(community)[0].part) == set(OTHERS)


def test_what_is_kept(root: Path) -> None:
    """By the user's wish, or since our own trainer taught it on multilingual tokens."""
    community = unet_node("community")
    plain, _ = graft_node(community)
    kept, lines = graft_node(lora_node(community)[0], keep_lora=True)
    assert changed(kept.part, plain.part) == set(LORA_LAYERS) and "LoRA" not in lines
    before, lines = graft_node(lora_node(community, "ours.safetensors")[0])
    after, report = lora_node(plain, "ours.safetensors")
    assert "LoRA" not in lines and report == "ours.safetensors at 1: 4 layers changed"
    assert changed(before.part, plain.part) == changed(after.part, plain.part) == set(LORA_LAYERS)


def test_where_nothing_is_grafted_a_lora_stays_whole(root: Path) -> None:
    """At strength 0 all of it; with the down blocks left out what it changes there."""
    with_lora, _ = lora_node(unet_node("community"))
    for options in ({"strength": 0.0}, {"down": 0.0}):
        found, lines = graft_node(with_lora, **options)
        assert not changed(found.part, with_lora.part) and "LoRA" not in lines
    assert not graft_node(with_lora, strength=0.0)[0].grafted


def test_a_query_keeps_its_lora_when_the_graft_takes_it_too(root: Path) -> None:
    community = unet_node("community")
    found, _ = graft_node(lora_node(community)[0], mode="replace-attn2")
    assert changed(found.part, graft_node(community, mode="replace-attn2")[0].part) == set(OTHERS)


def test_sockets_remember_the_graft(root: Path) -> None:
    loaded = unet_node("grafted")
    assert loaded.grafted and not unet_node("community").grafted
    assert lora_node(loaded)[1].startswith("style.safetensors at 1: 2 layers changed")
    grafted, _ = graft_node(unet_node("community"))
    once, _ = lora_node(grafted)
    assert "2 layers changed" in lora_node(once)[1]
    dual = graphs.call(
        "MultilingualDualUNet", unet=grafted, original=unet_node("community"), clip_weight=0.5
    )[0]
    assert "2 layers changed" in lora_node(dual)[1]


def test_a_lora_of_keys_and_values_alone_changes_nothing(root: Path) -> None:
    grafted = unet_node("grafted")
    folder = root / "loras" / "alone"
    write_lora(folder / "kv.safetensors", layers=KEYS_VALUES)
    found, report = lora_node(grafted, "alone/kv.safetensors")
    assert found is grafted and report.startswith("alone/kv.safetensors at 1: nothing changed\n")
    before, lines = graft_node(lora_node(unet_node("community"), "alone/kv.safetensors")[0])
    assert not isinstance(before.part, LoraDenoiser) and "2 of 2 layers left out" in lines


def test_our_trainer_notes_what_its_loras_learned_on(root: Path, tmp_path: Path) -> None:
    network = unet_node("multilingual").need().network
    add_lora(network, rank=1)
    write_trained(network, tmp_path / "trained.safetensors")
    with safe_open(tmp_path / "trained.safetensors", "pt") as file:
        assert OWN_NOTE in file.metadata()
