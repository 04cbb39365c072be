"""Training in several processes: the same sizes at each step, and what Muon shares out."""

from __future__ import annotations

from pathlib import Path

import torch
from multilingual_diffusion.pipeline_core.training.loop import Position
from multilingual_diffusion.pipeline_core.training.optimizers import (
    Muon,
    orthogonalize,
    orthogonalize_all,
)
from torch import distributed, multiprocessing

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
