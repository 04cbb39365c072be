"""Training in several processes: sizes of a step, what Muon shares out, all stages of nano."""

from __future__ import annotations

import json
import math
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import torch
from multilingual_diffusion.pipeline_core.models.folders import NANO_FOLDER
from multilingual_diffusion.pipeline_core.training.loop import HISTORY, Position, read_history
from multilingual_diffusion.pipeline_core.training.nano.results import result_name
from multilingual_diffusion.pipeline_core.training.nano.stage_names import STAGES
from multilingual_diffusion.pipeline_core.training.nano.vocabulary import FILE_NAME
from multilingual_diffusion.pipeline_core.training.optimizers import (
    Muon,
    orthogonalize,
    orthogonalize_all,
)
from torch import distributed, multiprocessing

TOKENIZER = NANO_FOLDER / "tokenizer" / FILE_NAME
UNTRAINED = ("tokenizer", "latents")
SHAPES = ((8, 24), (24, 8), (16, 16), (4, 6), (32, 9))


def matrices() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(*shape, generator=generator) for shape in SHAPES]


def work(rank: int, folder: Path) -> None:
    """Be one of two processes: make all matrices orthogonal, take a step, write both down."""
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2
    )
    shared = orthogonalize_all(matrices())
    torch.save({"shared": shared, "stepped": stepped()}, folder / f"{rank}.pt")
    distributed.destroy_process_group()


def stepped() -> list[torch.Tensor]:
    """Return the matrices after two steps of Muon on fixed gradients."""
    parameters = [torch.nn.Parameter(matrix) for matrix in matrices()]
    muon = Muon(parameters, learning_rate=0.1, weight_decay=0.01)
    for step in (1, 2):
        for parameter in parameters:
            parameter.grad = parameter.detach().cos() * step
        muon.step()
    return [parameter.detach() for parameter in parameters]


def test_two_processes_share_the_orthogonal_matrices_out_and_step_as_one(tmp_path: Path) -> None:
    multiprocessing.spawn(work, args=(tmp_path,), nprocs=2)
    alone = stepped()
    for rank in (0, 1):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for one, matrix in zip(found["shared"], matrices(), strict=True):
            assert torch.equal(one, orthogonalize(matrix))
        for one, other in zip(found["stepped"], alone, strict=True):
            assert torch.equal(one, other)


def test_what_all_processes_share_changes_with_the_step_alone() -> None:
    values = {
        (step, process): Position(step, process, 2).shared_rng(0).random()
        for step in (0, 1)
        for process in (0, 1)
    }
    assert values[0, 0] == values[0, 1]
    assert values[1, 0] == values[1, 1]
    assert values[0, 0] != values[1, 0]


def test_two_processes_make_nano_together(tmp_path: Path) -> None:
    """Every stage takes a step or two, as with `torchrun --nproc-per-node 2`."""
    (tmp_path / "tokenizer").mkdir()
    shutil.copyfile(TOKENIZER, tmp_path / "tokenizer" / FILE_NAME)
    loop = {"steps": 2, "batch_size": 2, "sample_every": 0}
    plan = {name: loop for name in ("vae", "decoder", "teacher", "teacher_learning", "checker")}
    plan |= {name: {**loop, "pictures": 40} for name in ("base", "concept_alignment")}
    plan |= {name: {**loop, "pictures": 40} for name in ("quality", "guidance", "details")}
    (tmp_path / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
    command = ["-m", "multilingual_diffusion", "train", "nano", "--folder", ".", "--threads", "1"]
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    shared |= {"MASTER_PORT": str(free_port()), "ACCELERATE_USE_CPU": "true"}
    processes = [
        subprocess.Popen(
            [sys.executable, *command, "--plan", "plan.json"],
            cwd=tmp_path,
            env={**os.environ, **shared, "RANK": rank, "LOCAL_RANK": rank, "OMP_NUM_THREADS": "1"},
        )
        for rank in ("0", "1")
    ]
    try:
        assert [process.wait(600) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    done = {stage for stage in STAGES if (tmp_path / stage / result_name(stage)).is_file()}
    assert done == set(STAGES)
    for stage in STAGES:
        lines = read_history(tmp_path / stage / HISTORY)
        assert [line["step"] for line in lines] == ([] if stage in UNTRAINED else [2])  # by one
        assert all(math.isfinite(line["loss"]) for line in lines)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
