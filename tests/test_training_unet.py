"""The UNet recipes: what trains, losses, buckets, datasets, caches, LoRA, DreamBooth."""

from __future__ import annotations

import io
import json
import random
import tarfile
from pathlib import Path

import pytest
import tiny
import torch
from multilingual_diffusion.pipeline_core.errors import (
    FileRefused,
    InvalidRequest,
    ModelNotFound,
    UnknownName,
)
from multilingual_diffusion.pipeline_core.training.buckets import (
    crop_to,
    make_buckets,
    nearest_bucket,
)
from multilingual_diffusion.pipeline_core.training.caches import CachedSource, cache_dataset
from multilingual_diffusion.pipeline_core.training.datasets import CAPTIONS, read_dataset
from multilingual_diffusion.pipeline_core.training.denoising import DenoisingBatch, DenoisingTask
from multilingual_diffusion.pipeline_core.training.dreambooth import DreamBoothSource
from multilingual_diffusion.pipeline_core.training.loop import LoopOptions, Position, run_stage
from multilingual_diffusion.pipeline_core.training.lora import (
    add_lora,
    lora_tensors,
    merge_lora,
    write_lora,
)
from multilingual_diffusion.pipeline_core.training.losses import (
    NoiseLevels,
    diffusion_loss,
    loss_weights,
)
from multilingual_diffusion.pipeline_core.training.selection import train_only
from multilingual_diffusion.pipeline_core.training.sheets import GAP, sheet_sampler
from PIL import Image

WIDTH = tiny.UNET_M18["cross_attention_dim"]


class Noise:
    """Latents and states that follow from the position."""

    def __init__(self, mean: float = 0.0) -> None:
        self.mean = mean

    def batch(self, position: Position, size: int) -> DenoisingBatch:
        generator = torch.Generator().manual_seed(position.step)
        latents = torch.randn(size, 4, 8, 8, generator=generator) + self.mean
        return DenoisingBatch(latents, torch.randn(size, 5, WIDTH, generator=generator))


def run(unet: torch.nn.Module, folder: Path, steps: int = 2) -> None:
    task = DenoisingTask(unet, Noise(), tiny.SCHEDULER)
    run_stage(task, LoopOptions(steps=steps, batch_size=2, learning_rate=1e-3), folder)


def test_concept_alignment_changes_keys_and_values_of_cross_attention_and_nothing_else(
    tmp_path: Path,
) -> None:
    unet = tiny.unet(tiny.UNET_M18)
    before = {name: value.clone() for name, value in unet.state_dict().items()}
    train_only(unet, "cross-attention-kv")
    run(unet, tmp_path)
    changed = {name for name, value in unet.state_dict().items() if not value.equal(before[name])}
    expected = {
        f"{name}.{part}.weight"
        for name, module in unet.named_modules()
        if name.endswith("attn2") and hasattr(module, "to_k")
        for part in ("to_k", "to_v")
    }
    assert changed == expected
    assert len(expected) == 2 * 16  # down 3 x 2, middle 1, up 3 x 3 cross-attentions


def test_the_published_filter_would_have_changed_more() -> None:
    unet = tiny.unet(tiny.UNET_M18)
    always = bool("to_k")  # what `"to_k" or "to_v" in name` comes to
    published = {name for name, _ in unet.named_parameters() if always and "attn2" in name}
    assert set(train_only(unet, "cross-attention-kv")) < published


def test_quality_changes_every_tensor(tmp_path: Path) -> None:
    unet = tiny.unet(tiny.UNET_M18)
    before = {name: value.clone() for name, value in unet.state_dict().items()}
    train_only(unet, "all")
    run(unet, tmp_path, steps=1)
    same = [name for name, value in unet.state_dict().items() if value.equal(before[name])]
    assert same == []


