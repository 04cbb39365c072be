"""The training loop of every stage: a task and options in, a folder with checkpoints out.

Plain PyTorch over accelerate, so one command runs on a CPU, a GPU or many machines. The data and
the random numbers of a step follow from (seed, step, process) alone: the step number is the data
position, and a resumed run continues bit for bit.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch

from ..errors import InvalidRequest
from .average import Average
from .checkpoints import read_checkpoint, write_checkpoint
from .optimizers import OptimizerName, make_optimizers
from .processes import load_accelerate

_log = logging.getLogger("multilingual_diffusion")

CHECKPOINT, HISTORY = "checkpoint.pt", "history.jsonl"


@dataclass(frozen=True, kw_only=True)
class LoopOptions:
    """How a stage runs, whatever it learns. The defaults are those of AltDiffusion-m18."""

    steps: int  # optimizer steps
    batch_size: int = 64  # samples a step takes in each process
    accumulation: int = 1  # batches summed before a step
    optimizer: OptimizerName = "adamw"
    learning_rate: float = 1e-4  # of AdamW, after the warm-up
    matrix_learning_rate: float = 0.02  # of Muon's matrices; unused by AdamW alone
    betas: tuple[float, float] = (0.9, 0.999)  # of AdamW
    weight_decay: float = 1e-2
    warmup_steps: int = 100  # linear, from 0
    decay: Literal["constant", "cosine"] = "constant"  # after the warm-up
    decay_share: float = 1.0  # of the steps, the last ones, over which a cosine falls
    final_share: float = 0.02  # of the learning rate, where a cosine ends
    max_gradient_norm: float = 1.0
    ema_decay: float = 0.9999  # reached by the ramp (1 + n) / (10 + n)
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    seed: int = 0
    log_every: int = 20  # steps between two lines of the history
    checkpoint_every: int = 500
    sample_every: int = 0  # steps between two sample sheets; 0: none

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulation", "log_every", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise InvalidRequest(f"{name} is {getattr(self, name)}; it must be 1 or more")
        if not 0 <= self.ema_decay < 1:
            raise InvalidRequest(f"ema_decay is {self.ema_decay}; it must lie in 0 .. 1, below 1")

    def learning_rate_share(self, step: int) -> float:
        """Return the share of the learning rate that step `step` (from 0) takes, 0..1."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        if self.decay == "constant":
            return 1.0
        begin = max(self.warmup_steps, round(self.steps * (1 - self.decay_share)))
        progress = (step - begin) / max(1, self.steps - begin)
        cosine = (1 + math.cos(math.pi * min(1.0, max(0.0, progress)))) / 2
        return self.final_share + (1 - self.final_share) * cosine


@dataclass(frozen=True)
class Position:
    """Where a batch stands: everything random in it follows from these three numbers."""

    step: int  # counts batches; with accumulation there are several a step of the optimizer
    process: int = 0
    processes: int = 1

    def rng(self, seed: int) -> random.Random:
        """Return the random numbers of this batch."""
        return random.Random(f"{seed}/{self.step}/{self.process}")

    def shared_rng(self, seed: int) -> random.Random:
        """Return the random numbers that all processes have in common at this step."""
        return random.Random(f"{seed}/{self.step}")


class Task(Protocol):
    """What a stage learns. `network` holds what trains: parameters that require gradients."""

    @property
    def network(self) -> torch.nn.Module: ...

    def batch(self, position: Position, size: int) -> Any:
        """Return the batch at a position; a pure function of it."""
        ...

    def loss(self, network: torch.nn.Module, batch: Any) -> dict[str, torch.Tensor]:
        """Return "loss", and further scalars for the history; torch's generator is seeded."""
        ...


# Called with (step, network, folder) every `sample_every` steps, the average's weights in place.
Sampler = Callable[[int, torch.nn.Module, Path], None]


