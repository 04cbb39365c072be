"""Every layout loads to the tensors it was written from, bit for bit; misfits are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import layouts
import pytest
import tiny
import torch
from layouts import Model
from multilingual_diffusion.pipeline_core.errors import (
    FileRefused,
    InvalidRequest,
    ModelNotFound,
    UnknownName,
    WeightsMismatch,
)
from multilingual_diffusion.pipeline_core.loading import parts
from multilingual_diffusion.pipeline_core.loading.parts import (
    LoadedPart,
    load_safety_network,
    load_scheduler_config,
    load_text_network,
    load_unet_network,
    load_vae_network,
)
from multilingual_diffusion.pipeline_core.loading.pickles import list_pickle_tensors
from multilingual_diffusion.pipeline_core.models.detect import detect
from multilingual_diffusion.pipeline_core.models.detection import Detection
from multilingual_diffusion.pipeline_core.text.encoders.tower import WordTable

LOADERS: dict[str, Callable[..., LoadedPart]] = {
    "text_encoder": load_text_network,
    "unet": load_unet_network,
    "vae": load_vae_network,
    "safety_checker": load_safety_network,
}

Write = Callable[[Path], Path]

FOLDERS: dict[str, tuple[Model, Write]] = {
    "m2 folder": ("m2", lambda path: layouts.write_diffusers_folder(path / "m2", "m2")),
    "m9 folder, old VAE names": (
        "m9",
        lambda path: layouts.write_diffusers_folder(path / "m9", "m9", old_vae_names=True),
    ),
    "m9 folder, no checker": (
        "m9",
        lambda path: layouts.write_diffusers_folder(path / "m9", "m9", null_checkers=True),
    ),
    "m18 folder, shards": (
        "m18",
        lambda path: layouts.write_diffusers_folder(
            path / "m18", "m18", weights="safetensors", sharded=True, position_ids=True
        ),
    ),
    "ModelScope folder": ("chinese", lambda path: layouts.write_modelscope_folder(path / "cn")),
    "Stable Diffusion folder": (
        "sd1",
        lambda path: layouts.write_diffusers_folder(path / "sd1", "sd1", weights="safetensors"),
    ),
}
SINGLE_FILES: dict[str, tuple[Model, Write]] = {
    "FlagAI m9": (
        "m9",
        lambda path: layouts.write_flagai_folder(path / "AltDiffusion-m9", position_ids=True),
    ),
    "A1111 safetensors": ("m9", lambda path: layouts.write_single_file(path / "m9.safetensors")),
    "A1111 ckpt, EMA": (
        "m9",
        lambda path: layouts.write_single_file(path / "m9.ckpt", ema="model_ema"),
    ),
    "bare pickle": (
        "m9",
        lambda path: layouts.write_single_file(path / "m9.pt", wrapped=False, pooler=False),
    ),
    "m18.ckpt key zoo": (
        "m18",
        lambda path: layouts.write_single_file(
            path / "m18.ckpt",
            "m18",
            prefixes=("text_encoder.", "ch_clip_model.text_model."),
            ema="state_dict_ema",
            vision=True,
        ),
    ),
    "Chinese": (
        "chinese",
        lambda path: layouts.write_single_file(path / "cn.safetensors", "chinese"),
    ),
    "SD1": ("sd1", lambda path: layouts.write_sd_checkpoint(path / "sd1.safetensors", "sd1")),
    "SD2": ("sd2", lambda path: layouts.write_sd_checkpoint(path / "sd2.safetensors", "sd2")),
}


def look(path: Path) -> Detection:
    return detect(path, list_tensors=list_pickle_tensors)


def assert_same(loaded: LoadedPart, reference: torch.nn.Module) -> None:
    """Every tensor of the loaded network equals the reference's of that name, bit for bit."""
    expected = reference.state_dict()
    for name, value in loaded.network.state_dict().items():
        assert value.dtype == expected[name].dtype, name
        assert torch.equal(value, expected[name]), name
    assert not loaded.network.training
    assert not any(value.is_meta for value in loaded.network.buffers())


@pytest.mark.parametrize("layout", [*FOLDERS, *SINGLE_FILES])
def test_every_layout_loads_to_the_same_tensors(layout: str, tmp_path: Path) -> None:
    model, write = {**FOLDERS, **SINGLE_FILES}[layout]
    found = look(write(tmp_path))
    present = [part for part in LOADERS if part in found.parts]
    assert {"unet", "vae"} <= set(present)
    assert ("text_encoder" in present) == (not model.startswith("sd"))
    for part in present:
        loaded = LOADERS[part](found, device="cpu", allow_pickle=True)
        assert_same(loaded, layouts.modules(model)[part])