def test_selections_are_named_and_found() -> None:
    with pytest.raises(UnknownName, match="cross-attention-kv"):
        train_only(tiny.unet(), "kv")  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest, match="no parameter"):
        train_only(torch.nn.Conv2d(1, 1, 1), "cross-attention-kv")


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_targets_equal_diffusers(prediction_type: str) -> None:
    from diffusers import DDPMScheduler

    reference = DDPMScheduler.from_config(tiny.SCHEDULER)
    levels = NoiseLevels(tiny.SCHEDULER)
    generator = torch.Generator().manual_seed(0)
    latents, noise = torch.randn(2, 6, 4, 8, 8, generator=generator)
    timesteps = torch.tensor([0, 10, 300, 500, 900, 999])
    alpha, sigma = levels.alpha_sigma(timesteps)
    noised = reference.add_noise(latents, noise, timesteps)
    assert torch.allclose(alpha * latents + sigma * noise, noised, atol=1e-6)
    target = noise
    if prediction_type == "v_prediction":
        target = reference.get_velocity(latents, noise, timesteps)
    loss = diffusion_loss(target, latents, noise, alpha, sigma, prediction_type, "uniform")  # type: ignore[arg-type]
    assert float(loss) < 1e-10
    other = diffusion_loss(target + 1, latents, noise, alpha, sigma, prediction_type, "uniform")  # type: ignore[arg-type]
    assert float(other) == pytest.approx(1.0, rel=1e-4)


def test_min_snr_weights_are_those_of_the_paper_for_both_predictions() -> None:
    snr = torch.tensor([0.01, 1.0, 5.0, 100.0])
    on_noise = loss_weights(snr, "epsilon", "min-snr")
    on_v = loss_weights(snr, "v_prediction", "min-snr")
    assert torch.allclose(on_noise, torch.tensor([1.0, 1.0, 1.0, 0.05]))
    assert torch.allclose(on_v, snr.clamp(max=5.0) / (snr + 1))
    assert torch.equal(loss_weights(snr, "epsilon", "uniform"), torch.ones(4))
    with pytest.raises(UnknownName, match="min-snr"):
        loss_weights(snr, "epsilon", "min_snr")  # type: ignore[arg-type]


