"""What a weights file is and which tensors it holds, from its first bytes alone (no torch).

The safetensors rules are checked again and tightened, since the library takes headers of 100 MB,
hundreds of thousands of tensors, a name twice over the same bytes, and names such as `a.__class__`.
Format: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..errors import FileRefused
from .files import file_size, open_file
from .strict_json import parse_json

FileKind = Literal[
    "safetensors", "torch-zip", "torch-legacy-pickle", "git-lfs-pointer", "html", "empty", "unknown"
]
PICKLE_KINDS: tuple[FileKind, ...] = ("torch-zip", "torch-legacy-pickle")

ITEM_SIZES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1,
    "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4,
    "U64": 8, "I64": 8, "F64": 8,
}  # fmt: skip

MAX_HEADER = 8 * 2**20
MAX_TENSORS = 5_000  # real checkpoints with EMA weights: about 2,100
MAX_COMMAS = 60_000  # about 8 a tensor; bounds the time of parsing
MAX_DIMENSIONS = 8
MAX_NAME = 500


@dataclass(frozen=True)
class TensorInfo:
    """One tensor: `dtype` in safetensors' spelling (F16, BF16, F32, I64 ...) and its shape."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def numel(self) -> int:
        """Elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of its data."""
        return self.numel * ITEM_SIZES[self.dtype]


@dataclass(frozen=True)
class TensorHeader:
    """The checked header of one safetensors file."""

    path: Path
    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]


def sniff(path: Path) -> FileKind:
    """Tell what a file is from its first bytes; its suffix is not looked at.

    Raises:
        FileRefused: the path is not a readable regular file.
    """
    with open_file(path) as file:
        start = file.read(64)
    if not start:
        return "empty"
    if start.startswith(b"PK\x03\x04"):
        return "torch-zip"
    # Eight bytes of length, then the JSON object; text would give a length beyond any file. Before
    # the pickles: a length of 640 starts with the bytes of protocol 2.
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 2**40:
        return "safetensors"
    if start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "torch-legacy-pickle"
    if start.startswith(b"version https://git-lfs"):
        return "git-lfs-pointer"
    if start.lstrip()[:5].lower() in (b"<!doc", b"<html"):
        return "html"
    return "unknown"


def is_pickle(file: Path) -> bool:
    """Tell a pickle from safetensors by the first bytes.

    Raises:
        FileRefused: it is neither; the message says what to do.
    """
    kind = sniff(file)
    if kind in PICKLE_KINDS:
        return True
    if kind != "safetensors":
        advice = {
            "git-lfs-pointer": "it is a Git LFS pointer, not the weights: run `git lfs pull`",
            "html": "it is a web page saved under this name; download the file itself",
            "empty": "it is empty; download it again",
        }.get(kind, "it is neither safetensors nor a torch checkpoint")
        raise FileRefused(f"{file} cannot be used: {advice}")
    return False


def pickle_refusal(source: Path, what: str = "") -> FileRefused:
    """Return the one error for pickles without permission; it names the command that converts.

    `source` is the file or folder to convert, `what` a guess of its content.
    """
    name = source.name if source.is_dir() else source.stem
    target = source.with_name(f"{name}-safetensors")
    guess = f" ({what})" if what else ""
    return FileRefused(
        f"{source}{guess} is a pickle, which can carry code, and pickles were not allowed. "
        f'Convert it once: multilingual-diffusion models convert "{source}" "{target}" '
        "--allow-pickle"
    )


def read_safetensors_header(path: Path) -> TensorHeader:
    """Read and check the header of a safetensors file; its data is not touched.

    Raises:
        FileRefused: naming the file and the first rule it breaks.
    """
    size = file_size(path)
    with open_file(path) as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 10:
            raise _refused(path, f"{size} bytes are too few for a header")
        if length > size - 8:
            raise _refused(path, f"the header says {length} bytes, the file has {size - 8} left")
        if length > MAX_HEADER:
            raise _refused(path, f"a header of {length} bytes; {MAX_HEADER} are allowed")
        text = file.read(length)
    if len(text) != length or text.count(b",") > MAX_COMMAS:
        raise _refused(path, f"the header is cut off or has more than {MAX_COMMAS} values")
    entries = parse_json(text, f"{path}: safetensors header")
    metadata = _check_metadata(path, entries.pop("__metadata__", {}))
    if len(entries) > MAX_TENSORS:
        raise _refused(path, f"{len(entries)} tensors; {MAX_TENSORS} are allowed")
    tensors = {name: _check_entry(path, name, entry) for name, entry in entries.items()}
    spans = ((*entries[name]["data_offsets"], name) for name in tensors)
    _check_coverage(path, sorted(spans), size - 8 - length)
    return TensorHeader(path, tensors, metadata)


def check_tensor_name(path: Path, name: str) -> None:
    """Refuse names that no weights file has: hidden characters, `__class__` parts, endless ones.

    Raises:
        FileRefused: naming the file and the name.
    """
    if not 0 < len(name) <= MAX_NAME or not name.isprintable():
        raise _refused(path, f"the tensor name {name[:80]!r} is empty, too long or not printable")
    if any(part.startswith("__") and part.endswith("__") for part in name.split(".")):
        raise _refused(path, f"the tensor name {name!r} has a reserved part")


def _check_metadata(path: Path, metadata: object) -> dict[str, str]:
    if not isinstance(metadata, dict) or not all(
        isinstance(value, str) for value in metadata.values()
    ):
        raise _refused(path, "__metadata__ must map strings to strings")
    return metadata


def _check_entry(path: Path, name: str, entry: Any) -> TensorInfo:
    check_tensor_name(path, name)
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise _refused(path, f"{name}: needs exactly dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_SIZES:
        raise _refused(path, f"{name}: unknown dtype {str(dtype)[:40]!r}")
    if not _whole_numbers(shape, lowest=1) or len(shape) > MAX_DIMENSIONS:
        raise _refused(path, f"{name}: the shape {str(shape)[:80]} is not one of a tensor")
    if not _whole_numbers(offsets, lowest=0) or len(offsets) != 2:
        raise _refused(path, f"{name}: data_offsets must be two whole numbers")
    info = TensorInfo(dtype, tuple(shape))
    if offsets[1] - offsets[0] != info.nbytes:
        raise _refused(
            path, f"{name}: {info.nbytes} bytes by shape, {offsets[1] - offsets[0]} by offsets"
        )
    return info


def _whole_numbers(values: object, lowest: int) -> bool:
    return isinstance(values, list) and all(
        type(value) is int and lowest <= value < 2**48 for value in values
    )


def _check_coverage(path: Path, spans: list[tuple[int, int, str]], data_size: int) -> None:
    """Spans must lie end to end over the whole data: no hole, no overlap, nothing beyond."""
    position = 0
    for start, end, name in spans:
        if start != position:
            what = "overlaps the tensor before it" if start < position else "leaves a hole"
            raise _refused(path, f"{name}: {what} (offset {start}, expected {position})")
        position = end
    if position != data_size:
        raise _refused(path, f"tensors take {position} bytes, the file holds {data_size}")


def _refused(path: Path, reason: str) -> FileRefused:
    return FileRefused(f"{path}: not a sound safetensors file: {reason}; get the file again")