@pytest.mark.parametrize("prefix", layouts.TEXT_PREFIXES)
def test_every_spelling_of_the_text_encoder(prefix: str, tmp_path: Path) -> None:
    tensors = {
        f"cond_stage_model.{prefix}{name}": value
        for name, value in layouts.text_tensors("m18", position_ids=True, extra=True).items()
    }
    layouts.save_tensors(tmp_path / "m18.safetensors", tensors)
    loaded = load_text_network(look(tmp_path / "m18.safetensors"), device="cpu")
    assert_same(loaded, layouts.modules("m18")["text_encoder"])


def test_loaded_unet_and_vae_compute_the_same(tmp_path: Path) -> None:
    for model in ("m9", "m18"):  # heads are not in the weights: the config read off shapes counts
        found = look(layouts.write_single_file(tmp_path / f"{model}.safetensors", model))
        unet = load_unet_network(found, device="cpu").network
        context = layouts.modules(model)["unet"].config.cross_attention_dim
        inputs = (torch.randn(1, 4, 8, 8), torch.tensor(7), torch.randn(1, 5, context))
        assert torch.equal(unet(*inputs).sample, layouts.modules(model)["unet"](*inputs).sample)
        vae = load_vae_network(found, device="cpu").network
        latents = torch.randn(1, 4, 4, 4)
        expected = layouts.modules(model)["vae"].decode(latents).sample
        assert torch.equal(vae.decode(latents).sample, expected)


@pytest.mark.parametrize(
    ("suffix", "ema"), [(".ckpt", "state_dict_ema"), (".safetensors", "model_ema")]
)
def test_averaged_weights_are_a_choice(suffix: str, ema: str, tmp_path: Path) -> None:
    found = look(layouts.write_single_file(tmp_path / f"m9{suffix}", ema=ema))
    loaded = load_unet_network(found, device="cpu", allow_pickle=True, ema=True)
    assert_same(loaded, layouts.ema_unet("m9"))


def test_averaged_weights_that_are_not_there_are_an_error(tmp_path: Path) -> None:
    found = look(layouts.write_single_file(tmp_path / "m9.safetensors"))
    with pytest.raises(InvalidRequest, match="no averaged"):
        load_unet_network(found, ema=True)


@pytest.mark.parametrize("part", LOADERS)
def test_pickles_are_refused_without_permission(part: str, tmp_path: Path) -> None:
    found = look(layouts.write_diffusers_folder(tmp_path / "m9"))
    with pytest.raises(FileRefused, match=r"models convert \".*m9\" .* --allow-pickle"):
        LOADERS[part](found)