def test_timesteps_of_a_batch_cover_all_levels_evenly() -> None:
    torch.manual_seed(0)
    timesteps = NoiseLevels(tiny.SCHEDULER).draw_timesteps(10, torch.device("cpu"))
    assert sorted(int(t) // 100 for t in timesteps) == list(range(10))


def test_a_power_below_one_draws_more_of_the_noisy_timesteps() -> None:
    draw = NoiseLevels(tiny.SCHEDULER).draw_timesteps
    even, noisy = (
        torch.cat([draw(10, torch.device("cpu"), power) for _ in range(100)]).double() / 1000
        for power in (1.0, 0.5)
    )
    assert abs(even.mean() - 1 / 2) < 0.02
    assert abs(noisy.mean() - 2 / 3) < 0.02  # the density of a root is 2 t
    assert abs((noisy < 0.5).double().mean() - 1 / 4) < 0.05
    assert noisy.max() < 1


def test_lora_starts_as_nothing_trains_alone_and_merges(tmp_path: Path) -> None:
    unet = tiny.unet(tiny.UNET_M18)
    before = {name: value.clone() for name, value in unet.state_dict().items()}
    inputs = (torch.randn(1, 4, 8, 8), torch.tensor([500]), torch.randn(1, 5, WIDTH))
    plain = unet(*inputs, return_dict=False)[0]
    names = add_lora(unet, rank=2)
    assert torch.equal(unet(*inputs, return_dict=False)[0], plain)
    run(unet, tmp_path)
    with torch.no_grad():
        tuned = unet(*inputs, return_dict=False)[0]
    assert not torch.allclose(tuned, plain, atol=1e-5)
    write_lora(unet, tmp_path / "lora.safetensors")
    assert len(lora_tensors(unet)) == 3 * len(names)
    merge_lora(unet)
    with torch.no_grad():
        assert torch.allclose(unet(*inputs, return_dict=False)[0], tuned, atol=1e-4)
    after = unet.state_dict()
    assert after.keys() == before.keys()
    changed = {name for name in after if not after[name].equal(before[name])}
    assert changed == {f"{name}.weight" for name in names}


def test_lora_files_load_in_diffusers(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    from diffusers.loaders import StableDiffusionLoraLoaderMixin

    unet = tiny.unet(tiny.UNET_M18)
    add_lora(unet, rank=2)
    write_lora(unet, tmp_path / "lora.safetensors")
    state, _ = StableDiffusionLoraLoaderMixin.lora_state_dict(tmp_path / "lora.safetensors")
    assert any("lora_A" in key or "lora.down" in key for key in state)


def test_lora_keys_are_kohyas() -> None:
    unet = tiny.unet(tiny.UNET_M18)
    add_lora(unet, rank=2, alpha=1.0)
    tensors = lora_tensors(unet)
    key = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_out_0"
    assert tensors[f"{key}.lora_down.weight"].shape == (2, 64)
    assert tensors[f"{key}.lora_up.weight"].shape == (64, 2)
    assert float(tensors[f"{key}.alpha"]) == 1.0


def test_prior_preservation_reaches_the_loss_with_its_own_pictures_and_captions() -> None:
    own, prior = Noise(mean=0.0), Noise(mean=9.0)
    batch = DreamBoothSource(own, prior, prior_weight=0.5).batch(Position(3), 4)
    assert batch.latents.shape[0] == 4
    assert batch.latents[:2].mean() < 1 < 8 < batch.latents[2:].mean()
    assert batch.weights is not None
    assert batch.weights.tolist() == [1.0, 1.0, 0.5, 0.5]
    levels = NoiseLevels(tiny.SCHEDULER)
    alpha, sigma = levels.alpha_sigma(torch.full((4,), 500))
    noise = torch.zeros_like(batch.latents)
    output = noise.clone()
    output[2:] = 2.0  # an error of the class pictures alone
    loss = diffusion_loss(
        output, batch.latents, noise, alpha, sigma, "epsilon", "uniform", batch.weights
    )
    assert float(loss) == pytest.approx(0.5 * 4.0 / 2)
    alone = DreamBoothSource(own, None).batch(Position(3), 4)
    assert alone.weights is None
    assert alone.latents.shape[0] == 4


def test_buckets_keep_the_area_and_the_multiple() -> None:
    buckets = make_buckets(512, step=64)
    assert buckets[0] == (512, 512)
    assert (384, 640) in buckets
    assert (640, 384) in buckets
    for height, width in buckets:
        assert height % 64 == width % 64 == 0
        assert 0.7 < height * width / 512**2 <= 1
        assert max(height, width) / min(height, width) <= 2
    assert nearest_bucket(1000, 1000, buckets) == (512, 512)
    assert nearest_bucket(1600, 1000, buckets)[1] > 512
    with pytest.raises(InvalidRequest, match="multiple"):
        make_buckets(500)


def test_a_picture_is_cut_in_the_middle() -> None:
    picture = Image.new("RGB", (300, 100))
    picture.paste((255, 0, 0), (100, 0, 200, 100))
    cut = crop_to(picture, (64, 64))
    assert cut.size == (64, 64)
    for x in (2, 61):
        red, green, _ = cut.getpixel((x, 32))  # type: ignore[misc]
        assert red > 250
        assert green < 5


def write_dataset(folder: Path) -> list[dict[str, object]]:
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number, size in enumerate([(64, 64), (64, 64), (128, 64), (70, 60), (60, 128)]):
        Image.new("RGB", size, (number * 40, 0, 0)).save(folder / f"{number}.png")
        captions = {"en": f"picture {number}", "de": f"Bild {number}"}
        lines.append({"image": f"{number}.png", "captions": captions})
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / CAPTIONS).write_text(text, encoding="utf-8")
    return lines


def test_folders_and_tar_shards_read_alike(tmp_path: Path) -> None:
    lines = write_dataset(tmp_path / "data")
    (tmp_path / "shards").mkdir()
    with tarfile.open(tmp_path / "shards" / "0.tar", "w") as shard:
        for path in sorted((tmp_path / "data").iterdir()):
            shard.add(path, path.name)
    folder, shards = read_dataset(tmp_path / "data"), read_dataset(tmp_path / "shards")
    assert [r.captions for r in folder] == [line["captions"] for line in lines]
    assert [r.captions for r in shards] == [r.captions for r in folder]
    for a, b in zip(folder, shards, strict=True):
        assert a.open().tobytes() == b.open().tobytes()


@pytest.mark.parametrize(
    "line",
    [
        '{"image": "../secret.png", "captions": {"en": "x"}}',
        '{"image": "/etc/x.png", "captions": {"en": "x"}}',
        '{"image": "a.png", "captions": {}}',
        '{"image": "a.png"}',
        "[1]",
        "not json",
    ],
)
def test_bad_lines_are_refused_by_number(tmp_path: Path, line: str) -> None:
    (tmp_path / CAPTIONS).write_text(f"\n{line}\n", encoding="utf-8")
    with pytest.raises(FileRefused, match="line 2"):
        read_dataset(tmp_path)


def test_missing_data_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"captions\.jsonl"):
        read_dataset(tmp_path)
    (tmp_path / CAPTIONS).write_text('{"image": "no.png", "captions": {"en": "x"}}\n')
    with pytest.raises(FileRefused, match=r"no\.png"):
        read_dataset(tmp_path)[0].open()
    with tarfile.open(tmp_path / "bad.tar", "w") as shard:
        shard.addfile(tarfile.TarInfo("x"), io.BytesIO())
    with pytest.raises(FileRefused, match=r"bad\.tar"):
        read_dataset(tmp_path / "bad.tar")


