"""What the layouts are written from: one set of seeded tiny modules a model, and the small files.

`modules(model)` is what every layout of a model holds, so that pictures can be compared.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any, Literal

import tiny
import torch
from safetensors.torch import save_file

Model = Literal["m2", "m9", "m18", "chinese", "sd1", "sd2"]
Tensors = dict[str, torch.Tensor]

ALT = ("m2", "m9", "m18")
CHINESE_VOCAB_SIZE = 512


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


def cast_floats(tensors: Tensors, dtype: torch.dtype) -> Tensors:
    """Return the tensors with every float one in another dtype."""
    return {
        name: value.to(dtype) if value.is_floating_point() else value
        for name, value in tensors.items()
    }


def save_tensors(path: Path, tensors: Tensors) -> None:
    """Write tensors in the format that the suffix names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        save_file({name: value.contiguous().clone() for name, value in tensors.items()}, path)
    else:
        torch.save(tensors, path)
