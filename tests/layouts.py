"""Write every published layout from the tiny components, for all tests that load files.

All layouts of one model hold the same seeded weights (`modules(model)`), so that pictures can be
compared. Names and quirks as published: models.md 1.4, 2 and 3.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any, Literal

import tiny
import torch
from ldm_names import ldm_unet, ldm_vae
from safetensors.torch import save_file

Model = Literal["m2", "m9", "m18", "chinese", "sd1", "sd2"]
Tensors = dict[str, torch.Tensor]

ALT = ("m2", "m9", "m18")
CHINESE_VOCAB_SIZE = 512
LDM_BUFFERS = (
    "betas", "alphas_cumprod", "alphas_cumprod_prev", "sqrt_alphas_cumprod",
    "sqrt_one_minus_alphas_cumprod", "log_one_minus_alphas_cumprod", "sqrt_recip_alphas_cumprod",
    "sqrt_recipm1_alphas_cumprod", "posterior_variance", "posterior_log_variance_clipped",
    "posterior_mean_coef1", "posterior_mean_coef2",
)  # fmt: skip
# Every spelling a text encoder's names were seen or are expected with, behind `cond_stage_model.`
TEXT_PREFIXES = ("", "text_encoder.", "ch_clip_model.text_model.", "text_model.", "model.")


# --- the weights


@functools.cache
def modules(model: Model) -> dict[str, torch.nn.Module]:
    """Return the tiny modules all layouts of a model are written from; do not change them."""
    wide = model in ("m18", "chinese", "sd2")
    found = {
        "unet": tiny.unet(tiny.UNET_M18 if wide else tiny.UNET_M9),
        "vae": tiny.vae(),
        "safety_checker": tiny.safety_checker(),
    }
    if model in ALT:
        found["text_encoder"] = tiny.roberta_series(m18=model == "m18")
    elif model == "chinese":
        found["text_encoder"] = tiny.chinese_clip(CHINESE_VOCAB_SIZE)
    else:
        found["text_encoder"] = _clip_text(tiny.WIDTH if wide else tiny.PROJECT)
    return found


@functools.cache
def ema_unet(model: Model) -> torch.nn.Module:
    """Return the UNet that EMA entries of single files hold: another one than `modules`."""
    return tiny.unet(tiny.UNET_M18 if model in ("m18", "chinese", "sd2") else tiny.UNET_M9, seed=11)


def _clip_text(width: int) -> torch.nn.Module:
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(
        vocab_size=300,
        hidden_size=width,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        bos_token_id=0,
        eos_token_id=2,
    )
    return tiny.widen(CLIPTextModel(config), seed=6)


# --- tokenizers and small files


def write_sentencepiece(folder: Path) -> None:
    """Write the three tokenizer files of the AltDiffusion folders."""
    folder.mkdir(parents=True, exist_ok=True)
    model = tiny.sentencepiece_file().read_bytes()
    (folder / "sentencepiece.bpe.model").write_bytes(model)
    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    tiny.write_json(folder / "special_tokens_map.json", special)
    config = {"model_max_length": 77, "tokenizer_class": "XLMRobertaTokenizer"}
    tiny.write_json(folder / "tokenizer_config.json", config)


@functools.cache
def chinese_vocabulary() -> tuple[str, ...]:
    """Return a small WordPiece vocabulary with BERT's special ids, filled from the corpus."""
    corpus = (Path(tiny.__file__).parent / "data" / "tiny_corpus.txt").read_text(encoding="utf-8")
    letters = sorted(
        set(corpus.lower()) - set(" \n") | set("abcdefghijklmnopqrstuvwxyz0123456789,")
    )
    words = ["[PAD]", *(f"[unused{n}]" for n in range(1, 100)), "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words += [*letters, *(f"##{letter}" for letter in letters if letter.isascii())]
    words = words[:CHINESE_VOCAB_SIZE]
    return (*words, *(f"[unused{n}]" for n in range(100, 100 + CHINESE_VOCAB_SIZE - len(words))))


def write_wordpiece(folder: Path) -> None:
    """Write the tokenizer folder of Chinese Stable Diffusion."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(chinese_vocabulary()) + "\n", encoding="utf-8")
    config = {"do_lower_case": True, "tokenizer_class": "BertTokenizer"}
    tiny.write_json(folder / "tokenizer_config.json", config)


PREPROCESSOR = {
    "crop_size": 32,
    "do_center_crop": True,
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_resize": True,
    "feature_extractor_type": "CLIPFeatureExtractor",
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "resample": 3,
    "size": 32,
}


def write_safety_checker(folder: Path, weights: str = "bin", preprocessor: bool = True) -> Path:
    """Write a checker with the published names (and `position_ids`, as older files have)."""
    module = tiny.safety_checker()
    tensors = {
        re.sub(r"^vision_model\.(?!vision_model\.)", "vision_model.vision_model.", name): value
        for name, value in module.state_dict().items()
    }
    patches = (32 // 8) ** 2 + 1
    name = "vision_model.vision_model.embeddings.position_ids"
    tensors[name] = torch.arange(patches)[None]
    vision = module.config.vision_config.to_dict()
    config = {
        "architectures": ["StableDiffusionSafetyChecker"],
        "model_type": "clip",
        "projection_dim": 16,
        "vision_config": {key: vision[key] for key in _VISION_KEYS},
    }
    tiny.write_json(folder / "config.json", config)
    _write_weights(folder, "model", tensors, weights)
    if preprocessor:
        tiny.write_json(folder / "preprocessor_config.json", PREPROCESSOR)
    return folder


_VISION_KEYS = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "image_size", "patch_size", "projection_dim", "hidden_act", "layer_norm_eps",
)  # fmt: skip


# --- diffusers folders


def write_diffusers_folder(
    path: Path,
    model: Model = "m9",
    *,
    weights: Literal["bin", "safetensors"] = "bin",
    old_vae_names: bool = False,
    null_checkers: bool = False,
    safety_checker: bool = True,
    fp16_variant: bool = False,
    sharded: bool = False,
    position_ids: bool = False,
    pooler: bool = True,
    dtype: torch.dtype = torch.float32,
    sample_size: int = 32,
    scheduler: dict[str, Any] | None = None,
    class_name: str | None = None,
) -> Path:
    """Write the folder as BAAI publishes it: library name `alt_diffusion`, `sample_size` 32."""
    path.mkdir(parents=True, exist_ok=True)
    checked = safety_checker and not null_checkers
    tiny.write_json(
        path / "model_index.json", _model_index(model, checked, null_checkers, class_name)
    )
    variant = "fp16" if fp16_variant else None
    dtype = torch.float16 if fp16_variant else dtype

    def write(part: str, stem: str, tensors: Tensors) -> None:
        _write_weights(path / part, stem, _cast(tensors, dtype), weights, variant, sharded)

    built = modules(model)
    write("unet", "diffusion_pytorch_model", dict(built["unet"].state_dict()))
    vae = dict(built["vae"].state_dict())
    write("vae", "diffusion_pytorch_model", old_vae_attention(vae) if old_vae_names else vae)
    write("text_encoder", "model", text_tensors(model, position_ids=position_ids, pooler=pooler))
    wide = model in ("m18", "chinese", "sd2")
    unet = {**(tiny.UNET_M18 if wide else tiny.UNET_M9), "sample_size": sample_size}
    header = {"_class_name": "UNet2DConditionModel", "_diffusers_version": "0.8.0.dev0"}
    tiny.write_json(path / "unet" / "config.json", {**header, **unet})
    vae_config = {key: value for key, value in tiny.VAE.items() if key != "scaling_factor"}
    header = {"_class_name": "AutoencoderKL", "_diffusers_version": "0.8.0.dev0"}
    tiny.write_json(path / "vae" / "config.json", {**header, **vae_config})
    tiny.write_json(path / "text_encoder" / "config.json", text_config(model))
    tiny.write_json(path / "scheduler" / "scheduler_config.json", scheduler or tiny.SCHEDULER)
    (write_wordpiece if model == "chinese" else write_sentencepiece)(path / "tokenizer")
    if checked:
        write_safety_checker(path / "safety_checker", weights, preprocessor=False)
        tiny.write_json(path / "feature_extractor" / "preprocessor_config.json", PREPROCESSOR)
    return path


def write_modelscope_folder(
    path: Path,
    *,
    prediction_type: str | None = "epsilon",
    weights: Literal["bin", "safetensors"] = "bin",
    safety_checker: bool = True,
) -> Path:
    """Write Chinese Stable Diffusion as ModelScope's `from_pretrained` needs it."""
    scheduler = dict(tiny.SCHEDULER)
    if prediction_type is not None:
        scheduler["prediction_type"] = prediction_type
    write_diffusers_folder(
        path,
        "chinese",
        weights=weights,
        safety_checker=safety_checker,
        sample_size=8,
        scheduler=scheduler,
        class_name="_DiffuersChineseStableDiffusionPipeline",  # sic
    )
    task = {
        "framework": "pytorch",
        "task": "text-to-image-synthesis",
        "pipeline": {"type": "chinese-stable-diffusion"},
    }
    tiny.write_json(path / "configuration.json", task)
    return path


def text_config(model: Model) -> dict[str, Any]:
    """Return text_encoder/config.json."""
    if model in ALT:
        config = {
            "_name_or_path": "../test/text_encoder",
            "architectures": ["RobertaSeriesModelWithTransformation"],
            **tiny.XLMR,
            "learn_encoder": False,
            "model_type": "xlm-roberta",
            "pooler_fn": "cls",
            "position_embedding_type": "absolute",
            "project_dim": tiny.WIDTH if model == "m18" else tiny.PROJECT,
            "torch_dtype": "float32",
            "transformers_version": "4.24.0.dev0",
            "use_attention_mask": True,
            "use_cache": True,
            "vocab_size": 300,
        }
        return {**config, "has_pre_transformation": True} if model == "m18" else config
    if model == "chinese":
        return {
            "architectures": ["ChineseCLIPTextModel"],
            **tiny.CHINESE,
            "model_type": "chinese_clip_text_model",
            "vocab_size": CHINESE_VOCAB_SIZE,
        }
    return {"architectures": ["CLIPTextModel"], "model_type": "clip_text_model"}


def text_tensors(
    model: Model, *, position_ids: bool = False, pooler: bool = True, extra: bool = False
) -> Tensors:
    """Return the encoder's tensors, with or without what old files carry and nobody needs.

    `extra` adds `pre_LN` to m2/m9 (FlagAI's class has it, unused) and `logit_scale` to m18.
    """
    tensors = dict(modules(model)["text_encoder"].state_dict())
    stem = "roberta." if model in ALT else ""
    if not pooler or model == "m18":  # m18 was published without a pooler
        tensors = {name: value for name, value in tensors.items() if ".pooler." not in f".{name}"}
    if position_ids and model not in ("sd1", "sd2"):
        length = tiny.XLMR["max_position_embeddings"] if stem else 512
        tensors[f"{stem}embeddings.position_ids"] = torch.arange(length)[None]
    if extra and model in ("m2", "m9"):
        tensors["pre_LN.weight"] = torch.full((tiny.WIDTH,), 1.5)
        tensors["pre_LN.bias"] = torch.full((tiny.WIDTH,), 0.5)
    if extra and model == "m18":
        tensors["logit_scale"] = torch.tensor(2.6592)
    return tensors


def old_vae_attention(tensors: Tensors) -> Tensors:
    """Give the VAE's attention the names that diffusers 0.8 wrote."""
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    return {
        re.sub(r"(?<=attentions\.0\.)(to_[qkv]|to_out\.0)", lambda hit: old[hit[0]], name): value
        for name, value in tensors.items()
    }


def _model_index(
    model: Model, checked: bool, null_checkers: bool, class_name: str | None
) -> dict[str, Any]:
    text = ["alt_diffusion", "RobertaSeriesModelWithTransformation"]
    tokenizer = "XLMRobertaTokenizer"
    pipeline = "AltDiffusionPipeline"
    if model == "chinese":
        text, tokenizer = ["transformers", "ChineseCLIPTextModel"], "ChineseCLIPProcessor"
    if model in ("sd1", "sd2"):
        text, tokenizer = ["transformers", "CLIPTextModel"], "CLIPTokenizer"
        pipeline = "StableDiffusionPipeline"
    index: dict[str, Any] = {
        "_class_name": class_name or pipeline,
        "_diffusers_version": "0.8.0.dev0",
        "scheduler": ["diffusers", "PNDMScheduler"],
        "text_encoder": text,
        "tokenizer": ["transformers", tokenizer],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    if checked:
        index["feature_extractor"] = ["transformers", "CLIPFeatureExtractor"]
        index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    if null_checkers:
        index |= {"feature_extractor": [None, None], "safety_checker": [None, None]}
        index["requires_safety_checker"] = False
    return index


def _cast(tensors: Tensors, dtype: torch.dtype) -> Tensors:
    return {
        name: value.to(dtype) if value.is_floating_point() else value
        for name, value in tensors.items()
    }


def _write_weights(
    folder: Path,
    stem: str,
    tensors: Tensors,
    weights: str,
    variant: str | None = None,
    sharded: bool = False,
) -> None:
    """Write one file, or two shards and their index, under the hub's names."""
    folder.mkdir(parents=True, exist_ok=True)
    if weights == "bin" and stem == "model":
        stem = "pytorch_model"
    marked = f"{stem}.{variant}" if variant else stem
    if not sharded:
        save_tensors(folder / f"{marked}.{weights}", tensors)
        return
    names = sorted(tensors)
    halves = names[: len(names) // 2], names[len(names) // 2 :]
    weight_map: dict[str, str] = {}
    for number, half in enumerate(halves, 1):
        file = f"{marked}-{number:05}-of-00002.{weights}"
        save_tensors(folder / file, {name: tensors[name] for name in half})
        weight_map |= dict.fromkeys(half, file)
    index = ".".join([stem, weights, "index", *([variant] if variant else []), "json"])
    tiny.write_json(folder / index, {"metadata": {}, "weight_map": weight_map})


def save_tensors(path: Path, tensors: Tensors) -> None:
    """Write tensors in the format that the suffix names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        save_file({name: value.contiguous().clone() for name, value in tensors.items()}, path)
    else:
        torch.save(tensors, path)


# --- single files, in the names of the original latent diffusion code


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
    tensors = _cast(tensors, dtype)
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
