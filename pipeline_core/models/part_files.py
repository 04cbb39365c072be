"""Find the files of one part inside a model folder: weights, shards, tokenizer, preprocessor.

safetensors before .bin, full precision before variants (`model.fp16.safetensors`), one file before
shards. Which format a file really has is for `headers.sniff`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from ..errors import FileRefused
from .detection import PartFiles, PartName
from .files import list_folder
from .headers import is_pickle
from .strict_json import read_json

_STEM = r"(?P<stem>diffusion_pytorch_model|pytorch_model|model)"
_WEIGHTS = re.compile(rf"{_STEM}(?:\.(?P<variant>\w+))?\.(?P<format>safetensors|bin)")
# diffusers and transformers put the variant behind `index`, older files before the format
_INDEX = re.compile(
    rf"{_STEM}(?:\.(?P<variant>\w+))?\.(?P<format>safetensors|bin)\.index(?:\.(?P<late>\w+))?\.json"
)
_SHARD = re.compile(r"[\w.-]+-\d{5}-of-\d{5}\.(safetensors|bin)")
_PREFERRED_VARIANTS = (None, "fp32", "bf16", "fp16")


def find_weights(folder: Path) -> tuple[Path, ...]:
    """Return the weights file of a part's folder, or all its shards in order.

    Raises:
        FileRefused: there is none, or an index names shards that are missing or lie elsewhere.
    """
    ranked: list[tuple[tuple[bool, int, bool, str], Path]] = []
    for path in list_folder(folder):
        match = _WEIGHTS.fullmatch(path.name) or _INDEX.fullmatch(path.name)
        if match:
            groups = match.groupdict()
            variant = groups["variant"] or groups.get("late")
            known = variant in _PREFERRED_VARIANTS
            rank = _PREFERRED_VARIANTS.index(variant) if known else len(_PREFERRED_VARIANTS)
            is_index = path.suffix == ".json"
            ranked.append(((groups["format"] == "bin", rank, is_index, path.name), path))
    if not ranked:
        raise FileRefused(
            f"{folder} holds no weights; expected a file such as model.safetensors, "
            "pytorch_model.bin or diffusion_pytorch_model.safetensors: is the download complete?"
        )
    best = min(ranked)[1]
    return _shards(best) if best.suffix == ".json" else (best,)


def _shards(index: Path) -> tuple[Path, ...]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise FileRefused(f"{index} has no weight_map; download it again")
    names: set[str] = set()
    for name in weight_map.values():
        if not isinstance(name, str) or not _SHARD.fullmatch(name):
            raise FileRefused(f"{index} names {str(name)[:80]!r}, which is not a shard beside it")
        names.add(name)
    missing = [name for name in sorted(names) if not (index.parent / name).is_file()]
    if missing:
        raise FileRefused(f"{index.parent} lacks the shards {', '.join(missing)}; download them")
    return tuple(index.parent / name for name in sorted(names))


def find_tokenizer(folder: Path) -> PartFiles | None:
    """Return the tokenizer files of a folder, None where there are none.

    Roles in `extra`: "sentencepiece", "tokenizer_json", "vocabulary".
    """
    names = {
        "sentencepiece": "sentencepiece.bpe.model",
        "tokenizer_json": "tokenizer.json",
        "vocabulary": "vocab.txt",
    }
    extra = {role: folder / name for role, name in names.items() if (folder / name).is_file()}
    if not extra:
        return None
    return PartFiles(config=existing(folder / "tokenizer_config.json"), extra=extra)


def find_safety_checker(folder: Path) -> PartFiles | None:
    """Return the checker of a model folder, None where there is none.

    Its preprocessor config (role "preprocessor") lies in `feature_extractor/` or beside it.
    """
    own = folder / "safety_checker"
    if not own.is_dir():
        return None
    preprocessor = existing(folder / "feature_extractor" / "preprocessor_config.json") or existing(
        own / "preprocessor_config.json"
    )
    extra = {"preprocessor": preprocessor} if preprocessor else {}
    return PartFiles(find_weights(own), existing(own / "config.json"), extra)


def needs_pickle(parts: Mapping[PartName, PartFiles]) -> bool:
    """Tell whether any part's weights are a pickle; looks at the first bytes of each file."""
    files = {file for part in parts.values() for file in part.weights}
    pickles = [file for file in sorted(files) if is_pickle(file)]  # refuses what is neither
    return bool(pickles)


def existing(path: Path) -> Path | None:
    """Return the path where a file is, else None."""
    return path if path.is_file() else None
