"""A script in ComfyUI's process: what artists put on a MODEL, on a bridged one and on a stock one.

The stock model is the host's own SD15 config around the same weights, made without our bridge, so
"as on a stock model" is a comparison of tensors. LoRA and ControlNet files are tiny and random.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import comfy.controlnet
import comfy.model_management as management
import folder_paths
import tiny
import torch
from comfy import samplers
from comfy.supported_models import SD15, SD20
from comfyui.bridge_cases import call, difference, empty, encode, load, make_models, stock
from multilingual_diffusion.nodes.bridges.unet import ldm_tensors, training_sigmas
from multilingual_diffusion.nodes.bridges.unet_config import unet_settings
from safetensors.torch import save_file

RANK = 4


def bridged(name: str) -> Any:
    return call("MultilingualUNetToModel", unet=load(name)[1])[0]


def as_the_host_builds_it(name: str) -> tuple[Any, str]:
    """Return a MODEL by the host's own way (its config class, its copying of weights) and what the
    host guesses that it predicts; levels and prediction type are ours, to the last bit."""
    from comfy.model_base import BaseModel, ModelType
    from comfy.model_patcher import ModelPatcher

    unet = load(name)[1]
    network = unet.need().network
    settings = unet_settings(network.config)
    config = (SD20 if settings["use_linear_in_transformer"] else SD15)(settings)
    config.unet_config.update(settings)
    config.set_inference_dtype(torch.float32, None)
    tensors = ldm_tensors(network, torch.device("cpu"))
    guess = config.model_type(tensors, "").name
    model = BaseModel(config, model_type=ModelType.EPS)
    model.load_model_weights({key: tensor.clone() for key, tensor in tensors.items()}, "")
    model.model_sampling.set_sigmas(training_sigmas(unet.scheduler_config))
    return ModelPatcher(model, torch.device("cpu"), torch.device("cpu")), guess


def sample(model: Any, name: str, positive: Any = None, **inputs: Any) -> torch.Tensor:
    sides = {"positive": positive or encode(name, "red"), "negative": encode(name, "")}
    return stock(
        "KSampler",
        **{
            "model": model, "seed": 1, "steps": 3, "cfg": 4.0, "sampler_name": "euler",
            "scheduler": "simple", "latent_image": empty(), **sides, **inputs,
        },
    )[0]["samples"]  # fmt: skip


def write_lora(folder: Path, name: str) -> str:
    """Write a LoRA of every attention matrix, in kohya's names of diffusers' layers, and a text
    half as trained beside CLIP; return its name in the host's list."""
    generator = torch.Generator().manual_seed(8)
    tensors: dict[str, torch.Tensor] = {}
    for key, weight in load(name)[1].need().network.state_dict().items():
        if ".attn" in key and key.endswith(".weight") and weight.ndim == 2:
            layer = "lora_unet_" + key.removesuffix(".weight").replace(".", "_")
            out, into = weight.shape
            tensors[f"{layer}.lora_up.weight"] = torch.randn(out, RANK, generator=generator) * 0.1
            tensors[f"{layer}.lora_down.weight"] = torch.randn(RANK, into, generator=generator)
            tensors[f"{layer}.alpha"] = torch.tensor(1.0)
    for row in range(2):
        layer = f"lora_te_text_model_encoder_layers_{row}_self_attn_q_proj"
        tensors[f"{layer}.lora_up.weight"] = torch.randn(8, RANK, generator=generator)
        tensors[f"{layer}.lora_down.weight"] = torch.randn(RANK, 8, generator=generator)
    save_file(tensors, folder / f"{name}.safetensors")
    return f"{name}.safetensors"


