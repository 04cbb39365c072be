"""Runs inside ComfyUI: each stand-in and the host's own node on the same random inputs.

`main()` returns this ComfyUI's version and, for each stand-in's id, the largest difference of each
case: infinity where shapes, keys or other values differ. A ComfyUI that is too old to compare with
gives no differences.
"""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tiny
import torch
from PIL import Image

Case = dict[str, Any]

REFERENCE = (0, 33)  # older hosts differ in LatentFromBatch, ImageBatch, FeatherMask and more
METHODS = ("nearest-exact", "bilinear", "area", "bicubic")
# What newer hosts write beside what the facts name; our sampler needs none of it
UNUSED_KEYS = {"downscale_ratio_spacial"}


class Random:
    """Inputs from one seeded stream."""

    def __init__(self, seed: int = 0) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def values(self, *shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=self.generator)

    def normal(self, *shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=self.generator)

    def latent(self, count: int = 1, height: int = 8, width: int = 12, **more: Any) -> Case:
        return {"samples": self.normal(count, 4, height, width), **more}

    def masked(self, count: int, masks: int, **more: Any) -> Case:
        return self.latent(count, noise_mask=self.values(masks, 1, 64, 96), **more)

    def entry(self, tokens: int, *, pooled: bool = True, **more: Any) -> list[Any]:
        vector = self.normal(1, 6) if pooled else None
        return [self.normal(1, tokens, 6), {"pooled_output": vector, **more}]


def latents(random: Random) -> dict[str, list[Case]]:
    batch = random.masked(3, 3, batch_index=[4, 5, 9])
    few = random.masked(5, 2)
    one = random.masked(2, 1)
    odd = random.latent(2, 9, 7)
    zeros = {"samples": torch.zeros(1, 4, 8, 8)}
    sizes = ((0, 0), (0, 96), (136, 0), (200, 56), (96, 64), (32, 16))
    big = random.latent(2, 24, 20)
    return {
        "EmptyLatentImage": [
            {"width": 64, "height": 96, "batch_size": 3},
            {"width": 77, "height": 100, "batch_size": 1},
        ],
        "LatentUpscale": [
            {"samples": each, "upscale_method": method, "width": w, "height": h, "crop": crop}
            for each, (w, h), method, crop in itertools.product(
                (batch, odd), sizes, (*METHODS, "bislerp"), ("disabled", "center")
            )
        ],
        "LatentUpscaleBy": [
            {"samples": each, "upscale_method": method, "scale_by": factor}
            for each, method, factor in itertools.product(
                (batch, odd, zeros), (*METHODS, "bislerp"), (0.5, 1.0, 1.37, 2.0, 3.3)
            )
        ],
        "LatentRotate": [
            {"samples": odd, "rotation": turn}
            for turn in ("none", "90 degrees", "180 degrees", "270 degrees")
        ],
        "LatentFlip": [
            {"samples": batch, "flip_method": way}
            for way in ("x-axis: vertically", "y-axis: horizontally")
        ],
        "LatentCrop": [
            {"samples": batch, "width": w, "height": h, "x": x, "y": y}
            for (w, h), (x, y) in itertools.product(
                ((64, 64), (72, 512)), ((0, 0), (24, 16), (88, 999))
            )
        ],
        "LatentComposite": [
            {"samples_to": big, "samples_from": batch | {"samples": batch["samples"][:n]},
             "x": x, "y": y, "feather": feather}
            for n, (x, y), feather in itertools.product(
                (1, 2), ((0, 0), (40, 32), (96, 152), (64, 0)), (0, 8, 24)
            )
        ],
        "SetLatentNoiseMask": [
            {"samples": batch, "mask": mask}
            for mask in (random.values(3, 20, 30), random.values(9, 9))
        ],
        "LatentFromBatch": [
            {"samples": each, "batch_index": index, "length": length}
            for each, index, length in itertools.product(
                (batch, few, one, odd), (-9, -2, 0, 1, 7), (1, 2, 9)
            )
        ],
        "RepeatLatentBatch": [
            {"samples": each, "amount": amount}
            for each, amount in itertools.product((batch, one, odd), (1, 3))
        ],
        "LatentBatch": [
            {"samples1": a, "samples2": b}
            for a, b in itertools.permutations((batch, odd, random.latent(1)), 2)
        ],
    }  # fmt: skip


