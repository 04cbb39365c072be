"""Which models there are: one frozen entry each. Adding a model is one entry in `MODELS`.

Facts and sources: the model cards of BAAI/AltDiffusion, -m9, -m18 and
damo/multi-modal_chinese_stable_diffusion_v1.0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..errors import UnknownName
from .configs import (
    ALT_M18_TEXT,
    ALT_TEXT,
    CHINESE_CLIP_TEXT,
    KL_F8_VAE,
    PNDM_SCHEDULER,
    SD1_UNET,
    SD2_UNET,
    Config,
)

# Keys of text.encoders.ENCODERS; each is one conditioning rule of models.md section 0.
EncoderFamily = Literal["altdiffusion", "altdiffusion-m18", "chinese-clip"]
PredictionType = Literal["epsilon", "v_prediction"]

_DIFFUSERS_FILES = (
    "model_index.json",
    "feature_extractor/preprocessor_config.json",
    "safety_checker/config.json",
    "safety_checker/pytorch_model.bin",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/pytorch_model.bin",
    "tokenizer/sentencepiece.bpe.model",
    "tokenizer/special_tokens_map.json",
    "tokenizer/tokenizer_config.json",
    "unet/config.json",
    "unet/diffusion_pytorch_model.bin",
    "vae/config.json",
    "vae/diffusion_pytorch_model.bin",
)


OPEN_RAIL_M = "CreativeML OpenRAIL-M"
SEE_PAGE = "see the model's page"  # its licence is not stated in what we have


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """One model: what it speaks, how it is built, where it is published."""

    name: str
    title: str
    languages: tuple[str, ...]  # BCP-47
    encoder: EncoderFamily
    context_width: int  # D of the conditioning
    context_length: int  # tokens of one window, special tokens included
    single_pass_length: int | None  # longest single pass, None where the encoder has no such way
    text_config: Config
    unet_config: Config
    vae_config: Config
    scheduler_config: Config
    prediction_type: PredictionType | None  # None: only the folder's scheduler config knows
    native_size: int  # pixels, both sides
    licence: str  # a name that `licences` has the text of, or SEE_PAGE
    default_sampler: str = "dpmpp_2m"
    default_steps: int = 25
    default_guidance_scale: float = 7.5
    download_bytes: int = 0  # of the published files together; 0: embedded, or not known
    huggingface_id: str | None = None
    modelscope_id: str | None = None
    files: tuple[str, ...] = ()  # as published; empty: everything the hub lists
    fp16_revision: str | None = None  # git branch that holds half-precision weights


_M9 = ("en", "zh", "es", "fr", "ru", "ja", "ko", "ar", "it")
_M18 = (
    "en", "zh", "ja", "th", "ko", "hi", "uk", "ar", "tr",
    "vi", "pl", "nl", "pt", "it", "es", "de", "fr", "ru",
)  # fmt: skip

ALTDIFFUSION = ModelSpec(
    name="altdiffusion",
    title="AltDiffusion (m2)",
    languages=("en", "zh"),
    encoder="altdiffusion",
    context_width=768,
    context_length=77,
    single_pass_length=512,
    text_config=ALT_TEXT,
    unet_config=SD1_UNET,
    vae_config=KL_F8_VAE,
    scheduler_config=PNDM_SCHEDULER,
    prediction_type="epsilon",
    native_size=512,
    download_bytes=7_240_000_000,
    licence=OPEN_RAIL_M,
    huggingface_id="BAAI/AltDiffusion",
    files=_DIFFUSERS_FILES,
    fp16_revision="fp16",
)

ALTDIFFUSION_M9 = ModelSpec(
    name="altdiffusion-m9",
    title="AltDiffusion-m9",
    languages=_M9,
    encoder="altdiffusion",
    context_width=768,
    context_length=77,
    single_pass_length=512,
    text_config=ALT_TEXT,
    unet_config=SD1_UNET,
    vae_config=KL_F8_VAE,
    scheduler_config=PNDM_SCHEDULER,
    prediction_type="epsilon",
    native_size=512,
    download_bytes=7_240_000_000,
    licence=OPEN_RAIL_M,
    huggingface_id="BAAI/AltDiffusion-m9",
    files=_DIFFUSERS_FILES,
    fp16_revision="fp16",
)

ALTDIFFUSION_M18 = ModelSpec(
    name="altdiffusion-m18",
    title="AltDiffusion-m18",
    languages=_M18,
    encoder="altdiffusion-m18",
    context_width=1024,
    context_length=77,
    single_pass_length=512,
    text_config=ALT_M18_TEXT,
    unet_config=SD2_UNET,
    vae_config=KL_F8_VAE,
    scheduler_config=PNDM_SCHEDULER,
    prediction_type="epsilon",
    native_size=512,
    download_bytes=7_260_000_000,
    licence=OPEN_RAIL_M,
    huggingface_id="BAAI/AltDiffusion-m18",
    files=_DIFFUSERS_FILES,
)

CHINESE_STABLE_DIFFUSION = ModelSpec(
    name="chinese-stable-diffusion",
    title="ModelScope Chinese Stable Diffusion v1.0",
    languages=("zh",),
    encoder="chinese-clip",
    context_width=1024,
    context_length=52,
    single_pass_length=None,
    text_config=CHINESE_CLIP_TEXT,
    unet_config=SD2_UNET,
    vae_config=KL_F8_VAE,
    scheduler_config=PNDM_SCHEDULER,
    prediction_type=None,
    native_size=512,
    licence=SEE_PAGE,
    modelscope_id="damo/multi-modal_chinese_stable_diffusion_v1.0",
)

# Its weights lie in assets/nano and bring their own configs; these are the same values.
NANO = ModelSpec(
    name="nano",
    title="nano (embedded, 18 languages, a small world of shapes)",
    languages=_M18,
    encoder="altdiffusion-m18",
    context_width=192,
    context_length=77,
    single_pass_length=None,
    text_config={},
    unet_config={},
    vae_config={},
    scheduler_config=PNDM_SCHEDULER,
    prediction_type="epsilon",
    native_size=128,
    default_steps=20,
    default_guidance_scale=3.0,  # what its training was measured at
    licence="Apache-2.0",
)

MODELS: dict[str, ModelSpec] = {
    spec.name: spec
    for spec in (NANO, ALTDIFFUSION, ALTDIFFUSION_M9, ALTDIFFUSION_M18, CHINESE_STABLE_DIFFUSION)
}


def published_spec(encoder: EncoderFamily) -> ModelSpec:
    """Return the first full-size model of an encoder family; m2 and m9 share all their configs."""
    return next(spec for spec in MODELS.values() if spec.encoder == encoder and spec.text_config)


def find_spec(name: str) -> ModelSpec:
    """Return the entry of a model.

    Raises:
        UnknownName: listing the known models and the nearest.
    """
    if name not in MODELS:
        raise UnknownName("model", name, MODELS)
    return MODELS[name]
