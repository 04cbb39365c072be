"""A script in ComfyUI's process: stock VAE nodes on a bridged VAE, and the whole swapped graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import comfy.model_management as management
import layouts
import torch
from comfyui.bridge_cases import call, difference, empty, encode, load, make_models, stock
from multilingual_diffusion.pipeline_core.errors import PipelineError
from multilingual_diffusion.pipeline_core.graft.dual import make_dual_unet
from multilingual_diffusion.pipeline_core.sampling import UNetDenoiser


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3))


def vae_nodes(name: str) -> dict[str, float]:
    """Compare decode, tiled decode of one tile, encode and encode for inpainting with ours."""
    ours = load(name)[2]
    (vae,) = call("MultilingualVAEToVAE", vae=ours)
    latent = {"samples": noise(2, 4, 6, 8)}
    (wanted,) = call("MultilingualVAEDecode", vae=ours, latent=latent)
    (plain,) = stock("VAEDecode", vae=vae, samples=latent)
    (tiled,) = stock("VAEDecodeTiled", vae=vae, samples=latent, tile_size=512, overlap=64)
    images = torch.rand(2, 48, 64, 3, generator=torch.Generator().manual_seed(4))
    mask = torch.zeros(1, 48, 64)
    mask[:, 8:24, 16:40] = 1.0
    (encoded,) = call("MultilingualVAEEncode", vae=ours, images=images)
    (found,) = stock("VAEEncode", vae=vae, pixels=images)
    (holes,) = call(
        "MultilingualVAEEncodeForInpaint",
        vae=ours, images=images, mask=mask, grow_mask_by=0, fill="grey",
    )  # fmt: skip
    (inpaint,) = stock("VAEEncodeForInpaint", vae=vae, pixels=images, mask=mask, grow_mask_by=0)
    return {
        "decode": difference(plain, wanted),
        "tiled": difference(tiled, wanted),
        "encode": difference(found["samples"], encoded["samples"]),
        "inpaint": difference(inpaint["samples"], holes["samples"]),
    }


def larger_than_a_tile(name: str) -> float:
    """Return by how much the host's tiles differ from the whole, in shares of 1."""
    (vae,) = call("MultilingualVAEToVAE", vae=load(name)[2])
    latent = {"samples": noise(1, 4, 32, 24)}
    (whole,) = stock("VAEDecode", vae=vae, samples=latent)
    (tiled,) = stock("VAEDecodeTiled", vae=vae, samples=latent, tile_size=128, overlap=32)
    return float((whole - tiled).abs().mean())


def groups_matter(name: str) -> float:
    """Decode with the host's 32 groups after all: what would happen without the bridge's care."""
    ours = load(name)[2]
    (vae,) = call("MultilingualVAEToVAE", vae=ours)
    latent = {"samples": noise(1, 4, 6, 8)}
    (wanted,) = stock("VAEDecode", vae=vae, samples=latent)
    for module in vae.first_stage_model.modules():
        if isinstance(module, torch.nn.GroupNorm):
            module.num_groups = 32
    (found,) = stock("VAEDecode", vae=vae, samples=latent)
    return difference(found, wanted)


def swapped_in() -> dict[str, float]:
    """Compare a stock graph behind the checkpoint loader with our own nodes, picture by picture."""
    models = call("MultilingualCheckpointLoader", model="nano", dtype="fp32")
    found, latents = decoded(*models)
    _, unet, own_vae = load("nano")
    own, _ = call(
        "MultilingualSamplerAdvanced",
        unet=unet, positive=encode("nano", "red circle"), negative=encode("nano", ""), cfg=3.0,
        latent_image=empty(128, 128), seed=5, steps=6, sampler="euler", schedule="simple",
        noise="batch",
    )  # fmt: skip
    (wanted,) = call("MultilingualVAEDecode", vae=own_vae, latent=own)
    return {
        "latents": difference(latents, own["samples"]),
        "pixels": float((found - wanted).abs().max()),
    }


def kept() -> list[int]:
    """Return how many tensors of a bridged VAE are shared, and how many there are."""
    ours = load("m9-epsilon")[2]
    (vae,) = call("MultilingualVAEToVAE", vae=ours)
    places = {tensor.data_ptr() for tensor in ours.need().network.parameters()}
    theirs = [tensor.data_ptr() for tensor in vae.first_stage_model.parameters()]
    return [sum(place in places for place in theirs), len(theirs)]


