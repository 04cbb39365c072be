"""`run` and `convert` with the pack's own nodes on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import layouts
import pytest
from multilingual_diffusion.__main__ import main


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    layouts.write_diffusers_folder(root / "tiny-m9", "m9", weights="safetensors")
    return root


@pytest.fixture
def flow(tmp_path: Path) -> Path:
    nodes: dict[str, Any] = {
        "1": ("MultilingualModelLoader", {"model": "tiny-m9"}),
        "2": ("MultilingualTextEncode", {"text_encoder": ["1", 0], "text": "a dog"}),
        "3": ("MultilingualTextEncode", {"text_encoder": ["1", 0], "text": ""}),
        "4": (
            "MultilingualEmptyLatent",
            {"shape": "custom", "width": 64, "height": 64, "batch_size": 1},
        ),
        "5": (
            "MultilingualSampler",
            {
                "unet": ["1", 1], "positive": ["2", 0], "negative": ["3", 0],
                "latent_image": ["4", 0], "seed": 1, "steps": 2, "cfg": 7.5, "sampler": "ddim",
                "schedule": "model", "denoise": 1.0,
            },
        ),
        "6": ("MultilingualVAEDecode", {"vae": ["1", 2], "latent": ["5", 0]}),
        "7": ("MultilingualSaveImage", {"images": ["6", 0], "filename_prefix": "flow"}),
    }  # fmt: skip
    path = tmp_path / "flow.json"
    graph = {key: {"class_type": kind, "inputs": inputs} for key, (kind, inputs) in nodes.items()}
    path.write_text(json.dumps(graph), encoding="utf-8")
    return path


def test_a_workflow_runs_and_its_picture_runs_again(
    flow: Path, models: Path, tmp_path: Path, capsys
) -> None:
    common = ["--models-dir", str(models), "--output"]
    assert main(["run", str(flow), *common, str(tmp_path / "out")]) == 0
    first = next((tmp_path / "out").glob("*.png"))
    assert main(["run", str(first), *common, str(tmp_path / "again")]) == 0
    second = next((tmp_path / "again").glob("*.png"))
    assert first.read_bytes() == second.read_bytes()
    changes = ["--set", "5.seed=2", "--set", "2.text=a cat"]
    assert main(["run", str(flow), *common, str(tmp_path / "other"), *changes]) == 0
    assert next((tmp_path / "other").glob("*.png")).read_bytes() != first.read_bytes()


def test_dry_run_events_and_conversion(flow: Path, models: Path, tmp_path: Path, capsys) -> None:
    common = [str(flow), "--models-dir", str(models), "--output", str(tmp_path / "out")]
    assert main(["run", *common, "--dry-run"]) == 0
    assert not (tmp_path / "out").exists()
    capsys.readouterr()
    assert main(["run", *common, "--json"]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(events) > 10
    target = tmp_path / "api.json"
    assert main(["convert", str(flow), "--output", str(target)]) == 0
    assert json.loads(target.read_text(encoding="utf-8")).keys() == set("1234567")
    assert main(["convert", str(flow), "--output", str(target)]) == 2


def test_wrong_workflows_are_told_in_the_hosts_words(
    flow: Path, models: Path, tmp_path: Path, capsys
) -> None:
    common = ["--models-dir", str(models), "--output", str(tmp_path / "out")]
    assert main(["run", str(flow), *common, "--set", "5.sampler=dimm"]) == 1
    assert "value_not_in_list" in capsys.readouterr().err
    assert main(["run", str(flow), *common, "--set", "9.seed=1"]) == 2
    assert main(["run", str(flow), *common, "--set", "seed"]) == 2
    assert main(["run", str(tmp_path / "absent.json"), *common]) in (1, 4)
    assert not (tmp_path / "out").exists()