def rewrite(path: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> Detection:
    """Write a single file whose tensors `change` spoiled."""
    tensors = layouts.single_file_tensors("m9")
    change(tensors)
    layouts.save_tensors(path, tensors)
    return look(path)


UNET_KEY = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_q.weight"


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    found = rewrite(tmp_path / "m9.safetensors", lambda tensors: tensors.pop(UNET_KEY))
    with pytest.raises(WeightsMismatch, match=rf"1 missing \({UNET_KEY}\)"):
        load_unet_network(found)
    load_vae_network(found)  # the rest of the file is whole


def test_extra_and_misshaped_tensors_are_named(tmp_path: Path) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors["model.diffusion_model.control.weight"] = torch.ones(3)
        tensors["first_stage_model.quant_conv.bias"] = torch.ones(5)
        tensors["cond_stage_model.roberta.encoder.layer.9.extra"] = torch.ones(2)

    found = rewrite(tmp_path / "m9.safetensors", change)
    with pytest.raises(WeightsMismatch, match=r"1 extra \(model.diffusion_model.control.weight\)"):
        load_unet_network(found)
    with pytest.raises(WeightsMismatch, match=r"quant_conv.bias is \[5\], not \[8\]"):
        load_vae_network(found)
    with pytest.raises(WeightsMismatch, match=r"1 extra .*layer\.9\.extra"):
        load_text_network(found)


def test_quantised_tensors_are_refused(tmp_path: Path) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors[UNET_KEY] = tensors[UNET_KEY].to(torch.int8)

    found = rewrite(tmp_path / "m9.safetensors", change)
    with pytest.raises(WeightsMismatch, match="is I8, not a floating-point tensor"):
        load_unet_network(found)


def test_a_part_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    found = look(layouts.write_sd_checkpoint(tmp_path / "sd1.safetensors"))
    for load in (load_text_network, load_safety_network):
        with pytest.raises(ModelNotFound, match="it has: unet, vae"):
            load(found)


def storages(loaded: LoadedPart) -> set[int]:
    return {value.untyped_storage().data_ptr() for value in loaded.network.parameters()}


def test_large_networks_are_mapped_and_small_ones_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = layouts.write_single_file(tmp_path / "m9.safetensors", dtype=torch.float16)
    copied = load_unet_network(look(file), device="cpu", dtype="keep")
    assert copied.dtype == torch.float16
    assert not mappings(file, storages(copied))
    monkeypatch.setattr(parts, "SMALL", 0)
    mapped = load_unet_network(look(file), device="cpu", dtype="keep")
    assert storages(mapped) == mappings(file, storages(mapped))


def mappings(file: Path, addresses: set[int]) -> set[int]:
    """Return the addresses that lie in a mapping of the file."""
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("only Linux lists a process's mappings")
    lines = [line.split() for line in maps.read_text(encoding="utf-8").splitlines()]
    ranges = [line[0].split("-") for line in lines if line[-1] == str(file)]
    bounds = [(int(low, 16), int(high, 16)) for low, high in ranges]
    return {spot for spot in addresses if any(low <= spot < high for low, high in bounds)}


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
def test_conversion_leaves_the_word_table_alone(dtype: str, suffix: str, tmp_path: Path) -> None:
    file = layouts.write_single_file(tmp_path / f"m18{suffix}", "m18", dtype=torch.float16)
    loaded = load_text_network(look(file), device="cpu", dtype=dtype, allow_pickle=True)
    reference = layouts.modules("m18")["text_encoder"].state_dict()
    tables = [module for module in loaded.network.modules() if isinstance(module, WordTable)]
    assert [table.weight.dtype for table in tables] == [torch.float16]
    for name, value in loaded.network.state_dict().items():
        is_table = name.endswith("word_embeddings.weight")
        assert value.dtype == (torch.float16 if is_table else loaded.dtype), name
        assert torch.equal(value, reference[name].half().to(value.dtype)), name


def test_unknown_device_and_dtype(tmp_path: Path) -> None:
    found = look(layouts.write_single_file(tmp_path / "m9.safetensors"))
    with pytest.raises(UnknownName, match="did you mean 'cpu'"):
        load_unet_network(found, device="cpuu")
    with pytest.raises(UnknownName, match="did you mean 'bf16'"):
        load_unet_network(found, dtype="bf61")


def test_scheduler_config_is_the_file_or_the_model(tmp_path: Path) -> None:
    folder = layouts.write_modelscope_folder(tmp_path / "cn", prediction_type="v_prediction")
    assert load_scheduler_config(look(folder))["prediction_type"] == "v_prediction"
    folder = layouts.write_modelscope_folder(tmp_path / "cn2", prediction_type=None)
    assert load_scheduler_config(look(folder)) == tiny.SCHEDULER  # absent stays absent
    file = layouts.write_single_file(tmp_path / "m9.safetensors")
    assert load_scheduler_config(look(file)) == tiny.SCHEDULER


def test_published_sample_size_is_put_right(tmp_path: Path) -> None:
    found = look(layouts.write_diffusers_folder(tmp_path / "m9", sample_size=32))
    assert load_unet_network(found, allow_pickle=True).config["sample_size"] == 64


UNET = "model.diffusion_model."
FLATTENED = {
    "the UNet's context": f"{UNET}middle_block.1.transformer_blocks.0.attn2.to_k.weight",
    "every UNet context": ".attn2.to_k.weight",
    "the UNet's projection": f"{UNET}middle_block.1.proj_in.weight",
    "the UNet's first convolution": f"{UNET}input_blocks.1.0.in_layers.2.weight",
    "the UNet's last convolution": f"{UNET}out.2.weight",
    "the VAE's first convolution": "first_stage_model.encoder.conv_in.weight",
    "a VAE block": "first_stage_model.encoder.down.1.block.0.conv1.weight",
    "the words": "word_embeddings.weight",
    "the positions": "position_embeddings.weight",
    "a layer": "encoder.layer.0.intermediate.dense.weight",
    "the projection": ".transformation.weight",
}


@pytest.mark.parametrize("what", FLATTENED)
def test_tensors_of_unexpected_rank_are_refused(what: str, tmp_path: Path) -> None:
    """Sizes are read off shapes, so each has to have the dimensions of its kind first."""
    tensors = {
        name: value.flatten() if name.endswith(FLATTENED[what]) else value
        for name, value in layouts.single_file_tensors("m9").items()
    }
    path = tmp_path / "m9.safetensors"
    layouts.save_tensors(path, tensors)
    found = detect(path)
    with pytest.raises(WeightsMismatch, match=r"which has not (2|4|2 or 4) dimensions"):
        for part in ("text_encoder", "unet", "vae"):
            LOADERS[part](found, device="cpu")
