"""Loading a full-size m9 of random weights, by hand (`pytest -m full -s`): 3 GB disk, 6 memory.

Each measurement runs in a process of its own. A tiny model is loaded first, so that imports are
paid before; the files were just written, so they come from the page cache.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import full_size
import layouts
import pytest
import torch
from multilingual_diffusion.pipeline_core.models.specs import find_spec

pytestmark = pytest.mark.full

MEASURE = """
import json, sys, time
from pathlib import Path
from multilingual_diffusion.pipeline_core import load_pipeline

def memory():
    lines = Path("/proc/self/status").read_text().splitlines()
    return {line.split(":")[0]: int(line.split()[1]) / 1e6 for line in lines
            if line.startswith(("RssAnon", "VmRSS", "VmHWM"))}

tiny, folder, dtype = sys.argv[1:]
load_pipeline(tiny, device="cpu", dtype=dtype)
before, start, work = memory(), time.perf_counter(), time.process_time()
parts = load_pipeline(folder, device="cpu", dtype=dtype).parts
seconds, work = time.perf_counter() - start, time.process_time() - work
networks = [part.network for part in (parts.text_encoder, parts.unet, parts.vae)]
size = sum(value.nbytes for network in networks for value in network.parameters())
result = {"seconds": seconds, "cpu_seconds": work, "size": size / 1e9}
tokenizer = sorted(vars(parts.text_encoder.tokenizer))
print(json.dumps({**result, "tokenizer": tokenizer, "before": before, "after": memory()}))
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return a tiny and a full-size m9 folder; the latter in fp16, as the published ones are."""
    root = tmp_path_factory.mktemp("full")
    tiny = layouts.write_diffusers_folder(
        root / "tiny", "m9", weights="safetensors", safety_checker=False
    )
    spec = find_spec("altdiffusion-m9")
    return tiny, full_size.write_folder(root / "AltDiffusion-m9", spec, torch.float16)


def measure(folders: tuple[Path, Path], dtype: str, times: int) -> dict[str, Any]:
    """Return the fastest of several loads."""
    command = [sys.executable, "-c", MEASURE, *map(str, folders), dtype]
    runs = [
        subprocess.run(command, capture_output=True, check=True, text=True) for _ in range(times)
    ]
    results = [json.loads(run.stdout.splitlines()[-1]) for run in runs]
    best = min(results, key=lambda result: result["seconds"])
    sys.stdout.write(f"\n{dtype}, best of {times}: {json.dumps(best)}\n")
    return best


def test_loading_as_it_is_maps_the_files(folders: tuple[Path, Path]) -> None:
    result = measure(folders, "keep", 5)
    assert result["seconds"] <= 0.3
    assert result["tokenizer"] == ["path"]  # nothing of it was read yet
    assert result["after"]["RssAnon"] - result["before"]["RssAnon"] <= 0.1
    assert result["after"]["VmRSS"] <= 0.9  # of it most is torch, diffusers and transformers


@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
def test_conversion_peaks_at_the_result(folders: tuple[Path, Path], dtype: str) -> None:
    result = measure(folders, dtype, 2)
    grown = result["after"]["RssAnon"] - result["before"]["RssAnon"]
    assert grown <= 1.1 * result["size"]  # the word table is not even converted
    assert result["after"]["VmHWM"] - result["before"]["VmRSS"] <= 1.1 * result["size"] + 0.6
