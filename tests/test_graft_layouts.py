"""The graft of files in every layout that loads: shards, pickles, averaged weights, many reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import layouts
import pytest
import tiny
import torch
from graft_models import (
    assert_bits,
    parents_of,
    unet_of,
    unet_tensors,
    write_checkpoint,
    write_family,
    write_folder,
)
from multilingual_diffusion.pipeline_core.graft import parents as parents_module
from multilingual_diffusion.pipeline_core.graft.files import grafted_plan
from multilingual_diffusion.pipeline_core.graft.parents import open_parents
from multilingual_diffusion.pipeline_core.graft.recipe import GraftRecipe
from multilingual_diffusion.pipeline_core.graft.write import write_graft
from multilingual_diffusion.pipeline_core.models.detect import detect
from multilingual_diffusion.pipeline_core.sources import LoadOptions
from safetensors.torch import load_file, save_file

OPTIONS = LoadOptions()
FULL = GraftRecipe("delta-all")


@pytest.fixture(scope="module")
def sd1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_family(tmp_path_factory.mktemp("only-sd1"), "sd1")


def test_averaged_weights_are_left_out(sd1: Path, tmp_path: Path) -> None:
    write_checkpoint(
        tmp_path / "community.safetensors",
        "sd1",
        unet_tensors("sd1", "community"),
        lambda tensors: tensors | layouts.ema_tensors("m9"),
    )
    place = tmp_path / "community.safetensors"
    parents = open_parents(place, sd1 / "multilingual", None, OPTIONS)
    report = write_graft(parents, GraftRecipe("replace-kv"), tmp_path / "x.safetensors")
    assert any("EMA" in note for note in report.notes)
    assert not detect(tmp_path / "x.safetensors").has_ema


def test_shards_and_pickles(sd1: Path, tmp_path: Path) -> None:
    """The same graft from any layout that loads."""
    write_graft(parents_of(sd1), FULL, tmp_path / "wanted")
    options = LoadOptions(allow_pickle=True)
    torch.save({"state_dict": load_file(sd1 / "community.safetensors")}, tmp_path / "c.ckpt")
    base = unet_tensors("sd1", "base")
    write_folder(tmp_path / "base", "sd1", base)
    names, folder = list(base), tmp_path / "base" / "unet"
    (folder / "diffusion_pytorch_model.safetensors").unlink()
    halves = {1: names[1::2], 2: names[0::2]}
    weight_map = {}
    for number, part in halves.items():
        file = f"diffusion_pytorch_model-0000{number}-of-00002.safetensors"
        save_file({name: base[name] for name in part}, folder / file)
        weight_map |= dict.fromkeys(part, file)
    tiny.write_json(
        folder / "diffusion_pytorch_model.safetensors.index.json", {"weight_map": weight_map}
    )
    places = (tmp_path / "c.ckpt", sd1 / "multilingual", tmp_path / "base")
    write_graft(open_parents(*places, options), FULL, tmp_path / "x", allow_pickle=True)
    assert_bits(unet_of(tmp_path / "x"), unet_of(tmp_path / "wanted"))


def test_files_that_are_opened_anew_give_the_same(
    sd1: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = grafted_plan(parents_of(sd1), FULL).source
    wanted = dict(source.stream([*source.tensors]))
    opened: list[int] = []
    open_weights = parents_module.open_weights

    def count(*arguments: Any, **options: Any) -> Any:
        opened.append(1)
        return open_weights(*arguments, **options)

    monkeypatch.setattr(parents_module, "open_weights", count)
    monkeypatch.setattr(parents_module, "RENEW_BYTES", 500_000)
    source = grafted_plan(parents_of(sd1), FULL).source
    assert_bits(dict(source.stream([*source.tensors])), wanted)
    assert len(opened) > 5
