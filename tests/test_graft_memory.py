"""A graft of files takes the memory of a few tensors, whatever the size of the UNets."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import torch
from diffusers import UNet2DConditionModel
from graft_models import write_folder

MEMORY = """
import re, sys, torch
from pathlib import Path
from multilingual_diffusion.pipeline_core.graft.parents import open_parents
from multilingual_diffusion.pipeline_core.graft.recipe import GraftRecipe, Strengths
from multilingual_diffusion.pipeline_core.graft.write import write_graft
from multilingual_diffusion.pipeline_core.sources import LoadOptions

def used():
    return int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024

root = Path(sys.argv[1])
parents = open_parents(root / "base", root / "multilingual", root / "base", LoadOptions())
whole = write_graft(parents, GraftRecipe("delta-kv"), root / "first")  # whatever stays stays now
before, peak = used(), 0.0
def look(done, total):
    global peak
    peak = max(peak, used() - before)
recipe = GraftRecipe("delta-all", Strengths.of(0.5))
report = write_graft(parents, recipe, root / "x", progress=look)
print(report.nbytes / 2**20, peak)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_that_of_a_few_tensors(tmp_path: Path) -> None:
    config = {**tiny.UNET_M9, "block_out_channels": [64, 96, 128, 224]}
    with torch.device("meta"):
        shapes = UNet2DConditionModel(**config).state_dict()
    unet = {name: torch.rand(value.shape) for name, value in shapes.items()}
    for role, model in (("base", "sd1"), ("multilingual", "m9")):
        write_folder(tmp_path / role, model, unet)
        tiny.write_json(tmp_path / role / "unet" / "config.json", config)
    run = subprocess.run(
        [sys.executable, "-c", MEMORY, str(tmp_path)], capture_output=True, text=True, check=True
    )
    size, peak = map(float, run.stdout.split())
    assert size > 50 and peak < 0.5 * size, (size, peak)  # a second copy would be all of it