def saving() -> list[str]:
    """Return what a VAE that the host would misread says, and how many tensors another saves."""
    (odd,) = call("MultilingualVAEToVAE", vae=load("nano")[2])
    (usual,) = call("MultilingualVAEToVAE", vae=load("m9-epsilon")[2])
    try:
        odd.get_sd()
    except PipelineError as exc:
        return [str(exc), str(len(usual.get_sd()))]
    return []


def layers_made_at_loading() -> float:
    """Compare a picture of networks whose layers have no weights until they are loaded, as newer
    hosts make them where memory is dynamic; older hosts make the same twice."""
    import comfy

    switch = getattr(comfy, "memory_management", type("Absent", (), {}))
    usual, switch.aimdo_enabled = getattr(switch, "aimdo_enabled", False), True
    try:
        found = call("MultilingualCheckpointLoader", model="nano", dtype="fp32")
    finally:
        switch.aimdo_enabled = usual
    wanted = call("MultilingualCheckpointLoader", model="nano", dtype="fp32")
    (one, _), (other, _) = (decoded(*models) for models in (found, wanted))
    return float((one - other).abs().max())


def decoded(model: Any, clip: Any, vae: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the picture and the latents of a stock graph."""
    sides = [stock("CLIPTextEncode", clip=clip, text=text)[0] for text in ("red circle", "")]
    (latent,) = stock(
        "KSampler",
        model=model, seed=5, steps=6, cfg=3.0, sampler_name="euler", scheduler="simple",
        positive=sides[0], negative=sides[1], latent_image=empty(128, 128), denoise=1.0,
    )  # fmt: skip
    return stock("VAEDecode", vae=vae, samples=latent)[0], latent["samples"]


def half_precision(folder: Path) -> dict[str, Any]:
    """Keep a file's float16 on a CPU: the host computes wider, on weights that stay as they are."""
    layouts.write_diffusers_folder(
        folder / "half", "m9", weights="safetensors", null_checkers=True, dtype=torch.float16
    )
    kept = call("MultilingualModelLoader", model="half", dtype="keep")
    (model,), (vae,) = (
        call("MultilingualUNetToModel", unet=kept[1]),
        call("MultilingualVAEToVAE", vae=kept[2]),
    )
    sides = {"positive": encode("half", "red"), "negative": encode("half", "")}
    common = {"seed": 5, "steps": 3, "cfg": 3.0, "latent_image": empty(), **sides}
    (found,) = stock(
        "KSampler", model=model, sampler_name="euler", scheduler="simple", denoise=1.0, **common
    )
    wanted, _ = call(
        "MultilingualSamplerAdvanced",
        unet=load("half")[1], sampler="euler", schedule="simple", noise="batch", **common,
    )  # fmt: skip
    return {
        "weights": str(model.model.get_dtype()),
        "vae": str(vae.vae_dtype),
        "as float32": difference(found["samples"], wanted["samples"]),
    }


def exchanged_layers() -> str:
    """Return what the bridge says of a UNet with two cross-attentions."""
    unet = load("m9-epsilon")[1]
    other = load("m9-v_prediction")[1].need().network
    dual = UNetDenoiser(make_dual_unet(unet.need().network, other, 0.5))
    try:
        call("MultilingualUNetToModel", unet=unet.with_part(dual))
    except PipelineError as exc:
        return str(exc)
    return ""


def main(folder: str) -> dict[str, Any]:
    make_models(Path(folder))
    with torch.inference_mode():
        seen = {
            "vae": {name: vae_nodes(name) for name in ("m9-epsilon", "nano")},
            "tiles": larger_than_a_tile("nano"),
            "groups": groups_matter("nano"),
            "swapped": swapped_in(),
            "shared": kept(),
            "saving": saving(),
            "late layers": layers_made_at_loading(),
            "exchanged": exchanged_layers(),
            "half": half_precision(Path(folder)),
        }
        management.unload_all_models()
        return {**seen, "left": len(management.current_loaded_models)}