def encode_pixels(pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    mean = torch.nn.functional.avg_pool2d(pixels, 8).mean(1, keepdim=True).expand(-1, 4, -1, -1)
    return mean, torch.zeros_like(mean)


def encode_text(text: str) -> torch.Tensor:
    value = 0.0 if not text else (1.0 if text.startswith("picture") else 2.0)
    return torch.full((5, 3), value)


def cached(tmp_path: Path, **values: object) -> CachedSource:
    write_dataset(tmp_path / "data")
    records = read_dataset(tmp_path / "data")
    buckets = make_buckets(64, step=16)
    cache_dataset(records, tmp_path / "cache", buckets, encode_pixels, encode_text)
    return CachedSource(tmp_path / "cache", **values)  # type: ignore[arg-type]


def test_each_batch_has_one_size_and_an_epoch_has_every_picture(tmp_path: Path) -> None:
    source = cached(tmp_path)
    batches = source._epoch(0, 2)
    assert sorted(row for rows in batches for row in rows) == [0, 1, 2, 3, 4]
    shapes = {source.batch(Position(step), 2).latents.shape[2:] for step in range(len(batches))}
    assert len(shapes) == 3
    assert source._epoch(0, 2) != source._epoch(1, 2) or source._epoch(2, 2) != source._epoch(0, 2)
    first, again = source.batch(Position(1), 2), cached(tmp_path).batch(Position(1), 2)
    assert torch.equal(first.latents, again.latents)
    assert torch.equal(first.states, again.states)


def test_languages_come_by_weight_and_captions_are_dropped(tmp_path: Path) -> None:
    source = cached(tmp_path, languages={"en": 3.0, "de": 1.0}, dropped=0.25)
    seen = torch.cat([source.batch(Position(step), 2).states[:, 0, 0] for step in range(400)])
    share = {value: float((seen == value).float().mean()) for value in (0.0, 1.0, 2.0)}
    assert share[0.0] == pytest.approx(0.25, abs=0.06)
    assert share[1.0] == pytest.approx(0.75 * 0.75, abs=0.07)
    assert share[2.0] == pytest.approx(0.75 * 0.25, abs=0.06)
    with pytest.raises(InvalidRequest, match="none of them has a weight"):
        cached(tmp_path, languages={"fr": 1.0})


def test_a_cache_goes_on_where_it_stopped(tmp_path: Path) -> None:
    cached(tmp_path)
    path = tmp_path / "cache" / "00000002.safetensors"
    path.unlink()
    kept = tmp_path / "cache" / "00000001.safetensors"
    stamp = kept.stat().st_mtime_ns
    cached(tmp_path)
    assert path.is_file()
    assert kept.stat().st_mtime_ns == stamp


def test_sheets_show_prompts_side_by_side(tmp_path: Path) -> None:
    prompts, empty = torch.randn(2, 5, WIDTH), torch.zeros(1, 5, WIDTH)
    sampler = sheet_sampler(prompts, empty, tiny.vae(), tiny.SCHEDULER, size=64, steps=2)
    with torch.no_grad():
        sampler(30, tiny.unet(tiny.UNET_M18), tmp_path)
    with Image.open(tmp_path / "sheets" / "0000030.png") as sheet:
        assert sheet.size == (3 * GAP + 2 * 64, 2 * GAP + 64)
        assert sheet.getpixel((0, 0)) == (255, 255, 255)
        pictures = sheet.crop((GAP, GAP, GAP + 64, GAP + 64)), sheet.crop((72, GAP, 136, GAP + 64))
        assert pictures[0].tobytes() != pictures[1].tobytes()


def test_positions_give_each_process_its_own_numbers() -> None:
    rows = {Position(step, process, 2).rng(0).random() for step in range(3) for process in (0, 1)}
    assert len(rows) == 6
    assert Position(1).rng(0).random() == random.Random("0/1/0").random()
