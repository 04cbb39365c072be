"""Full-size m9 of random weights, by hand (`pytest -m full -s`): 3 GB on disk, 4 GB of memory.

Each measurement runs in a process of its own, so that memory is that of loading alone.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from multilingual_diffusion.pipeline_core.models.configs import (
    ALT_TEXT,
    KL_F8_VAE,
    PNDM_SCHEDULER,
    SD1_UNET,
)
from safetensors.torch import save_file

pytestmark = pytest.mark.full

MEASURE = """
import json, sys, time
from pathlib import Path
import torch
import diffusers.models.unets.unet_2d_condition, diffusers.models.autoencoders.autoencoder_kl
import transformers.models.xlm_roberta.modeling_xlm_roberta
from multilingual_diffusion.pipeline_core.loading import parts
from multilingual_diffusion.pipeline_core.models.detect import detect

def memory():
    lines = Path("/proc/self/status").read_text().splitlines()
    return {line.split(":")[0]: int(line.split()[1]) / 1e6 for line in lines
            if line.startswith(("RssAnon", "VmRSS", "VmHWM"))}

dtype, before, start, work = sys.argv[2], memory(), time.perf_counter(), time.process_time()
found = detect(sys.argv[1])
loaded = [load(found, device="cpu", dtype=dtype)
          for load in (parts.load_text_network, parts.load_unet_network, parts.load_vae_network)]
seconds, work = time.perf_counter() - start, time.process_time() - work
size = sum(value.nbytes for part in loaded for value in part.network.parameters())
result = {"seconds": seconds, "cpu_seconds": work, "size": size / 1e9}
print(json.dumps({**result, "before": before, "after": memory()}))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write unet, vae and text encoder in fp16, as the published fp16 folders are."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from multilingual_diffusion.pipeline_core.text.encoders import ENCODERS

    path = tmp_path_factory.mktemp("full") / "AltDiffusion-m9"
    builders: dict[str, tuple[Any, dict[str, Any], str]] = {
        "unet": (lambda: UNet2DConditionModel(**SD1_UNET), SD1_UNET, "diffusion_pytorch_model"),
        "vae": (lambda: AutoencoderKL(**KL_F8_VAE), KL_F8_VAE, "diffusion_pytorch_model"),
        "text_encoder": (lambda: ENCODERS["altdiffusion"].build(ALT_TEXT), ALT_TEXT, "model"),
    }
    for part, (build, config, stem) in builders.items():
        (path / part).mkdir(parents=True)
        with torch.device("meta"):
            shapes = {name: value.shape for name, value in build().state_dict().items()}
        tensors = {name: torch.randn(shape).mul_(0.02).half() for name, shape in shapes.items()}
        save_file(tensors, path / part / f"{stem}.safetensors")
        (path / part / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (path / "scheduler").mkdir()
    (path / "scheduler" / "scheduler_config.json").write_text(
        json.dumps(PNDM_SCHEDULER), encoding="utf-8"
    )
    (path / "model_index.json").write_text('{"_class_name": "AltDiffusionPipeline"}', "utf-8")
    return path


def measure(folder: Path, dtype: str) -> dict[str, Any]:
    command = [sys.executable, "-c", MEASURE, str(folder), dtype]
    times = 5 if dtype == "keep" else 2
    runs = [
        subprocess.run(command, capture_output=True, check=True, text=True) for _ in range(times)
    ]
    results = [json.loads(run.stdout.splitlines()[-1]) for run in runs]
    best = min(results, key=lambda result: result["seconds"])
    sys.stdout.write(f"\n{dtype}: {json.dumps(best)}\n")
    return best


def test_loading_as_it_is_maps_the_files(folder: Path) -> None:
    result = measure(folder, "keep")
    assert result["cpu_seconds"] <= 0.3  # on an idle machine the same as seconds
    assert result["after"]["RssAnon"] - result["before"]["RssAnon"] <= 0.1
    assert result["after"]["VmRSS"] <= 0.9  # of it most is torch, diffusers and transformers


@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
def test_conversion_peaks_at_the_result(folder: Path, dtype: str) -> None:
    result = measure(folder, dtype)
    grown = result["after"]["RssAnon"] - result["before"]["RssAnon"]
    assert grown <= 1.1 * result["size"]  # the word table is not even converted
    assert result["after"]["VmHWM"] - result["before"]["VmRSS"] <= 1.1 * result["size"] + 0.6
