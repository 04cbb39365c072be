"""Weights files as one table of named tensors that are read when asked for.

safetensors files are checked by their header and then memory-mapped: a tensor costs nothing until
its pages are touched. Pickles come in the same shape from `pickles.py`, where allowed. A mapped
file may be replaced by renaming, but must not be truncated in place while a network uses it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from ..errors import FileRefused
from ..models.headers import TensorInfo, is_pickle, pickle_refusal, read_safetensors_header
from .dtypes import TORCH_DTYPES
from .pickles import PickleFile

RENEW_BYTES = 256 * 2**20  # a stream lets go of the pages it has read after so many


class WeightsFile(Protocol):
    """One open file of tensors."""

    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]

    def read(self, name: str) -> torch.Tensor:
        """Return a tensor on the CPU, its data mapped from the file."""
        ...

    def stream(self, names: Iterable[str]) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield tensors to be converted or copied, none of which may be kept."""
        ...


class SafetensorsFile:
    """A safetensors file behind our own header check."""

    def __init__(self, path: Path) -> None:
        header = read_safetensors_header(path)
        self.path, self.tensors, self.metadata = path, header.tensors, header.metadata
        self._lasting: Any = None

    def read(self, name: str) -> torch.Tensor:
        """Return a tensor whose data is mapped from the file for as long as it lives."""
        if self._lasting is None:
            self._lasting = self._map()
        return self._lasting.get_tensor(name)

    def stream(self, names: Iterable[str]) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield tensors, mapping the file anew from time to time so that read pages are dropped."""
        mapped, passed = self._map(), 0
        for name in names:
            yield name, mapped.get_tensor(name)
            passed += self.tensors[name].nbytes
            if passed > RENEW_BYTES:
                mapped, passed = self._map(), 0

    def _map(self) -> Any:
        from safetensors import SafetensorError, safe_open

        try:
            return safe_open(self.path, framework="pt", device="cpu")
        except (SafetensorError, OSError) as exc:
            raise FileRefused(f"{self.path}: cannot be mapped: {exc}") from exc


@dataclass(frozen=True, eq=False)
class TensorSource:
    """The tensors of one or more files, by name; a name lies in exactly one of them."""

    files: tuple[WeightsFile, ...]
    paths: tuple[Path, ...]
    tensors: Mapping[str, TensorInfo] = field(repr=False)  # of all files
    _homes: Mapping[str, WeightsFile] = field(repr=False)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every tensor's shape."""
        return {name: info.shape for name, info in self.tensors.items()}

    @property
    def metadata(self) -> dict[str, str]:
        """The files' own notes."""
        return {key: value for file in self.files for key, value in file.metadata.items()}

    @property
    def where(self) -> str:
        """The file, or the first of several, for messages."""
        return str(self.paths[0])

    def read(self, name: str) -> torch.Tensor:
        """Return a tensor on the CPU, its data mapped from the file."""
        return self._homes[name].read(name)

    def stream(self, names: Sequence[str]) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield (name, tensor) file by file, see `in_file_order`; keep none of them."""
        for file in self.files:
            yield from file.stream(name for name in names if self._homes[name] is file)

    def in_file_order(self, names: Sequence[str]) -> list[str]:
        """Return the order in which `stream` yields these names."""
        return [name for file in self.files for name in names if self._homes[name] is file]

    def dtype_of(self, names: Iterable[str]) -> torch.dtype:
        """Return the dtype that most bytes of these tensors have."""
        sizes: Counter[str] = Counter()
        for name in names:
            sizes[self.tensors[name].dtype] += self.tensors[name].nbytes
        return TORCH_DTYPES[sizes.most_common(1)[0][0]] if sizes else torch.float32


def open_weights(
    paths: Sequence[Path], *, allow_pickle: bool = False, model: Path | None = None
) -> TensorSource:
    """Open the files of one part (shards together); no tensor data is read.

    `model` is what the user named, for the advice in the refusal of a pickle.

    Raises:
        FileRefused: a file is broken, is a pickle that was not allowed, or repeats a name.
    """
    if not paths:
        raise FileRefused(f"{model or 'this part'} has no weights files; get the model again")
    files: list[WeightsFile] = []
    tensors: dict[str, TensorInfo] = {}
    homes: dict[str, WeightsFile] = {}
    for path in paths:
        if is_pickle(path) and not allow_pickle:
            raise pickle_refusal(model or path)
        files.append(PickleFile(path) if is_pickle(path) else SafetensorsFile(path))
        for name in files[-1].tensors:
            if name in homes:
                raise FileRefused(f"{path}: the tensor {name!r} is in another shard too")
            homes[name] = files[-1]
        tensors |= files[-1].tensors
    return TensorSource(tuple(files), tuple(paths), tensors, homes)