def conditionings(random: Random) -> dict[str, list[Case]]:
    one, long, bare = random.entry(7), random.entry(11, strength=2.0), random.entry(9, pooled=False)
    two = [random.entry(5), random.entry(7, mask=random.values(1, 8, 8))]
    prompts = ([one], [long], [bare], two)
    mask, flat = random.values(2, 16, 24), random.values(16, 24)
    return {
        "ConditioningCombine": [
            {"conditioning_1": a, "conditioning_2": b}
            for a, b in itertools.permutations(prompts, 2)
        ],
        "ConditioningConcat": [
            {"conditioning_to": a, "conditioning_from": b}
            for a, b in itertools.permutations(prompts, 2)
        ],
        "ConditioningAverage": [
            {"conditioning_to": a, "conditioning_from": b, "conditioning_to_strength": strength}
            for (a, b), strength in itertools.product(
                itertools.permutations(prompts, 2), (0.0, 0.3, 1.0)
            )
        ],
        "ConditioningSetArea": [
            {"conditioning": each, "width": 72, "height": 100, "x": 20, "y": 8, "strength": 0.7}
            for each in prompts
        ],
        "ConditioningSetAreaPercentage": [
            {"conditioning": two, "width": 0.5, "height": 0.25, "x": 0.1, "y": 0.2, "strength": 3.0}
        ],
        "ConditioningSetAreaStrength": [
            {"conditioning": each, "strength": 0.3} for each in prompts
        ],
        "ConditioningSetMask": [
            {"conditioning": two, "mask": each, "strength": 0.6, "set_cond_area": bounds}
            for each, bounds in itertools.product((mask, flat), ("default", "mask bounds"))
        ],
        "ConditioningSetTimestepRange": [{"conditioning": two, "start": 0.25, "end": 0.75}],
        "ConditioningZeroOut": [{"conditioning": each} for each in prompts],
    }


def pictures(random: Random) -> dict[str, list[Case]]:
    image, alpha = random.values(2, 24, 17, 3), random.values(1, 12, 30, 4)
    sizes = ((0, 0), (0, 50), (33, 0), (40, 20), (9, 31))
    methods = (*METHODS, "lanczos")
    edges = (
        (0, 0, 0, 0, 0), (8, 0, 0, 0, 5), (8, 16, 0, 8, 4), (0, 0, 8, 8, 40), (1, 2, 3, 4, 8),
        (8, 8, 8, 8, 1),
    )  # fmt: skip
    names = ("left", "top", "right", "bottom", "feathering")
    return {
        "ImageScale": [
            {"image": each, "upscale_method": method, "width": w, "height": h, "crop": crop}
            for each, (w, h), method, crop in itertools.product(
                (image, alpha), sizes, methods, ("disabled", "center")
            )
        ],
        "ImageScaleBy": [
            {"image": each, "upscale_method": method, "scale_by": factor}
            for each, method, factor in itertools.product((image, alpha), methods, (0.4, 1.0, 2.7))
        ],
        "ImageInvert": [{"image": image}, {"image": alpha}],
        "ImageBatch": [
            {"image1": a, "image2": b}
            for a, b in itertools.permutations((image, alpha, random.values(1, 24, 17, 3)), 2)
        ],
        "ImagePadForOutpaint": [
            {"image": each, **dict(zip(names, edge, strict=True))}
            for each, edge in itertools.product((image, alpha), edges)
        ],
        "ImageToMask": [
            {"image": alpha, "channel": name} for name in ("red", "green", "blue", "alpha")
        ],
    }


def masks(random: Random) -> dict[str, list[Case]]:
    mask, flat = random.values(2, 20, 31), random.values(9, 14)
    edges = ((0, 0, 0, 0), (5, 0, 0, 3), (7, 6, 5, 4), (99, 99, 99, 99), (20, 0, 20, 1))
    names = ("left", "top", "right", "bottom")
    return {
        "SolidMask": [{"value": 0.3, "width": 5, "height": 9}],
        "InvertMask": [{"mask": mask}, {"mask": flat}],
        "MaskToImage": [{"mask": mask}, {"mask": flat}],
        "FeatherMask": [
            {"mask": each, **dict(zip(names, edge, strict=True))}
            for each, edge in itertools.product((mask, flat), edges)
        ],
        "GrowMask": [
            {"mask": each, "expand": by, "tapered_corners": tapered}
            for each, by, tapered in itertools.product(
                (mask, flat), (-3, -1, 0, 1, 4, 60), (True, False)
            )
        ],
    }


