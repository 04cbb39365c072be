"""From names of models to their parts, each on a socket of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from ..pipeline_core.models.configs import SCALING_FACTOR
from ..pipeline_core.models.specs import PredictionType
from . import host
from .conversions import check_choice
from .sockets import SAFETY_CHECKER, TEXT_ENCODER, UNET, VAE, SocketPart, SocketUNet

if TYPE_CHECKING:
    import torch

    from ..pipeline_core.models.detection import Detection, PartName
    from ..pipeline_core.pipeline import TextToImagePipeline

DEVICES = ("auto", "cpu", "cuda", "mps", "xpu")
DTYPES = ("auto", "keep", "fp32", "bf16", "fp16")
PREDICTION_TYPES = ("auto", *get_args(PredictionType))

_MISSING: dict[PartName, str] = {
    "text_encoder": "a plain Stable Diffusion checkpoint lends its UNet and VAE only; load the "
    "text encoder of AltDiffusion or of Chinese Stable Diffusion",
    "unet": "load another model's with Multilingual UNet Loader",
    "vae": "load another model's with Multilingual VAE Loader",
    "safety_checker": "load one with Multilingual Safety Checker Loader, or choose policy 'off'",
}


def _model_input(part: PartName | None = None) -> tuple[list[str], dict[str, Any]]:
    names = [model.name for model in host.model_folders(part).list_models(part)]
    return names, {
        "tooltip": "A model folder or file in ComfyUI's models/multilingual, models/diffusers or "
        "models/checkpoints; without ComfyUI, in the models folder of the command."
    }


def _common_inputs(*names: str) -> dict[str, Any]:
    """Return the inputs that loaders share, by name and in this order."""
    inputs: dict[str, Any] = {
        "device": (
            list(DEVICES),
            {"default": "auto", "tooltip": "Where it runs. auto: what ComfyUI (or the machine) "
             "offers, moved away when memory is short.", "advanced": True},
        ),
        "dtype": (
            list(DTYPES),
            {"default": "auto", "tooltip": "Precision. auto: what suits the device; keep: as in "
             "the file; fp16 is refused on a CPU.", "advanced": True},
        ),
        "prediction_type": (
            list(PREDICTION_TYPES),
            {"default": "auto", "tooltip": "What the UNet predicts. auto: what its files say; "
             "choose one only where they do not.", "advanced": True},
        ),
        "allow_pickle": (
            "BOOLEAN",
            {"default": False, "tooltip": "Also open .bin, .ckpt and .pt files, always with "
             "weights_only. Converting once to safetensors is safer.", "advanced": True},
        ),
        "ema": (
            "BOOLEAN",
            {"default": False, "tooltip": "Take the averaged UNet weights of a training "
             "checkpoint, where it has them.", "advanced": True},
        ),
    }  # fmt: skip
    return {name: inputs[name] for name in names}


class MultilingualModelLoader:
    """Load a whole model: text encoder, UNet, VAE and safety checker at once."""

    DISPLAY_NAME = "Multilingual Model Loader"
    CATEGORY = "multilingual/loaders"
    DESCRIPTION = __doc__
    SEARCH_ALIASES = ["AltDiffusion", "Chinese Stable Diffusion", "load checkpoint", "m18"]
    RETURN_TYPES = (TEXT_ENCODER, UNET, VAE, SAFETY_CHECKER)
    RETURN_NAMES = ("text_encoder", "unet", "vae", "safety_checker")
    OUTPUT_TOOLTIPS = (
        "Turns prompts into conditioning.",
        "Predicts the noise; for the sampler.",
        "Turns latents into images and back.",
        "Scores images. If the model has none, the node that needs it says so.",
    )
    FUNCTION = "execute"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        names = ("device", "dtype", "prediction_type", "allow_pickle", "ema")
        return {"required": {"model": _model_input()}, "optional": _common_inputs(*names)}

    def execute(self, model: str, **options: Any) -> tuple[SocketPart[Any], ...]:
        return _load(model, ("text_encoder", "unet", "vae", "safety_checker"), **options)


class MultilingualTextEncoderLoader:
    """Load only the text encoder of a model, with its tokenizer."""

    DISPLAY_NAME = "Multilingual Text Encoder Loader"
    CATEGORY = "multilingual/loaders"
    DESCRIPTION = __doc__
    SEARCH_ALIASES = ["XLM-R", "load CLIP", "AltCLIP"]
    RETURN_TYPES = (TEXT_ENCODER,)
    RETURN_NAMES = ("text_encoder",)
    OUTPUT_TOOLTIPS = ("Turns prompts into conditioning.",)
    FUNCTION = "execute"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {"model": _model_input("text_encoder")},
            "optional": _common_inputs("device", "dtype", "allow_pickle"),
        }

    def execute(self, model: str, **options: Any) -> tuple[SocketPart[Any], ...]:
        return _load(model, ("text_encoder",), only=True, **options)


class MultilingualUNetLoader:
    """Load only the UNet of a model; a plain Stable Diffusion 1 or 2 checkpoint lends its too."""

    DISPLAY_NAME = "Multilingual UNet Loader"
    CATEGORY = "multilingual/loaders"
    DESCRIPTION = __doc__
    SEARCH_ALIASES = ["load diffusion model", "load UNet"]
    RETURN_TYPES = (UNET,)
    RETURN_NAMES = ("unet",)
    OUTPUT_TOOLTIPS = ("Predicts the noise; for the sampler.",)
    FUNCTION = "execute"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        names = ("device", "dtype", "prediction_type", "allow_pickle", "ema")
        return {"required": {"model": _model_input("unet")}, "optional": _common_inputs(*names)}

    def execute(self, model: str, **options: Any) -> tuple[SocketPart[Any], ...]:
        return _load(model, ("unet",), only=True, **options)


class MultilingualVAELoader:
    """Load only the VAE of a model; a plain Stable Diffusion 1 or 2 checkpoint lends its too."""

    DISPLAY_NAME = "Multilingual VAE Loader"
    CATEGORY = "multilingual/loaders"
    DESCRIPTION = __doc__
    SEARCH_ALIASES = ["load VAE", "autoencoder"]
    RETURN_TYPES = (VAE,)
    RETURN_NAMES = ("vae",)
    OUTPUT_TOOLTIPS = ("Turns latents into images and back.",)
    FUNCTION = "execute"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {"model": _model_input("vae")},
            "optional": _common_inputs("device", "dtype", "allow_pickle"),
        }

    def execute(self, model: str, **options: Any) -> tuple[SocketPart[Any], ...]:
        return _load(model, ("vae",), only=True, **options)


class MultilingualSafetyCheckerLoader:
    """Load only the safety checker of a model; it serves images of any other."""

    DISPLAY_NAME = "Multilingual Safety Checker Loader"
    CATEGORY = "multilingual/loaders"
    DESCRIPTION = __doc__
    SEARCH_ALIASES = ["NSFW filter", "load safety checker"]
    RETURN_TYPES = (SAFETY_CHECKER,)
    RETURN_NAMES = ("safety_checker",)
    OUTPUT_TOOLTIPS = ("Scores images; for Multilingual Safety Check.",)
    FUNCTION = "execute"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {"model": _model_input("safety_checker")},
            "optional": _common_inputs("device", "dtype", "allow_pickle"),
        }

    def execute(self, model: str, **options: Any) -> tuple[SocketPart[Any], ...]:
        return _load(model, ("safety_checker",), only=True, **options)


def _load(
    model: str,
    parts: Sequence[PartName],
    *,
    only: bool = False,
    device: str = "auto",
    dtype: str = "auto",
    prediction_type: PredictionType | Literal["auto"] = "auto",
    allow_pickle: bool = False,
    ema: bool = False,
) -> tuple[SocketPart[Any], ...]:
    """Load parts of a model; one that it lacks is an error where it is the `only` one."""
    from ..pipeline_core.assemble import LoadOptions, load_pipeline
    from ..pipeline_core.loading.devices import choose_dtype

    check_choice("device", device, DEVICES)
    check_choice("dtype", dtype, DTYPES)
    check_choice("prediction_type", prediction_type, PREDICTION_TYPES)
    places = {part: host.choose_place(device, part) for part in parts}
    for place in places.values():
        choose_dtype(dtype, place.compute, parameters=0)  # refuses before anything is loaded
    alone = parts[0] if only else None
    path = host.model_folders(alone).find_name(model, alone)
    detection = LoadOptions(allow_pickle=allow_pickle).find(path)
    wanted: list[PartName] = [part for part in parts if only or part in detection.parts]
    if "text_encoder" in wanted:
        wanted.append("tokenizer")
    first = places[parts[0]]
    settled = first.is_one and set(places.values()) == {first}
    pipeline = load_pipeline(
        path,
        device=first.rest if settled else "cpu",
        dtype=dtype if settled else "keep",
        parts=wanted,
        allow_pickle=allow_pickle,
        ema=ema,
        prediction_type=None if prediction_type == "auto" else prediction_type,
        embedding_dirs=host.adapter_folders("embeddings").roots,
    )
    if not settled:
        for part in parts:
            _settle(getattr(pipeline.parts, part), places[part], dtype)
    return tuple(_wrap(part, pipeline, detection, places[part]) for part in parts)


def _wrap(
    part: PartName, pipeline: TextToImagePipeline, detection: Detection, place: host.Place
) -> SocketPart[Any]:
    loaded = getattr(pipeline.parts, part)
    fields: dict[str, Any] = {"source": pipeline.source, "part": loaded}
    if loaded is None:
        fields["missing"] = f"{pipeline.source} has no {part}: {_MISSING[part]}"
    else:
        fields["patcher"] = host.make_patcher(loaded.network, place)
    if part != "unet":
        return SocketPart(**fields)
    from ..pipeline_core.loading.parts import graft_note

    return SocketUNet(
        **fields,
        scheduler_config=pipeline.parts.scheduler_config,
        prediction_type=pipeline.parts.prediction_type,
        scaling_factor=_scaling_factor(pipeline, detection),
        native_size=pipeline.native_size,
        grafted=graft_note(detection) is not None,
    )


def _settle(loaded: Any, place: host.Place, dtype: str) -> None:
    """Give a part that rests elsewhere the precision of the device it computes on."""
    import torch

    from ..pipeline_core.loading.devices import choose_dtype

    if loaded is None:
        return
    network: torch.nn.Module = loaded.network
    parameters = sum(each.numel() for each in network.parameters())
    own = next(network.parameters()).dtype
    chosen = choose_dtype(dtype, place.compute, parameters, own).dtype
    torch.nn.Module.to(network, chosen)  # diffusers' own logs a warning that names no module


def _scaling_factor(pipeline: TextToImagePipeline, detection: Detection) -> float:
    """Return what the UNet's latents are multiplied by: of the VAE beside it, as it was trained."""
    from ..pipeline_core.models.strict_json import read_json

    if pipeline.parts.vae is not None:
        return pipeline.parts.vae.scaling_factor
    usual = pipeline.spec.vae_config.get("scaling_factor", SCALING_FACTOR)
    config: Path | None = detection.parts["vae"].config if "vae" in detection.parts else None
    if config is None or config.suffix != ".json":
        return usual
    return float(read_json(config).get("scaling_factor", usual))


NODES = [
    MultilingualModelLoader,
    MultilingualTextEncoderLoader,
    MultilingualUNetLoader,
    MultilingualVAELoader,
    MultilingualSafetyCheckerLoader,
]
