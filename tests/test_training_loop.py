"""The loop: exact resume, the average's ramp, warm-up, histories, both optimizers."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import tiny
import torch
from multilingual_diffusion.pipeline_core.errors import InvalidRequest
from multilingual_diffusion.pipeline_core.training.average import Average
from multilingual_diffusion.pipeline_core.training.denoising import DenoisingBatch, DenoisingTask
from multilingual_diffusion.pipeline_core.training.loop import (
    CHECKPOINT,
    HISTORY,
    LoopOptions,
    Position,
    read_history,
    run_stage,
)
from multilingual_diffusion.pipeline_core.training.optimizers import (
    Muon,
    make_optimizers,
    orthogonalize,
)
from multilingual_diffusion.pipeline_core.training.plots import plot_history

SMALL = {
    "block_out_channels": [32, 32],
    "layers_per_block": 1,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
    "cross_attention_dim": 8,
    "attention_head_dim": 4,
}


class Noise:
    """A latent source whose batch follows from the position alone."""

    def batch(self, position: Position, size: int) -> DenoisingBatch:
        rng = position.rng(5)
        generator = torch.Generator().manual_seed(rng.getrandbits(62))
        latents = torch.randn(size, 4, 8, 8, generator=generator) * 0.3 + 0.5
        return DenoisingBatch(latents, torch.randn(size, 5, 8, generator=generator))


def small_unet() -> torch.nn.Module:
    unet = tiny.unet({**tiny.UNET, **SMALL})
    return unet.requires_grad_(True)


def task() -> DenoisingTask:
    return DenoisingTask(small_unet(), Noise(), tiny.SCHEDULER)


def options(**values: object) -> LoopOptions:
    defaults = {
        "steps": 6,
        "batch_size": 2,
        "warmup_steps": 2,
        "log_every": 1,
        "learning_rate": 1e-3,
    }
    return LoopOptions(**{**defaults, **values})  # type: ignore[arg-type]


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_stopped_run_continues_bit_for_bit(tmp_path: Path, optimizer: str) -> None:
    whole, parts = task(), task()
    run_stage(whole, options(optimizer=optimizer), tmp_path / "whole")
    run_stage(parts, options(optimizer=optimizer), tmp_path / "parts", stop_at=3)
    resumed = task()  # a new process would start from fresh modules too
    run_stage(resumed, options(optimizer=optimizer), tmp_path / "parts")
    states = [
        torch.load(tmp_path / name / CHECKPOINT, weights_only=True) for name in ("whole", "parts")
    ]
    for field in ("parameters", "average"):
        for name, value in states[0][field].items():
            assert torch.equal(value, states[1][field][name]), (field, name)
    assert states[0]["step"] == states[1]["step"] == 6
    losses = [
        [line["loss"] for line in read_history(tmp_path / name / HISTORY)]
        for name in ("whole", "parts")
    ]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 6


def test_a_lost_optimizer_state_would_be_seen(tmp_path: Path) -> None:
    run_stage(task(), options(), tmp_path / "whole")
    run_stage(task(), options(), tmp_path / "parts", stop_at=3)
    path = tmp_path / "parts" / CHECKPOINT
    state = torch.load(path, weights_only=True)
    for entry in state["optimizers"][0]["state"].values():
        entry["exp_avg"].zero_()
    torch.save(state, path)
    run_stage(task(), options(), tmp_path / "parts")
    whole, parts = (
        torch.load(tmp_path / name / CHECKPOINT, weights_only=True)["parameters"]
        for name in ("whole", "parts")
    )
    assert any(not torch.equal(whole[name], parts[name]) for name in whole)


def test_learning_lowers_the_loss(tmp_path: Path) -> None:
    run_stage(task(), options(steps=60, batch_size=8, optimizer="muon"), tmp_path)
    losses = [line["loss"] for line in read_history(tmp_path / HISTORY)]
    assert sum(losses[-10:]) < 0.7 * sum(losses[:10])


def test_a_checkpoint_of_another_stage_is_refused(tmp_path: Path) -> None:
    run_stage(task(), options(), tmp_path, stop_at=1)
    other = task()
    other.network.conv_in.requires_grad_(False)  # type: ignore[union-attr, operator]
    with pytest.raises(InvalidRequest, match="another stage"):
        run_stage(other, options(), tmp_path)


def test_nothing_to_train_is_an_error(tmp_path: Path) -> None:
    frozen = task()
    frozen.network.requires_grad_(False)
    with pytest.raises(InvalidRequest, match="nothing to train"):
        run_stage(frozen, options(), tmp_path)


def test_the_sampler_sees_the_averages_and_the_run_does_not(tmp_path: Path) -> None:
    seen: list[torch.Tensor] = []

    def on_sample(step: int, network: torch.nn.Module, folder: Path) -> None:
        seen.append(network.conv_out.weight.detach().clone())  # type: ignore[union-attr]

    run_stage(task(), options(steps=4, sample_every=4), tmp_path / "a", on_sample=on_sample)
    run_stage(task(), options(steps=4), tmp_path / "b")
    a, b = (torch.load(tmp_path / name / CHECKPOINT, weights_only=True) for name in "ab")
    assert torch.equal(seen[0], a["average"]["conv_out.weight"])
    assert torch.equal(a["parameters"]["conv_out.weight"], b["parameters"]["conv_out.weight"])


def test_accumulated_batches_make_one_step(tmp_path: Path) -> None:
    run_stage(task(), options(steps=2, accumulation=3), tmp_path)
    assert len(read_history(tmp_path / HISTORY)) == 2


def test_the_average_follows_the_ramp_of_the_published_trainer() -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    average = Average({"p": parameter}, decay=0.9999)
    expected = 0.0
    for step in range(50):
        with torch.no_grad():
            parameter.fill_(float(step))
        decay = min(0.9999, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
        average.update({"p": parameter}, step)
    assert float(average.values["p"]) == pytest.approx(expected, rel=1e-5)


def test_learning_rate_warms_up_and_falls() -> None:
    constant = options(steps=100, warmup_steps=10)
    assert [constant.learning_rate_share(step) for step in (0, 4, 9, 10, 99)] == [0.1, 0.5, 1, 1, 1]
    cosine = options(steps=110, warmup_steps=10, decay="cosine", final_share=0.0)
    assert cosine.learning_rate_share(60) == pytest.approx(0.5)
    assert cosine.learning_rate_share(110) == pytest.approx(0.0)
    tail = options(steps=100, warmup_steps=10, decay="cosine", decay_share=0.4, final_share=0.0)
    assert [tail.learning_rate_share(step) for step in (10, 59, 60)] == [1, 1, 1]
    assert tail.learning_rate_share(80) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("name", "value"),
    [("steps", 0), ("batch_size", 0), ("accumulation", 0), ("ema_decay", 1.0), ("log_every", 0)],
)
def test_bad_options_fail_at_once(name: str, value: float) -> None:
    with pytest.raises(InvalidRequest, match=name):
        options(**{name: value})


@pytest.mark.parametrize("shape", [(8, 24), (24, 8), (16, 16)])
def test_orthogonalized_matrices_have_singular_values_near_one(shape: tuple[int, int]) -> None:
    matrix = torch.randn(*shape, generator=torch.Generator().manual_seed(1))
    values = torch.linalg.svdvals(orthogonalize(matrix))
    assert values.max() < 1.3
    assert values.min() > 0.3
    assert torch.linalg.svdvals(matrix).max() > 1.5 * torch.linalg.svdvals(matrix).min()


def test_muon_takes_matrices_and_leaves_tables_norms_and_ends_to_adamw() -> None:
    named = dict(small_unet().named_parameters())
    adamw, muon = make_optimizers(named, options(optimizer="muon"))
    assert isinstance(muon, Muon)
    chosen = {id(p) for p in muon.param_groups[0]["params"]}
    matrices = {name for name, value in named.items() if id(value) in chosen}
    assert matrices
    assert all(named[name].ndim >= 2 for name in matrices)
    assert not any("conv_in" in name or "conv_out" in name for name in matrices)
    assert len(chosen) + len(adamw.param_groups[0]["params"]) == len(named)


def test_a_history_is_drawn(tmp_path: Path) -> None:
    from PIL import Image

    run_stage(task(), options(), tmp_path)
    plot_history([tmp_path / HISTORY], tmp_path / "curve.png")
    with Image.open(tmp_path / "curve.png") as picture:
        assert picture.size == (800, 400)
    with pytest.raises(InvalidRequest, match="nothing"):
        plot_history([tmp_path / HISTORY], tmp_path / "curve.png", value="nothing")
    assert all(math.isfinite(line["loss"]) for line in read_history(tmp_path / HISTORY))
