"""Files for a graft in a stock graph, as small as ComfyUI's Load Checkpoint takes them.

It knows Stable Diffusion 1 by 320 channels and 768 numbers a token, and builds CLIP and the VAE in
full; only the UNet may be shallow. Weights are random, in fp16 as such files mostly are.
"""

from __future__ import annotations

import re
from pathlib import Path

import full_size
import layouts
import tiny
import torch
from ldm_names import Tensors, ldm_vae
from multilingual_diffusion.pipeline_core.loading.keys_unet import ldm_name
from multilingual_diffusion.pipeline_core.models.configs import KL_F8_VAE, SD1_UNET, Config
from safetensors.torch import load_file, save_file

WIDTH = 768  # of CLIP's tokens, and of the conditioning of AltDiffusion and -m9
UNET: Config = {
    **SD1_UNET,
    "block_out_channels": [320, 320],
    "layers_per_block": 1,
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
}
CLIP: Config = {
    "hidden_size": WIDTH,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
}


def write_checkpoint(path: Path) -> Path:
    """Write UNet, CLIP and VAE under the names of the original code: 0.5 GB."""
    from diffusers import AutoencoderKL
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.device("meta"):
        vae, clip = AutoencoderKL(**KL_F8_VAE), CLIPTextModel(CLIPTextConfig(**CLIP))
    denoiser = random_tensors(unet(), seed=3)
    parts = {
        "model.diffusion_model.": {ldm_name(key, UNET): denoiser[key] for key in denoiser},
        "first_stage_model.": ldm_vae(random_tensors(vae, seed=1)),
        "cond_stage_model.transformer.": random_tensors(clip, seed=2),
    }
    tensors = {
        prefix + name: value.contiguous()
        for prefix, part in parts.items()
        for name, value in part.items()
    }
    save_file(tensors, path)
    return path


def write_multilingual(path: Path, *, unet_seed: int) -> Path:
    """Write a folder as that of AltDiffusion-m9: such a UNet, and a tiny encoder of its width."""
    layouts.write_diffusers_folder(path, "m9", weights="safetensors", null_checkers=True)
    save_file(
        random_tensors(unet(), unet_seed), path / "unet" / "diffusion_pytorch_model.safetensors"
    )
    tiny.write_json(path / "unet" / "config.json", UNET)
    file = path / "text_encoder" / "model.safetensors"
    projection = torch.nn.Linear(tiny.WIDTH, WIDTH, device="meta")
    drawn = random_tensors(torch.nn.ModuleDict({"transformation": projection}), seed=4)
    save_file({**load_file(file), **drawn}, file)
    config = {**layouts.text_config("m9"), "project_dim": WIDTH}
    tiny.write_json(path / "text_encoder" / "config.json", config)
    return path


def write_lora(path: Path) -> Path:
    """Write a LoRA of all attention, in kohya's names."""
    generator = torch.Generator().manual_seed(8)
    tensors: Tensors = {}
    for name, weight in unet().state_dict().items():
        if re.search(r"\.attn[12]\.to_.*weight$", name):
            layer = "lora_unet_" + name.removesuffix(".weight").replace(".", "_")
            for side, shape in (("up", (weight.shape[0], 2)), ("down", (2, weight.shape[1]))):
                drawn = torch.randn(shape, generator=generator)
                tensors[f"{layer}.lora_{side}.weight"] = drawn * 0.2
    save_file(tensors, path)
    return path


def unet() -> torch.nn.Module:
    """Return the UNet without weights: its names and shapes."""
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        return UNet2DConditionModel(**UNET)


def random_tensors(network: torch.nn.Module, seed: int) -> Tensors:
    """Return random weights for a network that has none."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: full_size.draw(name, value.shape, generator).half()
        for name, value in network.state_dict().items()
    }
