"""A script in ComfyUI's process: grafts and dual conditioning as patches, against our own UNets.

The community's UNet goes through the bridge, so that every parent is tiny; a stock checkpoint has
the same names. What goes back: largest differences in units of the last place, and of latents in
shares of the largest.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import comfy.controlnet
import comfy.model_management as management
import tiny
import torch
from comfyui.bridge_cases import call, difference, empty, stock
from graft_models import MULTILINGUAL, Family, unet_tensors, write_folder
from ldm_names import ldm_unet
from multilingual_diffusion.nodes.bridges.graft import cross_attention_weights
from multilingual_diffusion.nodes.bridges.unet_config import unet_settings
from multilingual_diffusion.pipeline_core.errors import InvalidRequest
from multilingual_diffusion.pipeline_core.graft.recipe import MODES
from safetensors.torch import save_file

import nodes

SEED, STEPS, CFG = 7, 4, 5.0
K = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"
Q = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_q"
FF = "down_blocks.1.attentions.0.transformer_blocks.0.ff.net.2"
FAMILIES: tuple[Family, ...] = ("sd1", "sd2")


def make_models(folder: Path) -> None:
    """Write base, multilingual and community of both families, and a LoRA of each community."""
    import folder_paths

    asyncio.run(nodes.init_builtin_extra_nodes())
    for family in FAMILIES:
        for role in ("base", "community"):
            write_folder(
                folder / f"{family}-{role}", family, unet_tensors(family, role), null_checkers=True
            )
        write_folder(
            folder / f"{family}-multilingual", MULTILINGUAL[family],
            unet_tensors(family, "multilingual"), null_checkers=True,
        )  # fmt: skip
        tensors = {}
        for number, layer in enumerate((K, Q, FF)):
            out, inner = unet_tensors(family, "base")[f"{layer}.weight"].shape
            name = f"lora_unet_{layer.replace('.', '_')}"
            tensors[f"{name}.lora_down.weight"] = draw(2, inner, seed=number)
            tensors[f"{name}.lora_up.weight"] = draw(out, 2, seed=number + 9)
        (folder / "loras").mkdir(exist_ok=True)
        save_file(tensors, folder / "loras" / f"{family}.safetensors")
    folder_paths.add_model_folder_path("multilingual", str(folder))
    folder_paths.add_model_folder_path("loras", str(folder / "loras"))


def draw(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@functools.cache
def unet(name: str, dtype: str = "fp32") -> Any:
    return call("MultilingualUNetLoader", model=name, dtype=dtype)[0]


def parents(family: Family) -> dict[str, Any]:
    return {"multilingual": unet(f"{family}-multilingual"), "base": unet(f"{family}-base")}


def conditioning(family: Family, seed: int, tokens: int = 77) -> list[Any]:
    width = unet_tensors(family, "base")[f"{K}.weight"].shape[1]
    return [[draw(1, tokens, width, seed=seed), {"pooled_output": None}]]


def patched_weights(model: Any) -> dict[str, torch.Tensor]:
    """Return the UNet's weights as the host has them while it samples."""
    management.load_models_gpu([model], force_patch_weights=True)
    state = model.model.diffusion_model.state_dict()
    found = {name: value.clone() for name, value in state.items()}
    model.detach()
    return found