def loras(folder: Path, name: str) -> dict[str, Any]:
    file = write_lora(folder, name)
    unet_before = {key: t.clone() for key, t in load(name)[1].need().network.state_dict().items()}
    model, (clip,) = (
        bridged(name),
        call("MultilingualTextEncoderToCLIP", text_encoder=load(name)[0]),
    )
    plain = sample(model, name)
    changed_model, changed_clip = stock(
        "LoraLoader",
        model=model, clip=clip, lora_name=file, strength_model=0.8, strength_clip=1.0,
    )  # fmt: skip
    changed = sample(changed_model, name)
    theirs = stock(
        "LoraLoaderModelOnly",
        model=as_the_host_builds_it(name)[0], lora_name=file, strength_model=0.8,
    )[0]  # fmt: skip
    (unet, _) = call("MultilingualLoraLoader", unet=load(name)[1], lora_name=file, strength=0.8)
    ours, _ = call(
        "MultilingualSamplerAdvanced",
        unet=unet, positive=encode(name, "red"), negative=encode(name, ""), latent_image=empty(),
        seed=1, steps=3, cfg=4.0, sampler="euler", schedule="simple", noise="batch",
    )  # fmt: skip
    after = load(name)[1].need().network.state_dict()
    report, applied, skipped = call(
        "MultilingualLoraReport", model=model, lora_name=file, clip=clip
    )["result"]  # fmt: skip
    return {
        "changes": difference(changed, plain),
        "as stock": difference(changed, sample(theirs, name)),
        "as our own": difference(changed, ours["samples"]),
        "patches": len(changed_model.patches),
        "clip patches": len(changed_clip.patcher.patches),
        "off again": difference(sample(model, name), plain),
        "ours kept": all(torch.equal(after[key], tensor) for key, tensor in unet_before.items()),
        "report": [report, applied, skipped],
    }


def misfit(folder: Path) -> list[Any]:
    """Report a LoRA of the other family: same names, other widths."""
    file = write_lora(folder, "m18-epsilon")
    return list(
        call("MultilingualLoraReport", model=bridged("m9-epsilon"), lora_name=file)["result"]
    )


def make_controlnet(name: str) -> Any:
    """Return the host's ControlNet for a tiny UNet, with random weights, the last ones too."""
    from comfy.cldm.cldm import ControlNet as Network

    settings = unet_settings(load(name)[1].need().network.config)
    network = Network(**settings, hint_channels=3, dtype=torch.float32)
    return comfy.controlnet.ControlNet(tiny.widen(network, 9), load_device=torch.device("cpu"))


def controlnets(name: str) -> dict[str, Any]:
    control = make_controlnet(name)
    hint = torch.rand(1, 48, 64, 3, generator=torch.Generator().manual_seed(2))
    positive = encode(name, "red")
    (guided,) = stock(
        "ControlNetApply", conditioning=positive, control_net=control, image=hint, strength=0.9
    )
    plain = sample(bridged(name), name)
    found = sample(bridged(name), name, guided)
    stock_model, guess = as_the_host_builds_it(name)
    wanted = sample(stock_model, name, guided)
    changes = difference(found, plain)
    return {"changes": changes, "as stock": difference(found, wanted), "guess": guess}


def regions(name: str) -> dict[str, float]:
    """Give each half and each half of the time its prompt, on a bridged and on a stock model."""
    left, right, late = (encode(name, text) for text in ("red", "blue circle", "green"))
    area = {"width": 32, "height": 48, "y": 0, "strength": 1.0}
    sides = [
        stock("ConditioningSetArea", conditioning=each, x=x, **area)[0]
        for each, x in ((left, 0), (right, 32))
    ]
    (both,) = stock("ConditioningCombine", conditioning_1=sides[0], conditioning_2=sides[1])
    times = [
        stock("ConditioningSetTimestepRange", conditioning=each, start=start, end=end)[0]
        for each, start, end in ((both, 0.0, 0.5), (late, 0.5, 1.0))
    ]
    (positive,) = stock("ConditioningCombine", conditioning_1=times[0], conditioning_2=times[1])
    model = bridged(name)
    found = sample(model, name, positive)
    wanted = sample(as_the_host_builds_it(name)[0], name, positive)
    return {
        "changes": difference(found, sample(model, name, both)),
        "as stock": difference(found, wanted),
    }


