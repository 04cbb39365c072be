"""Write single files in the names of the original latent diffusion code, and FlagAI folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import tiny
import torch
from layout_parts import (
    PREPROCESSOR,
    Model,
    Tensors,
    cast_floats,
    ema_unet,
    modules,
    save_tensors,
    text_tensors,
    write_sentencepiece,
)
from ldm_names import ldm_unet, ldm_vae

LDM_BUFFERS = (
    "betas", "alphas_cumprod", "alphas_cumprod_prev", "sqrt_alphas_cumprod",
    "sqrt_one_minus_alphas_cumprod", "log_one_minus_alphas_cumprod", "sqrt_recip_alphas_cumprod",
    "sqrt_recipm1_alphas_cumprod", "posterior_variance", "posterior_log_variance_clipped",
    "posterior_mean_coef1", "posterior_mean_coef2",
)  # fmt: skip
# Every spelling a text encoder's names were seen or are expected with, behind `cond_stage_model.`
TEXT_PREFIXES = ("", "text_encoder.", "ch_clip_model.text_model.", "text_model.", "model.")


def write_single_file(
    path: Path,
    model: Model = "m9",
    *,
    prefixes: tuple[str, ...] = ("",),
    ema: Literal[False, "model_ema", "state_dict_ema"] = False,
    position_ids: bool = False,
    pooler: bool = True,
    extra: bool = True,
    buffers: bool = True,
    vision: bool = False,
    wrapped: bool = True,
    dtype: torch.dtype = torch.float32,
) -> Path:
    """Write one checkpoint; the suffix of `path` (.safetensors, .ckpt) chooses the format.

    `prefixes` are the spellings of TEXT_PREFIXES the encoder is written under, several for the
    duplicates of trainer dumps; `vision` adds the picture side of AltCLIP; `wrapped` puts pickles
    under `state_dict` with a `global_step`; `ema="state_dict_ema"` needs a pickle.
    """
    tensors = single_file_tensors(
        model,
        prefixes=prefixes,
        position_ids=position_ids,
        pooler=pooler,
        extra=extra,
        buffers=buffers,
    )
    if vision:
        for name in ("vision_model.embeddings.class_embedding", "visual_projection.weight"):
            tensors[f"cond_stage_model.ch_clip_model.{name}"] = torch.ones(4, 4)
    if ema == "model_ema":
        tensors |= ema_tensors(model)
    tensors = cast_floats(tensors, dtype)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        save_tensors(path, tensors)
        return path
    second = {}
    if ema == "state_dict_ema":
        averaged = ldm_unet(dict(ema_unet(model).state_dict()))
        second = {"state_dict_ema": {f"model.diffusion_model.{k}": v for k, v in averaged.items()}}
    content = {"state_dict": tensors, "global_step": 470000, **second} if wrapped else tensors
    torch.save(content, path)
    return path


def write_sd_checkpoint(path: Path, version: Literal["sd1", "sd2"] = "sd1") -> Path:
    """Write a plain Stable Diffusion checkpoint; its UNet and VAE equal `modules(version)`."""
    tensors = single_file_tensors(version, prefixes=())
    clip = "cond_stage_model.transformer.text_model."
    if version == "sd2":
        clip = "cond_stage_model.model.transformer.resblocks.0."
    tensors[f"{clip}ln_1.weight"] = torch.ones(tiny.WIDTH)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        save_tensors(path, tensors)
    else:
        torch.save({"state_dict": tensors, "global_step": 1}, path)
    return path


def write_flagai_folder(path: Path, model: Model = "m9", **options: Any) -> Path:
    """Write a FlagAI checkpoint folder; `options` go to `write_single_file`."""
    path.mkdir(parents=True, exist_ok=True)
    wide = model == "m18"
    (path / "config.yaml").write_text(
        _FLAGAI_YAML.format(
            context=tiny.WIDTH if wide else tiny.PROJECT,
            heads="num_head_channels: 64" if wide else "num_heads: 8",
            linear=wide,
        ),
        encoding="utf-8",
    )
    write_single_file(path / "model.ckpt", model, **options)
    write_sentencepiece(path)
    tiny.write_json(path / "preprocessor_config.json", PREPROCESSOR)
    return path


_FLAGAI_YAML = """model:
  base_learning_rate: 1.0e-04
  target: flagai.model.mm.AltDiffusion.LatentDiffusion
  params:
    linear_start: 0.00085
    linear_end: 0.0120
    timesteps: 1000
    scale_factor: 0.18215
    unet_config:
      target: flagai.model.mm.Unets.Unet.UNetModel
      params:
        in_channels: 4
        out_channels: 4
        context_dim: {context}
        {heads}
        use_linear_in_transformer: {linear}
        legacy: False
    cond_stage_config:
      target: flagai.model.mm.AltCLIP.AltCLIPProcess
"""


def single_file_tensors(
    model: Model, *, prefixes: tuple[str, ...] = ("",), buffers: bool = True, **text: bool
) -> Tensors:
    """Return the tensors of a checkpoint; `text` goes to `text_tensors`."""
    built = modules(model)
    tensors: Tensors = {}
    if buffers:
        tensors |= {name: torch.linspace(0.0, 1.0, 1000) for name in LDM_BUFFERS}
    unet = ldm_unet(dict(built["unet"].state_dict()))
    tensors |= {f"model.diffusion_model.{name}": value for name, value in unet.items()}
    vae = ldm_vae(dict(built["vae"].state_dict()))
    tensors |= {f"first_stage_model.{name}": value for name, value in vae.items()}
    for prefix in prefixes:
        encoder = text_tensors(model, **text)
        tensors |= {f"cond_stage_model.{prefix}{name}": value for name, value in encoder.items()}
    return tensors


def ema_tensors(model: Model) -> Tensors:
    """Return `model_ema.*`: names without dots, as LitEma registers its buffers."""
    unet = ldm_unet(dict(ema_unet(model).state_dict()))
    tensors = {
        "model_ema." + f"diffusion_model.{name}".replace(".", ""): value
        for name, value in unet.items()
    }
    tensors["model_ema.decay"] = torch.tensor(0.9999)
    tensors["model_ema.num_updates"] = torch.tensor(470000, dtype=torch.int32)
    return tensors