def units(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """Return the largest difference in units of the last place of the wanted value."""
    wanted, found = wanted.reshape(found.shape), found
    towards = torch.full_like(wanted, torch.inf)
    step = (torch.nextafter(wanted.abs(), towards) - wanted.abs()).double()
    return float(((found.double() - wanted.double()).abs() / step).max())


def weights_of_grafts(family: Family) -> dict[str, float]:
    """Compare patched weights with our own grafted UNet, for each mode and both precisions."""
    results = {}
    for mode in MODES:
        for strength, dtype in ((0.6, "fp32"), (0.6, "bf16")):
            community = unet(f"{family}-community", dtype)
            given = {"mode": mode, "strength": strength, "up": 0.5, **parents(family)}
            ours = call("MultilingualGraft", unet=community, **given)[0].need().network
            (model,) = call("MultilingualUNetToModel", unet=community)
            patched, _ = call("MultilingualGraftToModel", model=model, **given)
            found, wanted = patched_weights(patched), ldm_unet(dict(ours.state_dict()))
            assert found.keys() == wanted.keys()
            worst = max(units(found[name], wanted[name]) for name in found)
            results[f"{mode} {strength} {dtype}"] = worst
    return results


def ends(family: Family) -> dict[str, bool]:
    """Strength 0, and the full delta on the base: bit for bit. The MODEL itself never changes."""
    multilingual = ldm_unet(unet_tensors(family, "multilingual"))
    base = ldm_unet(unet_tensors(family, "base"))
    (model,) = call("MultilingualUNetToModel", unet=unet(f"{family}-base"))
    given = {"mode": "delta-all", **parents(family)}
    full, _ = call("MultilingualGraftToModel", model=model, strength=1.0, **given)
    none, _ = call("MultilingualGraftToModel", model=model, strength=0.0, **given)

    def equal(model: Any, wanted: dict[str, torch.Tensor]) -> bool:
        return all(
            torch.equal(v, wanted[n].reshape(v.shape)) for n, v in patched_weights(model).items()
        )

    return {
        "full": equal(full, multilingual),
        "none": equal(none, base),
        "model itself": equal(model, base),
        "not by chance": not equal(full, base),
    }


def latents(model: Any, positive: Any, negative: Any) -> torch.Tensor:
    (latent,) = stock(
        "KSampler", model=model, positive=positive, negative=negative, latent_image=empty(),
        seed=SEED, steps=STEPS, cfg=CFG, sampler_name="euler", scheduler="simple",
    )  # fmt: skip
    return latent["samples"]


def our_latents(part: Any, positive: Any, negative: Any, model: Any) -> torch.Tensor:
    from comfy import samplers

    sigmas = samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", STEPS)
    latent, _ = call(
        "MultilingualSamplerAdvanced", unet=part, positive=positive, negative=negative,
        latent_image=empty(), seed=SEED, cfg=CFG, sampler="euler", sigmas=sigmas, noise="batch",
    )  # fmt: skip
    return latent["samples"]


def pictures(family: Family) -> dict[str, float]:
    """Stock KSampler on patched MODELs against our sampler on our own grafted and dual UNets."""
    community = unet(f"{family}-community")
    (model,) = call("MultilingualUNetToModel", unet=community)
    given = {
        "mode": "replace-attn2",
        "strength": 1.0,
        "multilingual": unet(f"{family}-multilingual"),
    }
    ours, _ = call("MultilingualGraft", unet=community, **given)
    patched, _ = call("MultilingualGraftToModel", model=model, **given)
    thai, nothing, clip, no_clip = (conditioning(family, seed) for seed in range(4))
    grafted = latents(patched, thai, nothing)
    results = {
        "graft": difference(grafted, our_latents(ours, thai, nothing, model)),
        "graft changes": difference(grafted, latents(model, thai, nothing)),
    }
    sides = [
        call("MultilingualDualConditioning", conditioning=own, clip_conditioning=other)[0]
        for own, other in ((thai, clip), (nothing, no_clip))
    ]
    for weight in (0.0, 0.4, 1.0):
        (our_dual,) = call(
            "MultilingualDualUNet", unet=ours, original=community, clip_weight=weight
        )
        (dual,) = call("MultilingualDualModel", model=patched, original=model, clip_weight=weight)
        found = latents(dual, *sides)
        results[f"dual {weight}"] = difference(found, our_latents(our_dual, *sides, model))
        if weight == 0.0:
            results["dual 0 is the graft"] = difference(found, grafted)
        if weight == 1.0:
            results["dual 1 is the community"] = difference(found, latents(model, clip, no_clip))
    return results


def loras(family: Family) -> dict[str, Any]:
    """A stock LoRA before the graft: off keys and values by default, alive on the CLIP side."""
    community = unet(f"{family}-community")
    (model,) = call("MultilingualUNetToModel", unet=community)
    with_lora, _ = stock(
        "LoraLoader", model=model, clip=None, lora_name=f"{family}.safetensors", strength_model=1.0,
        strength_clip=0.0,
    )  # fmt: skip
    given = {"mode": "replace-kv", "strength": 0.5, "multilingual": unet(f"{family}-multilingual")}
    off, report = call("MultilingualGraftToModel", model=with_lora, **given)
    kept, silent = call("MultilingualGraftToModel", model=with_lora, keep_lora=True, **given)
    plain, _ = call("MultilingualGraftToModel", model=model, **given)
    weights = [patched_weights(each) for each in (off, kept, plain, with_lora)]
    names = {
        layer: next(iter(ldm_unet({f"{layer}.weight": torch.zeros(1)}))) for layer in (K, Q, FF)
    }
    key, query, feed = names.values()
    attn2 = {**given, "mode": "replace-attn2"}
    whole, _ = call("MultilingualGraftToModel", model=with_lora, **attn2)
    loader = {"lora_name": f"{family}.safetensors", "strength": 1.0}
    own_lora, _ = call("MultilingualLoraLoader", unet=community, **loader)
    ours = call("MultilingualGraft", unet=own_lora, **attn2)[0].need().network.state_dict()
    thai, nothing, clip = (conditioning(family, seed) for seed in range(3))
    sides = [
        call("MultilingualDualConditioning", conditioning=own, clip_conditioning=clip)[0]
        for own in (thai, nothing)
    ]
    triggered, untriggered = (
        latents(call("MultilingualDualModel", model=off, original=each, clip_weight=0.5)[0], *sides)
        for each in (with_lora, model)
    )
    originals = cross_attention_weights(with_lora)
    return {
        "report": report,
        "silent": silent,
        "key is the plain graft's": torch.equal(weights[0][key], weights[2][key]),
        "kept key differs": not torch.equal(weights[1][key], weights[0][key]),
        "the rest of the LoRA stays": torch.equal(weights[0][feed], weights[3][feed]),
        "queries as in our own graft": difference(
            patched_weights(whole)[query], ours[f"{Q}.weight"]
        ),
        "and does something": not torch.equal(weights[0][feed], weights[2][feed]),
        "original has the LoRA": units(originals[key], weights[3][key]),
        "trigger word changes": difference(triggered, untriggered),
    }


def memory(family: Family) -> dict[str, Any]:
    """A patch holds the parents' own tensors; a MODEL that is loaded in part says the same."""
    (model,) = call("MultilingualUNetToModel", unet=unet(f"{family}-community"))
    lenders = parents(family)
    patched, _ = call(
        "MultilingualGraftToModel", model=model, mode="delta-all", strength=0.7, **lenders
    )
    held = [
        tensor.data_ptr()
        for patches in patched.patches.values()
        for patch in patches
        for tensor in patch[1].weights[:2]
    ]
    own = {
        tensor.data_ptr()
        for lender in lenders.values()
        for tensor in lender.need().network.parameters()
    }
    device, size = torch.device("cpu"), patched.model_size()
    inputs = (draw(1, 4, 6, 8, seed=1), torch.tensor([5.0]))
    text = conditioning(family, 0)[0][0]
    patched.load(device, lowvram_model_memory=size // 3)
    streamed = patched.model.model_lowvram
    in_part = patched.model.apply_model(*inputs, c_crossattn=text)
    patched.load(device, full_load=True)
    in_full = patched.model.apply_model(*inputs, c_crossattn=text)
    patched.detach()
    untouched = patched.model.apply_model(*inputs, c_crossattn=text)
    return {
        "nothing is copied": set(held) == own,
        "streamed": streamed,
        "in part": difference(in_part, in_full),
        "unpatched": difference(untouched, in_full),
        "one model": patched.model is model.model,
    }


def controlnets(family: Family) -> dict[str, float]:
    """A ControlNet reads CLIP's prompt while the UNet reads the other."""
    (model,) = call("MultilingualUNetToModel", unet=unet(f"{family}-community"))
    control = make_controlnet(family)
    hint = torch.rand(1, 48, 64, 3, generator=torch.Generator().manual_seed(3))
    thai, other, clip = (conditioning(family, seed) for seed in range(3))
    made: dict[str, torch.Tensor] = {}

    def controlled(positive: Any) -> torch.Tensor:
        (applied,) = stock(
            "ControlNetApply", conditioning=positive, control_net=control, image=hint, strength=1.0
        )
        return latents(model, applied, other)

    for text, positive in (("thai", thai), ("clip", clip), ("other", other)):
        for reads in (None, clip):
            chosen = positive
            if reads is not None:
                (chosen,) = call(
                    "MultilingualControlNetConditioning",
                    conditioning=positive, clip_conditioning=reads,
                )  # fmt: skip
            made[f"{text} {'own' if reads is None else 'clip'}"] = controlled(chosen)
    return {
        "reading CLIP changes": difference(made["thai clip"], made["thai own"]),
        "where both are one, nothing": difference(made["clip clip"], made["clip own"]),
        "the UNet still reads its own": difference(made["other clip"], made["thai clip"]),
    }


def make_controlnet(family: Family) -> Any:
    """Return the host's ControlNet for a tiny UNet, with random weights, the last ones too."""
    from comfy.cldm.cldm import ControlNet as Network

    settings = unet_settings(unet(f"{family}-community").need().network.config)
    network = Network(**settings, hint_channels=3, dtype=torch.float32)
    return comfy.controlnet.ControlNet(tiny.widen(network, 9), load_device=torch.device("cpu"))


def refusals() -> dict[str, str]:
    """What is said of MODELs that do not go together."""
    model = {
        family: call("MultilingualUNetToModel", unet=unet(f"{family}-community"))[0]
        for family in FAMILIES
    }
    lender = {family: unet(f"{family}-multilingual") for family in FAMILIES}
    given = {"mode": "replace-kv", "strength": 1.0}

    def said(action: Callable[[], Any]) -> str:
        try:
            action()
        except InvalidRequest as error:
            return str(error)
        return ""

    def graft(one: Any, other: Any, **more: Any) -> str:
        return said(
            lambda: call(
                "MultilingualGraftToModel", model=one, multilingual=other, **{**given, **more}
            )
        )

    v_type = stock(
        "ModelSamplingDiscrete", model=model["sd1"], sampling="v_prediction", zsnr=False
    )[0]
    dual = call(
        "MultilingualDualModel", model=model["sd1"], original=model["sd1"], clip_weight=0.5
    )[0]
    plain = conditioning("sd1", 0)
    return {
        "family": graft(model["sd1"], lender["sd2"]),
        "prediction": graft(v_type, lender["sd1"]),
        "base": graft(model["sd1"], lender["sd1"], mode="delta-kv"),
        "base's family": graft(model["sd1"], lender["sd1"], mode="delta-kv", base=lender["sd2"]),
        "dual twice": said(
            lambda: call("MultilingualDualModel", model=dual, original=dual, clip_weight=0.5)
        ),
        "dual's family": said(
            lambda: call(
                "MultilingualDualModel", model=model["sd1"], original=model["sd2"], clip_weight=0.5
            )
        ),
        "not joined": said(lambda: latents(dual, plain, plain)),
    }


def main(folder: str) -> dict[str, Any]:
    make_models(Path(folder))
    return {
        "weights": {family: weights_of_grafts(family) for family in FAMILIES},
        "ends": {family: ends(family) for family in FAMILIES},
        "pictures": {family: pictures(family) for family in FAMILIES},
        "loras": loras("sd1"),
        "controlnet": controlnets("sd1"),
        "memory": memory("sd2"),
        "refusals": refusals(),
    }
