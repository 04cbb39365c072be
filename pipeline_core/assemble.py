"""`load_pipeline`: a name or a path in, a `TextToImagePipeline` out; and one loader for each part.

Each part may come from a place of its own, so the UNet of one model can run with the VAE of
another. Only what the parts are made of is read here; no file is written, nothing is downloaded.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .errors import InvalidRequest, ModelNotFound, UnknownName
from .loading.parts import (
    load_safety_network,
    load_scheduler_config,
    load_text_network,
    load_unet_network,
    load_vae_network,
)
from .loading.pickles import list_pickle_tensors
from .models.detect import detect
from .models.detection import PARTS, Detection, PartFiles, PartName
from .models.evidence import encoder_by_config, nearest_spec
from .models.folders import ModelFolders
from .models.part_files import existing, find_tokenizer, find_weights
from .models.specs import (
    ALTDIFFUSION,
    ALTDIFFUSION_M18,
    EncoderFamily,
    ModelSpec,
    PredictionType,
)
from .models.strict_json import read_json
from .pipeline import Parts, TextToImagePipeline
from .safety.checker import SafetyChecker
from .safety.preprocess import Preprocessing
from .sampling import UNetDenoiser
from .text.encoder import TextEncoder
from .text.tokenizers import open_tokenizer
from .vae.codec import VAE

logger = logging.getLogger("multilingual_diffusion")

PartSources = Collection[PartName] | Mapping[PartName, str | Path]


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """How parts are loaded, whichever they are."""

    device: str | torch.device = "auto"  # auto, cpu, cuda, cuda:N, mps, xpu
    dtype: str | torch.dtype = "auto"  # auto, keep, fp32, bf16, fp16
    allow_pickle: bool = False  # open .bin, .ckpt and .pt files, with weights_only
    ema: bool = False  # a checkpoint's averaged UNet weights
    models_dir: str | Path | None = None  # where names are looked up; None: the user's folder

    def find(self, name_or_path: str | Path) -> Detection:
        """Return what lies at a path, or under a name in the models folder.

        Raises:
            ModelNotFound: no model lies there.
            FileRefused: a file is broken, or a pickle that was not allowed.
        """
        folders = ModelFolders([self.models_dir]) if self.models_dir else ModelFolders()
        lister = list_pickle_tensors if self.allow_pickle else None
        return detect(folders.find_model(str(name_or_path)), list_tensors=lister)

    @property
    def of_a_network(self) -> dict[str, Any]:
        return {"device": self.device, "dtype": self.dtype, "allow_pickle": self.allow_pickle}


def load_pipeline(
    name_or_path: str | Path,
    *,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    parts: PartSources | None = None,
    models_dir: str | Path | None = None,
    allow_pickle: bool = False,
    ema: bool = False,
    prediction_type: PredictionType | None = None,
    before_loading: Callable[[ModelSpec], None] | None = None,
) -> TextToImagePipeline:
    """Load a model: one of `MODELS` by name, a folder, or a checkpoint file.

    Args:
        device: auto, cpu, cuda, cuda:1, mps, xpu.
        dtype: auto, keep (as in the file), fp32, bf16, fp16.
        parts: names of the parts to load (None: all there are), or a mapping from part to the
            name or path it comes from instead.
        models_dir: where names are looked up; None: the user's models folder.
        allow_pickle: open .bin, .ckpt and .pt files, always with weights_only.
        ema: take a checkpoint's averaged UNet weights.
        prediction_type: what the UNet predicts, where its files do not say or say it wrong.
        before_loading: called with the model's entry before a weight is read, for own checks.

    Raises:
        ModelNotFound, FileRefused, WeightsMismatch: see the messages.
        InvalidRequest: parts that do not fit each other; a device that is not there.
    """
    options = LoadOptions(
        device=device, dtype=dtype, allow_pickle=allow_pickle, ema=ema, models_dir=models_dir
    )
    main = options.find(name_or_path)
    sources = _sources(main, parts, options)
    spec = _spec(sources, main)
    if before_loading is not None:
        before_loading(spec)
    loaded = Parts(scheduler_config=load_scheduler_config(sources.get("unet", main)))
    loaded.prediction_type = prediction_type or find_prediction_type(
        sources.get("unet", main), loaded.scheduler_config
    )
    unet = load_unet(sources["unet"], options) if "unet" in sources else None
    loaded.unet = unet
    if "text_encoder" in sources:
        tokenizer = sources.get("tokenizer")
        loaded.text_encoder = load_text_encoder(sources["text_encoder"], options, tokenizer)
    if "vae" in sources:
        loaded.vae = load_vae(sources["vae"], options)
    if "safety_checker" in sources:
        loaded.safety_checker = load_safety_checker(sources["safety_checker"], options)
    _check_fit(loaded.text_encoder, unet)
    return TextToImagePipeline(
        spec, loaded, source=Path(name_or_path).name, native_size=_native_size(unet)
    )


def load_text_encoder(
    detection: Detection, options: LoadOptions, tokenizer: Detection | None = None
) -> TextEncoder:
    """Load the text encoder with its tokenizer, which is opened when first used."""
    spec, family = detection.spec, detection.encoder
    if spec is None or family is None:
        raise ModelNotFound(f"{detection.path} has no text encoder of a known family")
    files = (tokenizer or detection).parts.get("tokenizer")
    if files is None:
        raise ModelNotFound(
            f"{detection.path} has no tokenizer; put sentencepiece.bpe.model (AltDiffusion) or "
            "vocab.txt (Chinese Stable Diffusion) beside it, or name one with parts="
        )
    network = load_text_network(detection, **options.of_a_network).network
    return TextEncoder(
        network,
        open_tokenizer(next(iter(files.extra.values()))),
        family=family,
        context_length=spec.context_length,
        single_pass_length=spec.single_pass_length,
        languages=spec.languages,
    )


def load_unet(detection: Detection, options: LoadOptions) -> UNetDenoiser:
    """Load the UNet."""
    return UNetDenoiser(
        load_unet_network(detection, **options.of_a_network, ema=options.ema).network
    )


def load_vae(detection: Detection, options: LoadOptions) -> VAE:
    """Load the VAE."""
    return VAE(load_vae_network(detection, **options.of_a_network).network)


def load_safety_checker(detection: Detection, options: LoadOptions) -> SafetyChecker:
    """Load the safety checker; without a preprocessor file, CLIP's at the network's own size."""
    network: Any = load_safety_network(detection, **options.of_a_network).network
    preprocessor = detection.parts["safety_checker"].extra.get("preprocessor")
    if preprocessor is not None:
        return SafetyChecker(network, Preprocessing.from_config(read_json(preprocessor)))
    side = network.vision_model.config.image_size
    return SafetyChecker(network, Preprocessing(shortest_edge=side, crop_size=(side, side)))


def find_prediction_type(
    detection: Detection, scheduler_config: Mapping[str, Any]
) -> PredictionType | None:
    """Return what the UNet predicts, None where nothing says it.

    The scheduler file says it (without the key: epsilon, the default of every class that wrote
    such files). A file without one is known by its model; a plain SD2.x checkpoint may be either.
    """
    named = scheduler_config.get("prediction_type")
    if named in ("epsilon", "v_prediction"):
        return named
    if named is not None:
        raise UnknownName("prediction_type", named, ("epsilon", "v_prediction"))
    if "scheduler" in detection.parts:
        return "epsilon"
    if detection.spec is not None:
        return detection.spec.prediction_type
    return "epsilon" if detection.unet_family == "sd1" else None


def _sources(
    main: Detection, parts: PartSources | None, options: LoadOptions
) -> dict[PartName, Detection]:
    """Return where each part comes from; parts that are nowhere are left out."""
    for name in parts or ():
        if name not in PARTS:
            raise UnknownName("part", name, PARTS)
    elsewhere = parts if isinstance(parts, Mapping) else {}
    wanted = set(PARTS if parts is None or elsewhere else parts)
    sources: dict[PartName, Detection] = {
        name: main for name in main.parts if name in wanted and name not in elsewhere
    }
    for name, place in elsewhere.items():
        sources[name] = _find_part(name, place, options)
    missing = [
        name for name in (*main.missing, *(parts or ())) if name in wanted and name not in sources
    ]
    if missing:
        raise ModelNotFound(
            f"{main.path} has no {missing[0]}: {_REMEDIES.get(missing[0], 'download it again')}"
        )
    return sources


_REMEDIES: dict[str, str] = {
    "safety_checker": "its index names one; download it, name another with "
    "parts={'safety_checker': PATH}, or load without it and choose safety 'off'",
    "text_encoder": "a plain Stable Diffusion checkpoint lends its unet and vae only",
}


def _find_part(name: PartName, place: str | Path, options: LoadOptions) -> Detection:
    """Return a detection that has the part: of a whole model, or of the part's own folder."""
    folder = Path(place)
    files: PartFiles | None = None
    encoder: EncoderFamily | None = None
    if folder.is_dir() and not (folder / "model_index.json").exists():
        if name == "tokenizer":
            files = find_tokenizer(folder)
        elif (folder / "config.json").exists():
            preprocessor = existing(folder / "preprocessor_config.json")
            extra = {"preprocessor": preprocessor} if preprocessor else {}
            files = PartFiles(find_weights(folder), folder / "config.json", extra)
            if name == "text_encoder":
                encoder, _ = encoder_by_config(read_json(folder / "config.json"))
    if files is not None:
        return Detection(
            path=folder,
            layout="diffusers",
            spec=nearest_spec(encoder, None, (folder.name, folder.parent.name), []),
            encoder=encoder,
            unet_family=None,
            parts={name: files},
        )
    detection = options.find(place)
    if name not in detection.parts:
        raise ModelNotFound(f"{place} has no {name}; it has: {', '.join(detection.parts)}")
    return detection


