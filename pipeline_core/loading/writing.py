"""Write safetensors files tensor by tensor: the peak is one tensor, whatever the file's size.

Data starts at a multiple of 64 bytes and tensors of odd sizes come last, so that mapped weights lie
as aligned as those in memory. Format: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from .dtypes import FILE_DTYPES
from .matching import Shape
from .tensors import TensorSource

ALIGNMENT = 64


@dataclass(frozen=True)
class Output:
    """One tensor to be written: its new name, shape and dtype, and where it comes from."""

    name: str
    shape: Shape
    dtype: torch.dtype
    source: TensorSource
    source_name: str

    @property
    def nbytes(self) -> int:
        """Bytes of its data."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize


def write_safetensors(
    path: Path,
    outputs: Sequence[Output],
    metadata: Mapping[str, str],
    on_tensor: Callable[[Output], None],
) -> None:
    """Write the tensors under their new names; the file is on disk when this returns.

    `on_tensor` is called after each one.

    Raises:
        OSError: the disk is full or not writable; the caller removes what is there.
    """
    groups = _in_writing_order(outputs)
    with path.open("wb") as file:
        file.write(_header([output for group in groups for output in group], metadata))
        for group in groups:
            for output, tensor in _stream(group):
                values = tensor.to(output.dtype).reshape(-1).contiguous()
                file.write(values.view(torch.uint8).numpy().data)
                on_tensor(output)
        file.flush()
        os.fsync(file.fileno())


def _in_writing_order(outputs: Sequence[Output]) -> list[list[Output]]:
    """Return groups of one source each, in the order its files are read, odd sizes last."""
    groups: list[list[Output]] = []
    sources = list(dict.fromkeys(output.source for output in outputs))
    for odd in (False, True):
        for source in sources:
            chosen = {
                output.source_name: output
                for output in outputs
                if output.source is source and bool(output.nbytes % ALIGNMENT) is odd
            }
            groups.append([chosen[name] for name in source.in_file_order([*chosen])])
    return [group for group in groups if group]


def _stream(group: Sequence[Output]) -> Iterator[tuple[Output, torch.Tensor]]:
    tensors = group[0].source.stream([output.source_name for output in group])
    yield from ((output, tensor) for output, (_, tensor) in zip(group, tensors, strict=True))


def _header(outputs: Sequence[Output], metadata: Mapping[str, str]) -> bytes:
    entries: dict[str, object] = {"__metadata__": dict(metadata)}
    position = 0
    for output in outputs:
        end = position + output.nbytes
        entries[output.name] = {
            "dtype": FILE_DTYPES[output.dtype],
            "shape": list(output.shape),
            "data_offsets": [position, end],
        }
        position = end
    text = json.dumps(entries, separators=(",", ":"), allow_nan=False).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text
