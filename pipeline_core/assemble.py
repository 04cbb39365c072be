"""`load_pipeline`: a name or a path in, a `TextToImagePipeline` out; and one loader for each part.

Each part may come from a place of its own, so the UNet of one model can run with the VAE of
another. Only what the parts are made of is read here; no file is written, nothing is downloaded.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import torch

from .adapters.embedding_files import EmbeddingFiles
from .adapters.folders import AdapterFolders
from .adapters.lora import AppliedLora, apply_loras, open_loras
from .errors import InvalidRequest, ModelNotFound, UnknownName
from .loading.parts import (
    graft_note,
    load_safety_network,
    load_scheduler_config,
    load_text_network,
    load_unet_network,
    load_vae_network,
)
from .loading.plans import plan_unet
from .loading.schemas import parse_unet_config
from .models.detection import Detection, PartName
from .models.folders import NANO_FOLDER
from .models.specs import (
    ALTDIFFUSION,
    ALTDIFFUSION_M18,
    ModelSpec,
    PredictionType,
)
from .models.strict_json import read_json
from .outline import Outline
from .pipeline import Parts, TextToImagePipeline
from .ranges import check_choice
from .safety.checker import SafetyChecker
from .safety.preprocess import Preprocessing
from .sampling import UNetDenoiser
from .sources import LoadOptions, PartSources, check_widths, find_sources
from .text.encoder import TextEncoder
from .text.tokenizers import open_tokenizer
from .vae.codec import VAE

logger = logging.getLogger("multilingual_diffusion")


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
    loras: Sequence[tuple[str | Path, float]] = (),
    embedding_dirs: Sequence[Path] | None = None,
    before_loading: Callable[[Outline], object] | None = None,
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
        loras: LoRAs on the UNet, each a path or a name in the folder `loras` of the models folder,
            with its strength. On a graft, keys and values learned on CLIP's tokens are left out.
        embedding_dirs: where `embedding:NAME` in a prompt is looked up; None: the folder
            `embeddings` of the models folder.
        before_loading: called before a weight is read, to check a request that will follow:
            `lambda outline: outline.complete(request)`.

    Raises:
        ModelNotFound, FileRefused, WeightsMismatch: see the messages.
        InvalidRequest: parts that do not fit each other; a device that is not there.
    """
    options = LoadOptions(
        device=device,
        dtype=dtype,
        allow_pickle=allow_pickle,
        ema=ema,
        models_dir=models_dir,
        embedding_dirs=embedding_dirs,
    )
    options.check()
    main = options.find(name_or_path)
    sources = find_sources(main, parts, options)
    check_widths(sources, options)
    stack = _open_loras(loras, sources, options)
    outline = _outline(main, sources, options, prediction_type, stack)
    if before_loading is not None:
        before_loading(outline)
    unet = None
    if "unet" in sources:
        unet = apply_loras(load_unet(sources["unet"], options), stack)
    loaded = Parts(
        unet=unet,
        scheduler_config=outline.scheduler_config,
        prediction_type=outline.prediction_type,
    )
    if "text_encoder" in sources:
        tokenizer = sources.get("tokenizer")
        loaded.text_encoder = load_text_encoder(sources["text_encoder"], options, tokenizer)
    if "vae" in sources:
        loaded.vae = load_vae(sources["vae"], options)
    if "safety_checker" in sources:
        loaded.safety_checker = load_safety_checker(sources["safety_checker"], options)
    return TextToImagePipeline(
        outline.spec,
        loaded,
        source=outline.source,
        native_size=outline.native_size,
        origin=outline.origin,
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
    network: Any = load_text_network(detection, **options.of_a_network).network
    return TextEncoder(
        network,
        open_tokenizer(next(iter(files.extra.values()))),
        family=family,
        context_length=spec.context_length,
        single_pass_length=spec.single_pass_length,
        languages=spec.languages,
        embeddings=_embedding_files(options),
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
    if preprocessor is None:
        return SafetyChecker(network)
    return SafetyChecker(network, Preprocessing.from_config(read_json(preprocessor)))


def _embedding_files(options: LoadOptions) -> EmbeddingFiles:
    folders = AdapterFolders.among("embeddings", options.folders)
    if options.embedding_dirs is not None:
        folders = AdapterFolders("embeddings", tuple(options.embedding_dirs))
    return EmbeddingFiles(folders, allow_pickle=options.allow_pickle)


def _open_loras(
    loras: Sequence[tuple[str | Path, float]],
    sources: Mapping[PartName, Detection],
    options: LoadOptions,
) -> list[AppliedLora]:
    """Open LoRAs for the UNet that will be loaded, known by its headers."""
    if not loras:
        return []
    if "unet" not in sources:
        raise InvalidRequest("loras were given and no UNet is loaded; they change nothing else")
    plan = plan_unet(sources["unet"], allow_pickle=options.allow_pickle, ema=options.ema)
    folders = AdapterFolders.among("loras", options.folders)
    return open_loras(
        [(folders.find_file(place), strength) for place, strength in loras],
        plan.wanted,
        plan.config,
        folders=folders,
        allow_pickle=options.allow_pickle,
        grafted=graft_note(sources["unet"]) is not None,
    )


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


def _outline(
    main: Detection,
    sources: Mapping[PartName, Detection],
    options: LoadOptions,
    prediction_type: PredictionType | None,
    stack: Sequence[AppliedLora],
) -> Outline:
    """Return all that is known before weights are read; `origin` is what a replay needs to know."""
    unet = sources.get("unet", main)
    scheduler_config = load_scheduler_config(unet)
    spec = _spec(sources, main)
    origin: dict[str, Any] = {}
    elsewhere = {
        name: found.path.resolve().name for name, found in sources.items() if found is not main
    }
    if elsewhere:
        origin["parts"] = elsewhere
    if options.ema:
        origin["ema"] = True
    if options.dtype != "auto":
        origin["dtype"] = str(options.dtype).removeprefix("torch.")
    if prediction_type is not None:
        check_choice("prediction_type", prediction_type, get_args(PredictionType))
        origin["prediction_type"] = prediction_type
    if stack:
        origin["loras"] = [{"name": one.lora.name, "strength": one.strength} for one in stack]
    return Outline(
        spec=spec,
        source=main.path.resolve().name if main.path != NANO_FOLDER else "nano",
        native_size=_native_size(unet) or spec.native_size,
        scheduler_config=scheduler_config,
        prediction_type=prediction_type or find_prediction_type(unet, scheduler_config),
        has_checker="safety_checker" in sources,
        origin=origin,
        embeddings=_embedding_files(options),
    )


def _native_size(unet: Detection) -> int | None:
    """Return the pixels a side that the UNet's config names, None for a single file."""
    files = unet.parts.get("unet")
    if files is None or files.config is None or files.config.suffix != ".json":
        return None
    side = parse_unet_config(read_json(files.config), str(files.config)).get("sample_size")
    return side * 8 if isinstance(side, int) else None
