"""Where each part of a pipeline comes from: the model that was named, or another one.

Nothing is read but names, configs and headers.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .errors import InvalidRequest, ModelNotFound, UnknownName
from .loading.devices import choose_device, choose_dtype
from .loading.pickles import list_pickle_tensors
from .loading.plans import plan_text_encoder, plan_unet
from .models.detect import detect
from .models.detect_part import detect_part
from .models.detection import PARTS, Detection, PartName
from .models.folders import NANO_FOLDER, ModelFolders

PartSources = Collection[PartName] | Mapping[PartName, str | Path]


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """How parts are loaded, whichever they are."""

    device: str | torch.device = "auto"  # auto, cpu, cuda, cuda:N, mps, xpu
    dtype: str | torch.dtype = "auto"  # auto, keep, fp32, bf16, fp16
    allow_pickle: bool = False  # open .bin, .ckpt and .pt files, with weights_only
    ema: bool = False  # a checkpoint's averaged UNet weights
    models_dir: str | Path | None = None  # where names are looked up; None: the user's folder
    embedding_dirs: Sequence[Path] | None = None  # None: `embeddings` in the models folder

    @property
    def folders(self) -> ModelFolders:
        """Where names are looked up."""
        return ModelFolders([self.models_dir]) if self.models_dir else ModelFolders()

    def check(self) -> None:
        """Refuse a device that is not there and a dtype that does not exist or fit it.

        Raises:
            InvalidRequest: naming what there is.
        """
        choose_dtype(self.dtype, choose_device(self.device).device, parameters=0)

    def find(self, name_or_path: str | Path) -> Detection:
        """Return what lies at a path, or under a name in the models folder.

        Raises:
            ModelNotFound: no model lies there.
            FileRefused: a file is broken, or a pickle that was not allowed.
        """
        lister = list_pickle_tensors if self.allow_pickle else None
        return detect(self.folders.find_model(str(name_or_path)), list_tensors=lister)

    @property
    def of_a_network(self) -> dict[str, Any]:
        return {"device": self.device, "dtype": self.dtype, "allow_pickle": self.allow_pickle}


def find_sources(
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
    checker = sources.get("safety_checker", main)
    if checker is not main and checker.path.resolve().is_relative_to(NANO_FOLDER.resolve()):
        raise InvalidRequest(
            "nano's safety checker is a demonstration that knows one sign of nano's own world; "
            "it guards no other model"
        )
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
    "tokenizer": "put sentencepiece.bpe.model (AltDiffusion) or vocab.txt (Chinese Stable "
    "Diffusion) beside the weights, or name one with parts={'tokenizer': PATH}",
    "text_encoder": "a plain Stable Diffusion checkpoint lends its unet and vae only",
}


def _find_part(name: PartName, place: str | Path, options: LoadOptions) -> Detection:
    """Return a detection that has the part: of a whole model, or of the part's own folder."""
    path = options.folders.find_model(place, name)
    detection = detect_part(path, name) or options.find(path)
    if name not in detection.parts:
        raise ModelNotFound(f"{place} has no {name}; it has: {', '.join(detection.parts)}")
    return detection


def check_widths(sources: Mapping[PartName, Detection], options: LoadOptions) -> None:
    """Refuse a text encoder and a UNet of two models whose widths differ, by their headers."""
    text, unet = sources.get("text_encoder"), sources.get("unet")
    if text is None or unet is None or text is unet:
        return
    encoder: Any = plan_text_encoder(text, allow_pickle=options.allow_pickle).network
    given = encoder.width
    taken = plan_unet(unet, allow_pickle=options.allow_pickle).config["cross_attention_dim"]
    if given != taken:
        raise InvalidRequest(
            f"the text encoder gives {given} numbers a token and the UNet takes {taken}; SD1.x "
            "goes with AltDiffusion and m9, SD2.x with m18 and Chinese Stable Diffusion"
        )