def plms(name: str) -> dict[str, Any]:
    """Compare SamplerCustom with our plms against our own sampler, and what is refused."""
    unet, model = load(name)[1], bridged(name)
    sides = {"positive": encode(name, "red"), "negative": encode(name, "")}
    sampler, sigmas = call("MultilingualPLMSSampler", model=model, steps=8)
    start = {"samples": torch.randn(2, 4, 6, 8, generator=torch.Generator().manual_seed(1))}
    common = {"model": model, "add_noise": True, "noise_seed": 3, "cfg": 4.0, **sides}
    latent, _ = stock("SamplerCustom", **common, sampler=sampler, sigmas=sigmas, latent_image=start)
    own = {"unet": unet, "seed": 3, "cfg": 4.0, "sampler": "plms", "noise": "batch", **sides}
    same, _ = call("MultilingualSamplerAdvanced", **own, latent_image=start, sigmas=sigmas)
    usual, levels = call("MultilingualSamplerAdvanced", **own, latent_image=start, steps=8)
    scale = (1 + float(sigmas[-1]) ** 2) ** 0.5
    euler, _ = stock(
        "SamplerCustom",
        **common, sampler=samplers.sampler_object("euler"), sigmas=sigmas, latent_image=start,
    )  # fmt: skip
    try:
        uneven = samplers.calculate_sigmas(
            model.get_model_object("model_sampling"), "exponential", 8
        )
        stock("SamplerCustom", **common, sampler=sampler, sigmas=uneven, latent_image=start)
        refused = ""
    except ValueError as exc:
        refused = str(exc)
    return {
        "same sigmas": difference(latent["samples"], same["samples"]),
        "own schedule": difference(latent["samples"] / scale, usual["samples"]),
        "levels": float((levels[:-1] - sigmas[:-1]).abs().max()),
        "not euler": difference(euler["samples"], latent["samples"]),
        "refused": refused,
    }


def memory(name: str) -> dict[str, Any]:
    """Load a part of the network only, then all, then free it, as the host does when short."""
    model = bridged(name)
    whole = sample(model, name)
    management.unload_all_models()
    size = model.model_size()
    device = torch.device("cpu")
    model.load(device, lowvram_model_memory=size // 3)
    streamed, loaded = model.model.model_lowvram, model.loaded_size()
    noise = torch.randn(1, 4, 6, 8, generator=torch.Generator().manual_seed(1))
    level, text = torch.tensor([5.0]), encode(name, "red")[0][0]
    in_part = model.model.apply_model(noise, level, c_crossattn=text)
    freed = model.partially_unload(device, loaded // 2)
    in_less = model.model.apply_model(noise, level, c_crossattn=text)
    model.load(device, full_load=True)
    in_full = model.model.apply_model(noise, level, c_crossattn=text)
    again = sample(model, name)
    second = bridged("m18-epsilon")
    other = sample(second, "m18-epsilon")
    loaded_now = [each.model.model for each in management.current_loaded_models]
    known = [loaded_now.count(each.model) for each in (model, second)]
    management.unload_all_models()
    return {
        "streamed": streamed, "loaded": loaded / size, "freed": freed / size,
        "in part": difference(in_part, in_full), "in less": difference(in_less, in_full),
        "again": difference(again, whole), "second fits": bool(torch.isfinite(other).all()),
        "known": known, "left": len(management.current_loaded_models),
    }  # fmt: skip


def main(folder: str) -> dict[str, Any]:
    make_models(Path(folder))
    files = Path(folder) / "loras"
    files.mkdir()
    folder_paths.add_model_folder_path("loras", str(files))
    with torch.inference_mode():
        return {
            "loras": {name: loras(files, name) for name in ("m9-epsilon", "m18-epsilon")},
            "misfit": misfit(files),
            "controlnet": {name: controlnets(name) for name in ("m9-epsilon", "m18-epsilon")},
            "regions": regions("m18-epsilon"),
            "plms": {name: plms(name) for name in ("m9-epsilon", "m18-v_prediction")},
            "memory": memory("m9-epsilon"),
        }