def values(random: Random) -> dict[str, list[Case]]:
    falling = random.values(7).sort(descending=True).values
    to_zero = torch.cat([falling, torch.zeros(1)])
    zeros = torch.zeros(2)
    limits = {"sigma_max": 14.614642, "sigma_min": 0.0291675}
    steps = (1, 2, 20, 37)
    return {
        "PrimitiveInt": [{"value": -3}],
        "PrimitiveFloat": [{"value": 0.1}],
        "PrimitiveString": [{"value": "a dog"}],
        "PrimitiveStringMultiline": [{"value": "a\ndog"}],
        "PrimitiveBoolean": [{"value": False}],
        "StringConcatenate": [
            {"string_a": "a", "string_b": "b", "delimiter": each} for each in ("", ", ")
        ],
        "PreviewAny": [
            {"source": each}
            for each in ("a dog", 7, 0.5, True, None, [1, "\u72d7"], {"a": 1}, {1, 2}, zeros)
        ],
        "KarrasScheduler": [
            {"steps": n, "rho": rho, **limits} for n, rho in itertools.product(steps, (1.0, 7.0))
        ],
        "ExponentialScheduler": [{"steps": n, **limits} for n in steps],
        "PolyexponentialScheduler": [
            {"steps": n, "rho": rho, **limits} for n, rho in itertools.product(steps, (1.0, 2.5))
        ],
        "SplitSigmas": [{"sigmas": to_zero, "step": step} for step in (0, 3, 7, 99)],
        "SplitSigmasDenoise": [
            {"sigmas": to_zero, "denoise": share} for share in (0.0, 0.3, 0.5, 1.0)
        ],
        "FlipSigmas": [{"sigmas": each} for each in (falling, to_zero, to_zero[:0])],
        "SetFirstSigma": [{"sigmas": to_zero, "sigma": 3.5}],
    }


def file_cases(random: Random, folder: Path) -> dict[str, list[Case]]:
    """Write picture files into the host's input folder: kinds that every version of PyAV opens."""
    colours = (random.values(13, 11, 4).numpy() * 255).astype(np.uint8)
    rgba, rgb = Image.fromarray(colours), Image.fromarray(colours[..., :3])
    rgb.save(folder / "rgb.png")
    rgba.save(folder / "rgba.png")
    (folder / "sub").mkdir()
    rgb.save(folder / "sub" / "deep.png")
    names = ("rgb.png", "rgba.png", "sub/deep.png", "rgb.png [input]")
    return {
        "LoadImage": [{"image": name} for name in names],
        "LoadImageMask": [
            {"image": name, "channel": channel}
            for name, channel in itertools.product(
                ("rgb.png", "rgba.png"), ("alpha", "red", "green", "blue")
            )
        ],
    }


# -- comparing


def difference(own: Any, theirs: Any) -> float:
    """Return the largest difference of two results; infinity where they are of two kinds."""
    if isinstance(own, torch.Tensor) and isinstance(theirs, torch.Tensor):
        if own.shape != theirs.shape or own.dtype != theirs.dtype:
            return math.inf
        gaps = (own - theirs).abs().nan_to_num(nan=math.inf)
        return 0.0 if torch.equal(own, theirs) else float(gaps.max())
    if isinstance(own, Mapping) and isinstance(theirs, Mapping):
        keys = set(own) | set(theirs) - UNUSED_KEYS
        if not all(key in own and key in theirs for key in keys):
            return math.inf
        return max((difference(own[key], theirs[key]) for key in keys), default=0.0)
    if isinstance(own, (list, tuple)) and isinstance(theirs, (list, tuple)):
        if len(own) != len(theirs):
            return math.inf
        return max(map(difference, own, theirs), default=0.0)
    return 0.0 if type(own) is type(theirs) and own == theirs else math.inf


