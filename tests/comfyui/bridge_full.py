"""A script in ComfyUI's process: full-size random weights, where the host's own loaders serve.

The stock model comes from `load_diffusion_model_state_dict` (its detection, its copy), the
ControlNet from its loader of diffusers files. About 14 GB of memory a family.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import comfy.controlnet
import comfy.sd
import folder_paths
import tiny
import torch
from comfyui.bridge_additions import RANK
from comfyui.bridge_cases import call, difference, empty, load_host_nodes, stock
from multilingual_diffusion.nodes import host
from multilingual_diffusion.nodes.bridges.unet import ldm_tensors, training_sigmas
from multilingual_diffusion.nodes.sockets import SocketUNet
from multilingual_diffusion.pipeline_core.models.configs import PNDM_SCHEDULER, SD1_UNET, SD2_UNET
from multilingual_diffusion.pipeline_core.sampling import UNetDenoiser
from safetensors.torch import save_file

CPU = torch.device("cpu")


def make_unet(config: dict[str, Any]) -> SocketUNet:
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):  # the usual initial values would be drawn for nothing
        network = UNet2DConditionModel(**config)
    tiny.widen(network.to_empty(device=CPU), 1)
    return SocketUNet(
        source="full",
        part=UNetDenoiser(network),
        patcher=host.make_patcher(network, host.Place(CPU, CPU)),
        scheduler_config=PNDM_SCHEDULER,
        prediction_type="epsilon",
        scaling_factor=0.18215,
        native_size=512,
    )


def write_lora(folder: Path, network: Any) -> str:
    generator = torch.Generator().manual_seed(8)
    tensors: dict[str, torch.Tensor] = {}
    for key, weight in network.state_dict().items():
        if ".attn2.to_" in key and weight.ndim == 2:
            layer = "lora_unet_" + key.removesuffix(".weight").replace(".", "_")
            tensors[f"{layer}.lora_up.weight"] = torch.randn(
                weight.shape[0], RANK, generator=generator
            )
            tensors[f"{layer}.lora_down.weight"] = torch.randn(
                RANK, weight.shape[1], generator=generator
            )
            tensors[f"{layer}.alpha"] = torch.tensor(0.05)
    save_file(tensors, folder / "full.safetensors")
    return "full.safetensors"


def make_controlnet(folder: Path, network: Any) -> Any:
    """Write a ControlNet as diffusers saves it and have the host load it."""
    from diffusers import ControlNetModel

    control = ControlNetModel.from_unet(network)
    generator = torch.Generator().manual_seed(9)
    for key, weight in control.named_parameters():
        if "controlnet" in key:
            weight.data = torch.randn(weight.shape, generator=generator) * 0.02
    path = folder / "control.safetensors"
    save_file({key: tensor.contiguous() for key, tensor in control.state_dict().items()}, path)
    return comfy.controlnet.load_controlnet(str(path))


def sample(model: Any, positive: Any, negative: Any) -> torch.Tensor:
    return stock(
        "KSampler",
        model=model, seed=1, steps=1, cfg=4.0, sampler_name="euler", scheduler="simple",
        positive=positive, negative=negative, latent_image=empty(64, 64),
    )[0]["samples"]  # fmt: skip


def main(folder: str, family: str) -> dict[str, Any]:
    load_host_nodes()
    folder_paths.add_model_folder_path("loras", folder)
    unet = make_unet(SD1_UNET if family == "sd1" else SD2_UNET)
    network = unet.need().network
    width = network.config.cross_attention_dim
    text = torch.randn(2, 1, 77, width, generator=torch.Generator().manual_seed(2))
    sides = [[[each, {"pooled_output": None}]] for each in text]
    with torch.inference_mode():
        (model,) = call("MultilingualUNetToModel", unet=unet)
        ours, _ = call(
            "MultilingualSamplerAdvanced",
            unet=unet, positive=sides[0], negative=sides[1], latent_image=empty(64, 64), seed=1,
            steps=1, cfg=4.0, sampler="euler", schedule="simple", noise="batch",
        )  # fmt: skip
        plain = sample(model, *sides)
        seen: dict[str, Any] = {"as our own": difference(plain, ours["samples"])}
        tensors = {key: tensor.clone() for key, tensor in ldm_tensors(network, CPU).items()}
        theirs = comfy.sd.load_diffusion_model_state_dict(tensors, {"dtype": torch.float32})
        seen["guess"] = theirs.model.model_type.name
        seen["config"] = type(theirs.model.model_config).__name__
        theirs.model.model_sampling = model.model.model_sampling
        theirs.model.model_sampling.set_sigmas(training_sigmas(PNDM_SCHEDULER))
        seen["as stock"] = difference(plain, sample(theirs, *sides))
        file = write_lora(Path(folder), network)
        both = [
            stock("LoraLoaderModelOnly", model=each, lora_name=file, strength_model=1.0)[0]
            for each in (model, theirs)
        ]
        seen["patches"] = [len(each.patches) for each in both]
        changed, wanted = (sample(each, *sides) for each in both)
        seen["lora"] = [difference(changed, plain), difference(changed, wanted)]
        control = make_controlnet(Path(folder), network)
        hint = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(3))
        (guided,) = stock(
            "ControlNetApply", conditioning=sides[0], control_net=control, image=hint, strength=1.0
        )
        changed, wanted = (sample(each, guided, sides[1]) for each in (model, theirs))
        seen["controlnet"] = [difference(changed, plain), difference(changed, wanted)]
    return seen
