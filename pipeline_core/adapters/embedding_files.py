"""Textual inversion files (arXiv 2208.01618): learned vectors under the words that stand for them.

safetensors as A1111 (`emb_params`) and diffusers (`<placeholder>`: vectors) write them, and their
pickles where allowed. `EmbeddingFiles` is what a `TextEncoder` asks: an `EmbeddingSource`.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from pathlib import Path

import torch

from ..errors import FileRefused, InvalidRequest
from ..loading.dtypes import TORCH_DTYPES
from ..loading.tensors import TensorSource
from ..models.headers import TensorInfo
from ..models.key_prefixes import EMBEDDING_PREFIX
from .files import open_adapter
from .folders import AdapterFolders

MAX_VECTORS = 510  # the longest single pass of an encoder, without its special tokens
_UNNAMED = ("emb_params", f"{EMBEDDING_PREFIX}*")  # the file's own name is the word
_SDXL = ("clip_l", "clip_g")

logger = logging.getLogger("multilingual_diffusion")


class EmbeddingFiles:
    """The embeddings of some folders, and those that were added by hand.

    `embedding:NAME` names a file. A placeholder in angle brackets names one too (`<cat>`: cat), or
    is the word that diffusers' training wrote into it.
    """

    def __init__(self, folders: AdapterFolders, *, allow_pickle: bool = False) -> None:
        self.folders = folders
        self.allow_pickle = allow_pickle
        self._added: dict[str, torch.Tensor] = {}

    def add(self, path: Path, word: str | None = None) -> None:
        """Take a file from anywhere; its vectors stand for `word`, or for the words it holds.

        Raises:
            FileRefused: it cannot be used.
            InvalidRequest: the word is empty or has spaces, or the file has several words itself.
        """
        found = read_embeddings(path, allow_pickle=self.allow_pickle)
        if word is not None:
            if not word or len(word.split()) != 1 or len(found) != 1:
                raise InvalidRequest(
                    f"the word {word!r} cannot stand for {path.name}, which holds "
                    f"{', '.join(found)}; give one word without spaces for one embedding"
                )
            found = {word: next(iter(found.values()))}
        self._added |= found

    @property
    def words(self) -> Collection[str]:
        """The words of added files."""
        return self._added.keys()

    @property
    def placeholders(self) -> Collection[str]:
        """Words in angle brackets that the folders and added files know."""
        return {*self._added, *self._places()}

    def find(self, name: str) -> torch.Tensor:
        """Return the vectors [N, D] of `embedding:NAME`, float32 on the CPU.

        Raises:
            ModelNotFound: there is none of this name.
            FileRefused: it cannot be used, or holds several words.
            InvalidRequest: the name could leave its folder.
        """
        if name in self._added:
            return self._added[name]
        path = self.folders.find(name)
        return _only(path, read_embeddings(path, allow_pickle=self.allow_pickle))

    def find_word(self, word: str) -> torch.Tensor:
        """Return the vectors [N, D] of one of `words` or `placeholders`.

        Raises:
            FileRefused: it cannot be used.
        """
        if word in self._added:
            return self._added[word]
        path = self._places()[word]
        found = read_embeddings(path, allow_pickle=self.allow_pickle)
        return found[word] if word in found else _only(path, found)

    def _places(self) -> dict[str, Path]:
        """Return the file of every placeholder in the folders, by headers alone."""
        places: dict[str, Path] = {}
        for name in self.folders.list_names():
            path = self.folders.find(name)
            places.setdefault(f"<{path.stem}>", path)
            try:
                source = open_adapter(path, allow_pickle=self.allow_pickle)
            except FileRefused as exc:  # said where it is asked for by name
                logger.debug("%s", exc)
                continue
            for word in source.tensors:
                if word.startswith("<"):
                    places.setdefault(word, path)
        return places


def read_embeddings(path: Path, *, allow_pickle: bool = False) -> dict[str, torch.Tensor]:
    """Return the vectors [N, D] of a file by word, float32 on the CPU.

    Raises:
        FileRefused: broken, too large, no textual inversion, or a pickle that was not allowed.
    """
    source = open_adapter(path, allow_pickle=allow_pickle)
    _check(path, source.tensors)
    return {
        path.stem if name in _UNNAMED else name: _read(path, source, name)
        for name in source.tensors
    }


def _only(path: Path, found: Mapping[str, torch.Tensor]) -> torch.Tensor:
    if len(found) > 1:
        raise FileRefused(f"{path} holds several embeddings; write one of {', '.join(found)}")
    return next(iter(found.values()))


def _check(path: Path, tensors: Mapping[str, TensorInfo]) -> None:
    if set(tensors) & set(_SDXL):
        raise FileRefused(
            f"{path} was made for the two CLIPs of SDXL; this text encoder is no CLIP"
        )
    if not tensors:
        raise FileRefused(f"{path} holds no vectors")
    for name, info in tensors.items():
        rows = info.shape[0] if len(info.shape) == 2 else 1
        if len(info.shape) not in (1, 2) or not TORCH_DTYPES[info.dtype].is_floating_point:
            raise FileRefused(
                f"{path}: {name} is {info.dtype} {list(info.shape)}, no vectors of a textual "
                "inversion [N, D]"
            )
        if rows > MAX_VECTORS:
            raise FileRefused(f"{path}: {name} has {rows} vectors; {MAX_VECTORS} are allowed")


def _read(path: Path, source: TensorSource, name: str) -> torch.Tensor:
    vectors = source.read(name).to(torch.float32, copy=True)
    if not bool(torch.isfinite(vectors).all()):
        raise FileRefused(f"{path}: {name} holds NaN or infinity")
    return vectors.reshape(-1, vectors.shape[-1])