def call_host(name: str, case: Case) -> Any:
    """Call the host's node as its executor does, whichever form it has."""
    import nodes

    node_class = nodes.NODE_CLASS_MAPPINGS[name]
    function = getattr(node_class(), node_class.FUNCTION)
    outcome = function(**case)
    return getattr(outcome, "result", outcome)


def call_own(name: str, case: Case) -> Any:
    from multilingual_diffusion.nodes.stock import STOCK_CLASS_MAPPINGS

    node_class: Any = STOCK_CLASS_MAPPINGS[name]
    return node_class().execute(**case)


def vae_cases(random: Random) -> Iterator[tuple[str, Case]]:
    """Inputs of the VAE nodes; one VAE of each side has the same weights."""
    for side in ((64, 64), (67, 77)):
        image = random.values(2, *side, 3)
        yield "VAEEncode", {"pixels": image}
        yield "VAEEncode", {"pixels": random.values(1, *side, 4)}
        for grow, size in itertools.product((0, 1, 4, 5, 6), (side, (20, 30))):
            mask = (random.values(1, *size) > 0.8).float()
            yield "VAEEncodeForInpaint", {"pixels": image, "mask": mask, "grow_mask_by": grow}
    yield "VAEDecode", {"samples": {"samples": random.normal(2, 4, 8, 6)}}


def make_vaes() -> tuple[Any, Any]:
    """Return our socket and the host's VAE, both around one tiny network's weights."""
    import comfy.sd
    from multilingual_diffusion.nodes.sockets import SocketPart
    from multilingual_diffusion.pipeline_core.vae.codec import VAE

    network: Any = tiny.vae()
    channels = tiny.VAE["block_out_channels"]
    config = {
        "ch": channels[0], "ch_mult": [each // channels[0] for each in channels],
        "double_z": True, "z_channels": 4, "resolution": 256, "in_channels": 3, "out_ch": 3,
        "num_res_blocks": 2, "attn_resolutions": [], "dropout": 0.0,
    }  # fmt: skip
    weights = {name: value.clone() for name, value in network.state_dict().items()}
    hosted = comfy.sd.VAE(
        sd=weights, config={"params": {"ddconfig": config, "embed_dim": 4}}, dtype=torch.float32
    )
    return SocketPart(source="tiny", part=VAE(network)), hosted


def compare_vaes(random: Random) -> dict[str, list[float]]:
    own, hosted = make_vaes()
    found: dict[str, list[float]] = {}
    for name, case in vae_cases(random):
        results = call_own(name, {**case, "vae": own}), call_host(name, {**case, "vae": hosted})
        found.setdefault(name, []).append(difference(*results))
    return found


def compare_saved(random: Random) -> float:
    """Save one batch by both; return how far the pixels of the files lie apart."""
    import folder_paths

    folder = Path(folder_paths.get_output_directory())
    images = random.values(2, 9, 14, 3) * 1.2 - 0.1
    files: list[list[Path]] = []
    for call, prefix in ((call_own, "own"), (call_host, "theirs")):
        call("SaveImage", {"images": images, "filename_prefix": prefix})
        files.append(sorted(folder.glob(f"{prefix}_*.png")))
    if [len(each) for each in files] != [2, 2]:
        return math.inf
    pairs = zip(*files, strict=True)
    return max(difference(*(torch.from_numpy(np.asarray(Image.open(f))) for f in p)) for p in pairs)


def main(base: str) -> tuple[str, dict[str, list[float]]]:
    import comfyui_version
    import folder_paths

    import nodes

    version = comfyui_version.__version__
    if tuple(int(part) for part in version.split(".")[:2]) < REFERENCE:
        return version, {}
    asyncio.run(nodes.init_builtin_extra_nodes())
    for kind in ("input", "output"):
        (Path(base) / kind).mkdir()
        getattr(folder_paths, f"set_{kind}_directory")(str(Path(base) / kind))
    random = Random()
    cases = {
        **latents(random), **conditionings(random), **pictures(random), **masks(random),
        **values(random), **file_cases(random, Path(base) / "input"),
    }  # fmt: skip
    found = {
        name: [difference(call_own(name, case), call_host(name, case)) for case in each]
        for name, each in cases.items()
    }
    found |= {**compare_vaes(random), "SaveImage": [compare_saved(random)]}
    return version, found