def run_stage(
    task: Task,
    options: LoopOptions,
    folder: Path,
    *,
    on_sample: Sampler | None = None,
    stop_at: int | None = None,
) -> Average:
    """Train until `options.steps`, continuing from the folder's checkpoint where there is one.

    Args:
        stop_at: write a checkpoint and return at this step; the next call continues there.

    Returns:
        the average of the trained parameters.

    Raises:
        MissingDependency: accelerate is not installed.
        InvalidRequest: nothing in the network trains, or the checkpoint is of another run.
    """
    accelerator = load_accelerate().Accelerator(mixed_precision=options.mixed_precision)
    folder.mkdir(parents=True, exist_ok=True)
    trained = {n: p for n, p in task.network.named_parameters() if p.requires_grad}
    if not trained:
        raise InvalidRequest("no parameter of the network requires gradients: nothing to train")
    optimizers = make_optimizers(trained, options)
    average = Average(trained, options.ema_decay)
    start = read_checkpoint(folder / CHECKPOINT, trained, optimizers, average)
    network, *optimizers = accelerator.prepare(task.network.train(), *optimizers)
    average.to(accelerator.device)
    last = min(options.steps, stop_at or options.steps)
    history = _History(folder / HISTORY, start, enabled=accelerator.is_main_process)
    for step in _progress(start, last, options.steps, folder.name, accelerator):
        numbers = _step(task, network, optimizers, options, step, accelerator)
        average.update(trained, step)
        done = step + 1
        if done % options.log_every == 0 or done == last:
            history.write(done, numbers)
        if accelerator.is_main_process and (done % options.checkpoint_every == 0 or done == last):
            write_checkpoint(folder / CHECKPOINT, done, trained, optimizers, average)
        due = options.sample_every and done % options.sample_every == 0
        if on_sample and due and accelerator.is_main_process:
            _sample(on_sample, done, task.network, trained, average, folder)
    accelerator.wait_for_everyone()
    task.network.train(False)
    return average


def _step(
    task: Task,
    network: torch.nn.Module,
    optimizers: list[Any],
    options: LoopOptions,
    step: int,
    accelerator: Any,
) -> dict[str, torch.Tensor]:
    """Take one step of the optimizers; return the scalars of its last batch."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * options.learning_rate_share(step)
    numbers: dict[str, torch.Tensor] = {}
    for part in range(options.accumulation):
        position = Position(
            step * options.accumulation + part, accelerator.process_index, accelerator.num_processes
        )
        torch.manual_seed(_seed(options.seed, position))
        batch = task.batch(position, options.batch_size)
        with accelerator.autocast():
            numbers = task.loss(network, batch)
        accelerator.backward(numbers["loss"] / options.accumulation)
    parameters = [p for p in network.parameters() if p.requires_grad]
    accelerator.clip_grad_norm_(parameters, options.max_gradient_norm)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return numbers


def _seed(seed: int, position: Position) -> int:
    text = f"{seed}/{position.step}/{position.process}".encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "little")


def _sample(
    on_sample: Sampler,
    step: int,
    network: torch.nn.Module,
    trained: dict[str, torch.nn.Parameter],
    average: Average,
    folder: Path,
) -> None:
    """Hand the network with its averaged weights to `on_sample`, then put the others back."""
    network.train(False)
    with average.applied(trained), torch.no_grad():
        on_sample(step, network, folder)
    network.train()


def _progress(start: int, last: int, total: int, name: str, accelerator: Any) -> Any:
    from tqdm import tqdm

    return tqdm(
        range(start, last),
        initial=start,
        total=total,
        desc=name,
        mininterval=5,
        disable=not accelerator.is_main_process,
    )


class _History:
    """Appends one JSON line a report; lines past the checkpoint of a resumed run are dropped."""

    def __init__(self, path: Path, start: int, *, enabled: bool) -> None:
        self.path, self.enabled, self.began = path, enabled, time.monotonic()
        if enabled:
            kept = [line for line in read_history(path) if line["step"] <= start]
            self.offset = kept[-1]["seconds"] if kept else 0.0
            text = "".join(json.dumps(line) + "\n" for line in kept)
            path.write_text(text, encoding="utf-8")

    def write(self, step: int, numbers: dict[str, torch.Tensor]) -> None:
        if not self.enabled:
            return
        seconds = self.offset + time.monotonic() - self.began
        line = {"step": step, "seconds": round(seconds, 2)}
        line |= {name: float(f"{float(value.detach()):.6g}") for name, value in numbers.items()}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def read_history(path: Path) -> list[dict[str, float]]:
    """Return the lines of a run's history, oldest first; none where there is no file."""
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]