def _spec(sources: Mapping[PartName, Detection], main: Detection) -> ModelSpec:
    """Return the entry of the model whose text encoder speaks, sampled as the UNet's model is."""
    text = sources.get("text_encoder", main).spec
    unet = sources.get("unet", main).spec
    if text is None:
        return unet or _plain_spec(main)
    if unet is None or unet is text:
        return text
    return dataclasses.replace(
        text, scheduler_config=unet.scheduler_config, prediction_type=unet.prediction_type
    )


def _plain_spec(detection: Detection) -> ModelSpec:
    """Return an entry for a plain Stable Diffusion checkpoint: it speaks no language here."""
    model = ALTDIFFUSION_M18 if detection.unet_family == "sd2" else ALTDIFFUSION
    return dataclasses.replace(
        model,
        name="stable-diffusion",
        title="Stable Diffusion checkpoint (UNet and VAE)",
        languages=(),
        prediction_type=None,
        huggingface_id=None,
        files=(),
    )


def _check_fit(encoder: TextEncoder | None, unet: UNetDenoiser | None) -> None:
    if encoder is None or unet is None:
        return
    given, taken = encoder.network.width, unet.network.config.cross_attention_dim
    if given != taken:
        raise InvalidRequest(
            f"the text encoder gives {given} numbers a token and the UNet takes {taken}; SD1.x "
            "goes with AltDiffusion and m9, SD2.x with m18 and Chinese Stable Diffusion"
        )


def _native_size(unet: UNetDenoiser | None) -> int | None:
    """Return the pixels a side that the UNet's config names."""
    side = unet.network.config.sample_size if unet else None
    return side * 8 if isinstance(side, int) else None
