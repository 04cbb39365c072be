"""Files of one network alone, as in ComfyUI's models/vae and models/diffusion_models."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import layouts
import pytest
import tiny
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from ldm_names import ldm_unet, ldm_vae
from multilingual_diffusion.pipeline_core import load_pipeline
from multilingual_diffusion.pipeline_core.errors import FileRefused, InvalidRequest, WeightsMismatch
from multilingual_diffusion.pipeline_core.loading.keys_vae import old_attention_name
from multilingual_diffusion.pipeline_core.loading.plans import plan_unet, plan_vae
from multilingual_diffusion.pipeline_core.models.configs import KL_F8_VAE, SD1_UNET, SD2_UNET
from multilingual_diffusion.pipeline_core.models.detect import detect
from safetensors.torch import load_file, save_file

Tensors = dict[str, torch.Tensor]


def tensors_of(root: Path, part: str, model: str = "m9") -> Tensors:
    """Write a whole model and return one part's tensors, by diffusers' names."""
    folder = layouts.write_diffusers_folder(
        root / model, cast(layouts.Model, model), weights="safetensors"
    )
    return load_file(folder / part / "diffusion_pytorch_model.safetensors")


def trained(tensors: Tensors) -> Tensors:
    """Return an LDM VAE with what trainers leave beside it."""
    return {
        **ldm_vae(tensors),
        "loss.logvar": torch.zeros(1),
        "loss.discriminator.main.0.weight": torch.zeros(4, 3, 4, 4),
        "model_ema.decay": torch.tensor(0.99),
        "model_ema.num_updates": torch.tensor(1),
    }


VAES = {
    "diffusers": lambda tensors: tensors,
    "diffusers of 2022": lambda tensors: {old_attention_name(n): v for n, v in tensors.items()},
    "LDM": ldm_vae,
    "LDM with its training": trained,
}


@pytest.mark.parametrize("names", VAES)
@pytest.mark.parametrize("suffix", ["safetensors", "ckpt"])
def test_a_vae_alone(names: str, suffix: str, tmp_path: Path) -> None:
    wanted = tensors_of(tmp_path, "vae")
    file = tmp_path / f"vae-ft-mse.{suffix}"
    tensors = {name: value.contiguous() for name, value in VAES[names](wanted).items()}
    if suffix == "safetensors":
        save_file(tensors, file)
        found = detect(file)
        assert list(found.parts) == ["vae"] and not found.has_ema and found.unet_family is None
    else:
        torch.save({"state_dict": tensors}, file)
    pipeline = load_pipeline(tmp_path / "m9", parts={"vae": file}, allow_pickle=True)
    vae = pipeline.parts.vae
    assert vae is not None and vae.scaling_factor == 0.18215
    assert_equal(vae.network, wanted)


@pytest.mark.parametrize("model", ["m9", "m18"])
@pytest.mark.parametrize("ldm", [False, True])
def test_a_unet_alone(model: str, ldm: bool, tmp_path: Path) -> None:
    wanted = tensors_of(tmp_path, "unet", model)
    file = tmp_path / "unet.safetensors"
    save_file({n: v.contiguous() for n, v in (ldm_unet(wanted) if ldm else wanted).items()}, file)
    found = detect(file)
    assert list(found.parts) == ["unet"]
    assert found.unet_family == {"m9": "sd1", "m18": "sd2"}[model] and found.spec is None
    pipeline = load_pipeline(tmp_path / model, parts={"unet": file})
    assert pipeline.parts.unet is not None
    assert_equal(pipeline.parts.unet.network, wanted)
    assert pipeline.parts.prediction_type == ("epsilon" if model == "m9" else None)


def assert_equal(network: torch.nn.Module, wanted: Tensors) -> None:
    found = network.state_dict()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], value) for name, value in wanted.items())


def test_the_config_beside_a_part_counts(tmp_path: Path) -> None:
    folder = layouts.write_diffusers_folder(tmp_path / "x", "m9", weights="safetensors")
    config = json.loads((folder / "vae" / "config.json").read_text())
    tiny.write_json(folder / "vae" / "config.json", {**config, "scaling_factor": 0.5})
    file = folder / "vae" / "diffusion_pytorch_model.safetensors"
    assert plan_vae(detect(file)).config["scaling_factor"] == 0.5
    (folder / "vae" / "config.json").unlink()
    assert plan_vae(detect(file)).config["scaling_factor"] == 0.18215


def test_what_is_not_of_stable_diffusion(tmp_path: Path) -> None:
    vae, unet = tensors_of(tmp_path, "vae"), tensors_of(tmp_path, "unet")
    wide = torch.zeros(vae["decoder.conv_in.weight"].shape[0], 16, 3, 3)
    video = torch.zeros(4, 4, 3, 3, 3)
    cases: list[tuple[str, Mapping[str, torch.Tensor], str]] = [
        ("ae", {**vae, "decoder.conv_in.weight": wide}, "latents have 4 channels"),
        ("wan", {**vae, "decoder.conv_in.weight": video}, "of another kind of model"),
        ("sdxl_vae", vae, "the VAE of SDXL"),
        ("xlVAE", vae, "the VAE of SDXL"),
        ("taesd_decoder", {"1.weight": torch.zeros(4, 4, 3, 3)}, "its first tensors are"),
        ("controlnet", without(unet, "conv_out.weight"), "holds no part we know"),
    ]
    for name, tensors, words in cases:
        save_file(dict(tensors), tmp_path / f"{name}.safetensors")
        with pytest.raises(FileRefused, match=words):
            detect(tmp_path / f"{name}.safetensors")
    note = {"modelspec.architecture": "stable-diffusion-xl-v1-base/vae"}
    save_file(vae, tmp_path / "noted.safetensors", note)
    with pytest.raises(FileRefused, match="the VAE of SDXL"):
        detect(tmp_path / "noted.safetensors")


def test_a_unet_of_another_kind(tmp_path: Path) -> None:
    unet = tensors_of(tmp_path, "unet")
    inpaint = {**unet, "conv_in.weight": torch.zeros(32, 9, 3, 3)}
    added = {**unet, "add_embedding.linear_1.weight": torch.zeros(4, 4)}
    for name, tensors, error in (
        ("inpaint", inpaint, FileRefused),
        ("xl", added, WeightsMismatch),
    ):
        save_file(tensors, tmp_path / f"{name}.safetensors")
        assert detect(tmp_path / f"{name}.safetensors").unet_family == "other"
        with pytest.raises(error):
            load_pipeline(tmp_path / f"{name}.safetensors", parts=("unet",))


def test_a_part_that_lacks_a_tensor_is_named(tmp_path: Path) -> None:
    save_file(
        without(tensors_of(tmp_path, "vae"), "post_quant_conv.weight"), tmp_path / "x.safetensors"
    )
    with pytest.raises(WeightsMismatch, match=r"1 missing \(post_quant_conv\.weight\)"):
        load_pipeline(tmp_path / "m9", parts={"vae": tmp_path / "x.safetensors"})


def test_widths_are_checked_as_of_whole_models(tmp_path: Path) -> None:
    layouts.write_diffusers_folder(tmp_path / "m18", "m18", weights="safetensors")
    save_file(tensors_of(tmp_path, "unet"), tmp_path / "unet.safetensors")
    with pytest.raises(InvalidRequest, match="numbers a token"):
        load_pipeline(tmp_path / "m18", parts={"unet": tmp_path / "unet.safetensors"})


def without(tensors: Tensors, name: str) -> Tensors:
    return {each: value for each, value in tensors.items() if each != name}


def write_header(path: Path, tensors: Mapping[str, Any]) -> None:
    """Write a file of full-size tensors in half precision whose data are a hole."""
    header: dict[str, Any] = {}
    end = 0
    for name, value in tensors.items():
        begin, end = end, end + 2 * value.numel()
        header[name] = {"dtype": "F16", "shape": list(value.shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)


@pytest.mark.parametrize("ldm", [False, True])
def test_the_published_vae_by_its_header(ldm: bool, tmp_path: Path) -> None:
    """All 248 tensors of stabilityai/sd-vae-ft-mse, in either naming."""
    with torch.device("meta"):
        tensors = AutoencoderKL(**KL_F8_VAE).state_dict()
    assert len(tensors) == 248
    write_header(tmp_path / "vae.safetensors", ldm_vae(tensors) if ldm else tensors)
    plan = plan_vae(detect(tmp_path / "vae.safetensors"))
    assert plan.config == KL_F8_VAE and plan.match.complete


@pytest.mark.parametrize("config", [SD1_UNET, SD2_UNET], ids=["sd1", "sd2"])
def test_the_published_unets_by_their_headers(config: dict[str, Any], tmp_path: Path) -> None:
    """All 686 tensors of Stable Diffusion's UNets, by diffusers' names."""
    with torch.device("meta"):
        tensors = UNet2DConditionModel(**config).state_dict()
    assert len(tensors) == 686
    write_header(tmp_path / "unet.safetensors", tensors)
    plan = plan_unet(detect(tmp_path / "unet.safetensors"))
    assert plan.config == config and plan.match.complete
