"""The stage that fits nano's decoder to what its UNet makes of latents."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from multilingual_diffusion.pipeline_core.models.folders import NANO_FOLDER
from multilingual_diffusion.pipeline_core.training.autoencoding import build_vae
from multilingual_diffusion.pipeline_core.training.loop import Position
from multilingual_diffusion.pipeline_core.training.nano.configs import VAE
from multilingual_diffusion.pipeline_core.training.nano.decoder import DecodingBatch, DecodingTask
from multilingual_diffusion.pipeline_core.training.nano.export import export_run
from multilingual_diffusion.pipeline_core.training.nano.plan import NanoPlan
from multilingual_diffusion.pipeline_core.training.nano.recipe import train_nano
from multilingual_diffusion.pipeline_core.training.nano.results import (
    RESULT,
    latest_unet,
    load_result,
    load_vae,
)
from multilingual_diffusion.pipeline_core.training.nano.scenes import make_encoder
from multilingual_diffusion.pipeline_core.training.nano.start import start_from
from multilingual_diffusion.pipeline_core.training.nano.unet_stages import load_source
from multilingual_diffusion.pipeline_core.training.nano.vocabulary import FILE_NAME
from safetensors.torch import load_file

TOKENIZER = NANO_FOLDER / "tokenizer" / FILE_NAME

pytestmark = pytest.mark.skipif(not TOKENIZER.is_file(), reason="nano is not in this checkout")


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> DecodingTask:
    """Make the task over the shipped networks and a handful of scenes."""
    folder = tmp_path_factory.mktemp("run")
    start_from(NANO_FOLDER, folder)
    source = load_source(folder, replace(NanoPlan().details, pictures=40), "latents")
    return DecodingTask(load_vae(folder), latest_unet(folder), source, absolute_weight=0.5)


def test_a_batch_shows_the_pictures_of_its_latents(task: DecodingTask) -> None:
    batch = task.batch(Position(3), 6)
    latents = make_encoder(task.network.vae)(batch.pixels / 2 + 0.5)
    assert torch.allclose(latents, batch.latents, atol=5e-3)  # cached in half precision
    other = task.batch(Position(4), 6)
    assert not torch.equal(other.latents, batch.latents)
    assert torch.equal(task.batch(Position(3), 6).pixels, batch.pixels)


def test_guesses_are_near_the_latents_but_not_the_same(task: DecodingTask) -> None:
    batch = task.batch(Position(0), 8)
    torch.manual_seed(0)
    error = (task.guess(batch) - batch.latents).square().mean((1, 2, 3)).sqrt()
    spread = float(batch.latents.std())
    assert (error > 0.01 * spread).all()
    assert (error < 0.4 * spread).all()


def test_the_loss_is_that_of_the_picture_drawn_from_the_guess(task: DecodingTask) -> None:
    batch = task.batch(Position(1), 4)
    torch.manual_seed(5)
    made = task.network(task.guess(batch))
    torch.manual_seed(5)
    losses = task.loss(task.network, batch)
    error = made - batch.pixels
    assert torch.allclose(losses["squared"], error.square().mean())
    assert torch.allclose(losses["loss"], losses["squared"] + 0.5 * error.abs().mean())
    far = DecodingBatch(-batch.pixels, batch.latents, batch.states)
    assert task.loss(task.network, far)["loss"] > 2 * losses["loss"]


def test_the_decoder_alone_learns_and_is_what_a_run_exports(tmp_path: Path) -> None:
    start_from(NANO_FOLDER, tmp_path)
    plan = NanoPlan()
    few = replace(plan.decoder, steps=2, batch_size=2, warmup_steps=1, sample_every=0)
    plan = replace(plan, decoder=few, details=replace(plan.details, pictures=40))
    unet = latest_unet(tmp_path).state_dict()
    train_nano(tmp_path, plan, only="decoder")
    before = load_result(build_vae(VAE), tmp_path / "vae").state_dict()
    after = load_vae(tmp_path).state_dict()
    changed = {name.split(".")[0] for name in after if not torch.equal(after[name], before[name])}
    assert changed == {"decoder", "post_quant_conv"}
    assert (tmp_path / "decoder" / RESULT).is_file()
    export_run(tmp_path, tmp_path / "model")
    exported = load_file(tmp_path / "model/vae/diffusion_pytorch_model.safetensors")
    assert all(torch.equal(exported[name], value.half()) for name, value in after.items())
    assert all(torch.equal(unet[k], v) for k, v in latest_unet(tmp_path).state_dict().items())
