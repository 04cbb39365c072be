"""A LoRA of every spelling on both sides: our node's weights beside those the host patches in.

A script for `run_in_comfyui`; the host's half goes through our bridge to its MODEL.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ldm_names
import torch
from comfyui.bridge_cases import call, empty, encode, load, make_models, stock
from lora_cases import CONVOLUTIONS, LAYERS, random_pairs, spell
from safetensors.torch import save_file

SPELLINGS = ("kohya", "kohya, LDM names", "lycoris", "processors", "host")
STRENGTH = 0.7


def main(folder: str) -> dict[str, Any]:
    import folder_paths

    make_models(Path(folder))
    files = Path(folder) / "files"
    (files / "loras").mkdir(parents=True)
    (files / "embeddings").mkdir()
    for kind in ("loras", "embeddings"):
        folder_paths.add_model_folder_path(kind, str(files / kind))
    return {
        "weights": {
            f"{name} {spelling}": weights(files / "loras", name, spelling)
            for name in ("m9-epsilon", "m18-epsilon")
            for spelling in SPELLINGS
        },
        "middle": middle(files / "loras"),
        "branches": branches(),
        "embedding": embedding(files / "embeddings"),
    }


def weights(folder: Path, name: str, spelling: str) -> dict[str, Any]:
    ours = load(name)[1].need().network.state_dict()
    attention = spelling == "processors"  # they have no other layers
    layers = LAYERS[:3] if attention else (*LAYERS, *CONVOLUTIONS)
    return compare(folder, name, spell(random_pairs(ours, layers), spelling)[0])


def middle(folder: Path) -> dict[str, Any]:
    layer, generator = "lora_unet_down_blocks_0_resnets_0_conv1", torch.Generator().manual_seed(1)
    shapes = {"up": (32, 4, 1, 1), "mid": (4, 4, 3, 3), "down": (4, 32, 1, 1)}
    tensors = {
        f"{layer}.lora_{side}.weight": torch.randn(shape, generator=generator) * 0.3
        for side, shape in shapes.items()
    }
    return compare(folder, "m9-epsilon", {**tensors, f"{layer}.alpha": torch.tensor(2.0)})


def compare(folder: Path, name: str, tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Return how many weights changed on both sides, and the largest difference."""
    save_file(tensors, folder / "x.safetensors")
    unet = load(name)[1]
    before = ldm_names.ldm_unet(unet.need().network.state_dict())
    (model,) = call("MultilingualUNetToModel", unet=unet)
    (patched,) = stock(
        "LoraLoaderModelOnly", model=model, lora_name="x.safetensors", strength_model=STRENGTH
    )
    patched.patch_model()
    network = patched.model.diffusion_model
    theirs = {key: value.clone() for key, value in network.state_dict().items()}
    patched.unpatch_model()
    changed, _ = call("MultilingualLoraLoader", unet=unet, lora_name="x", strength=STRENGTH)
    ours = ldm_names.ldm_unet(changed.need().network.state_dict())
    return {
        "theirs": sum(not torch.equal(theirs[key], before[key]) for key in before),
        "ours": sum(not torch.equal(ours[key], before[key]) for key in before),
        "difference": max(float((ours[key] - theirs[key]).abs().max()) for key in before),
    }


def branches() -> dict[str, Any]:
    """Sample without and with a LoRA in turns, each UNet under a patcher of its own."""
    text_encoder, unet, _ = load("m9-epsilon")
    del text_encoder
    changed, report = call("MultilingualLoraLoader", unet=unet, lora_name="x", strength=1.0)
    given = {
        "positive": encode("m9-epsilon", "red"), "negative": encode("m9-epsilon", ""),
        "latent_image": empty(), "seed": 1, "steps": 3,
    }  # fmt: skip
    drawn = [
        call("MultilingualSampler", unet=each, **given)[0]["samples"]
        for each in (unet, changed, unet, changed)
    ]
    return {
        "report": report,
        "without": torch.equal(drawn[0], drawn[2]),
        "with": torch.equal(drawn[1], drawn[3]),
        "changes": not torch.allclose(drawn[0], drawn[1], atol=1e-3),
        "own patcher": changed.patcher is not unet.patcher and changed.rest == unet.rest,
    }


def embedding(folder: Path) -> dict[str, Any]:
    width = load("m9-epsilon")[0].need().network.word_width
    save_file({"emb_params": torch.ones(3, width)}, folder / "cat.safetensors")
    text_encoder = load("m9-epsilon")[0]
    report, *_ = call(
        "MultilingualTokenMeter", text_encoder=text_encoder, text="a embedding:cat"
    )["result"]  # fmt: skip
    plain, named = (encode("m9-epsilon", text)[0][0] for text in ("a cat", "a embedding:cat"))
    return {"report": report, "changes": not torch.allclose(plain, named, atol=1e-3)}
