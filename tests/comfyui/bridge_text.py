"""A script in ComfyUI's process: stock text nodes on a bridged CLIP against our own text encode."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import comfy.model_management as management
import folder_paths
import tiny
import torch
from comfyui.bridge_cases import KINDS, call, empty, encode, load, make_models, stock
from multilingual_diffusion.nodes.conversions import EMPTY_WINDOW
from safetensors.torch import save_file

PROMPTS = {
    "plain": "a red circle on a blue background",
    "inside a word": "a cir(cle:1.4) on a [blue] background",
    "chinese": "\u4e00\u4e2a(\u7ea2\u8272:1.3)\u7684\u5706",
    "windows": "a red circle BREAK on blue",
    "long": ", ".join(["a (red:1.2) circle on a blue background"] * 12),
    "empty": "",
    "embedding": "a (embedding:mine:1.2) circle",
}


def bridged(name: str, **options: Any) -> Any:
    return call("MultilingualTextEncoderToCLIP", text_encoder=load(name)[0], **options)[0]


def encoded(clip: Any, text: str) -> Any:
    return stock("CLIPTextEncode", clip=clip, text=text)[0]


def is_equal(found: Any, wanted: Any) -> bool:
    """Tell whether two CONDITIONINGs are the same bit for bit, their keys too."""
    same_keys = [set(entry[1]) for entry in found] == [set(entry[1]) for entry in wanted]
    return same_keys and all(
        torch.equal(mine[0], theirs[0])
        and mine[0].dtype == torch.float32
        and mine[1]["pooled_output"] is None
        and torch.equal(mine[1][EMPTY_WINDOW], theirs[1][EMPTY_WINDOW])
        for mine, theirs in zip(found, wanted, strict=True)
    )


def same_conditioning(kind: str) -> dict[str, bool]:
    name = f"{kind}-epsilon"
    clip = bridged(name)
    same = {key: is_equal(encoded(clip, text), encode(name, text)) for key, text in PROMPTS.items()}
    (learned, _), *_ = encoded(clip, PROMPTS["embedding"])
    (unknown, _), *_ = encoded(clip, "a circle")
    return {**same, "embedding is read": not torch.equal(learned, unknown)}


def options_are_taken() -> list[bool]:
    name, text = "m9-epsilon", PROMPTS["long"]
    options = ({"weighting": "none"}, {"long_prompt": "truncate"}, {"long_prompt": "single"})
    found = []
    for option in options:
        (ours,) = call("MultilingualTextEncode", text_encoder=load(name)[0], text=text, **option)
        theirs = encoded(bridged(name, **option), text)
        found.append(torch.equal(ours[0][0], theirs[0][0]))
        found.append(not torch.equal(theirs[0][0], encoded(bridged(name), text)[0][0]))
    return found


def nodes_after_it() -> list[Any]:
    """Run stock conditioning nodes and both samplers on what CLIP Text Encode gave."""
    name = "m9-epsilon"
    clip = bridged(name)
    long, short = (encoded(clip, PROMPTS[key]) for key in ("long", "plain"))
    (average,) = stock(
        "ConditioningAverage",
        conditioning_to=short, conditioning_from=long, conditioning_to_strength=0.25,
    )  # fmt: skip
    (both,) = stock("ConditioningCombine", conditioning_1=average, conditioning_2=long)
    (model,) = call("MultilingualUNetToModel", unet=load(name)[1])
    (latent,) = stock(
        "KSampler",
        model=model, seed=1, steps=2, cfg=3.0, sampler_name="euler", scheduler="simple",
        positive=both, negative=short, latent_image=empty(),
    )  # fmt: skip
    (ours,) = call(
        "MultilingualSampler",
        unet=load(name)[1], positive=long, negative=short, latent_image=empty(), steps=2,
    )  # fmt: skip
    wanted = short[0][0] * 0.25 + long[0][0][:, : short[0][0].shape[1]] * 0.75
    return [
        float((average[0][0] - wanted).abs().max()),
        bool(torch.isfinite(latent["samples"]).all()),
        bool(torch.isfinite(ours["samples"]).all()),
    ]


def refusals() -> list[str]:
    """Return what nodes say that cannot mean what they usually do."""
    import nodes

    clip, said = bridged("m18-epsilon"), []
    nodes.NODE_CLASS_MAPPINGS["CLIPSave"].output_directory = None
    for node, inputs in (
        ("CLIPSetLastLayer", {"stop_at_clip_layer": -2}),
        ("CLIPSave", {"filename_prefix": "clip"}),
    ):
        try:
            stock(node, clip=clip, **inputs)
        except ValueError as exc:
            said.append(str(exc))
    copy = clip.clone()
    copy.layer_idx = -2  # as nodes that do not ask
    for spoil in (
        lambda: encoded(copy, "a"),
        lambda: clip.encode_from_tokens({"l": [[(0, 1.0)]]}),
    ):
        try:
            spoil()
        except ValueError as exc:
            said.append(str(exc))
    return said


def patches() -> list[bool]:
    """Patch a copy's weights: it encodes otherwise, the original and our own node as before."""
    name = "m9-epsilon"
    clip, before = bridged(name), encode(name, PROMPTS["plain"])
    key = "0.transformation.weight"
    copy = clip.clone()
    known = key in set(copy.cond_stage_model.state_dict())
    taken = copy.add_patches({key: ("diff", (torch.ones(24, 32),))}, 0.5)
    changed = encoded(copy, PROMPTS["plain"])
    return [
        known,
        list(taken) == [key],
        type(copy) is type(clip),
        not torch.equal(changed[0][0], before[0][0]),
        torch.equal(encoded(clip, PROMPTS["plain"])[0][0], before[0][0]),
        torch.equal(encode(name, PROMPTS["empty"])[0][0], encoded(clip, "")[0][0]),
    ]


def memory() -> list[int]:
    """Return how many models the host knows: after both ways to encode, and when all is freed."""
    name = "chinese-epsilon"
    management.unload_all_models()
    clip = bridged(name)
    encoded(clip, "a")
    encode(name, "b")
    together = len(management.current_loaded_models)
    size = clip.patcher.loaded_size()
    management.unload_all_models()
    return [together, size, clip.patcher.model_size(), len(management.current_loaded_models)]


def write_embedding(folder: Path) -> None:
    """Write a textual inversion of two vectors, as wide as the tiny encoders' words."""
    folder.mkdir()
    vectors = torch.randn(2, tiny.WIDTH, generator=torch.Generator().manual_seed(6))
    save_file({"emb_params": vectors}, folder / "mine.safetensors")
    folder_paths.add_model_folder_path("embeddings", str(folder))


def main(folder: str) -> dict[str, Any]:
    write_embedding(Path(folder) / "embeddings")
    make_models(Path(folder))
    with torch.inference_mode():
        return {
            "same": {kind: same_conditioning(kind) for kind in KINDS},
            "options": options_are_taken(),
            "after": nodes_after_it(),
            "refusals": refusals(),
            "patches": patches(),
            "memory": memory(),
        }
