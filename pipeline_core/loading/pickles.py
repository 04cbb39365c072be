"""Tensors out of torch pickles, only where the caller allowed it, and never code.

Guards, in order: the zip's directory, the opcodes (only those that `torch.save` writes), then
`torch.load(weights_only=True)` in which every class or function that a trainer's dump names beside
tensors is an inert stand-in, then the sizes of the tensors against the file.
"""

from __future__ import annotations

import _compat_pickle
import contextlib
import pickle
import pickletools
import struct
import threading
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from ..errors import FileRefused
from ..models.headers import MAX_TENSORS, TensorInfo, check_tensor_name, sniff
from ..models.key_prefixes import EMBEDDING_PREFIX, SECOND_EMA_PREFIX
from ..models.zip_header import read_zip_header
from .dtypes import FILE_DTYPES

MAX_OPCODES = 1_000_000  # a checkpoint with optimizer states: about 200,000

# What torch's weights-only reader understands, all that protocol 2 of torch.save writes.
_OPCODES = {
    "PROTO", "STOP", "GLOBAL", "NEWOBJ", "REDUCE", "BUILD", "APPEND", "APPENDS", "SETITEM",
    "SETITEMS", "MARK", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "NONE", "NEWFALSE", "NEWTRUE",
    "EMPTY_TUPLE", "EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET", "BININT", "BININT1", "BININT2",
    "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING", "BINPERSID", "BINGET", "LONG_BINGET", "BINPUT",
    "LONG_BINPUT", "LONG1",
}  # fmt: skip
_LEGACY_PICKLES = 5  # magic number, protocol, system, the object, the keys of its storages
_MAPPINGS = ("defaultdict", "AttributeDict")  # dumps fill these item by item
_BROKEN = (
    pickle.UnpicklingError, RuntimeError, ValueError, TypeError, LookupError, AttributeError,
    EOFError, AssertionError, ArithmeticError, MemoryError, OSError, struct.error,
)  # fmt: skip
_lock = threading.Lock()  # torch keeps one list of allowed names for the whole process


class Inert:
    """Stands for any class or function: takes all arguments and all state, keeps nothing."""

    def __new__(cls, *args: object, **kwargs: object) -> Any:
        return object.__new__(cls)

    def __init__(self, *args: object, **kwargs: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


class InertMapping(Inert):
    """Stands for a kind of dict: calling it gives an empty one, which a dump may fill."""

    def __new__(cls, *args: object, **kwargs: object) -> Any:
        return {}


class PickleFile:
    """A torch pickle behind all guards; its tensors are mapped where the format allows it."""

    metadata: Mapping[str, str] = {}

    def __init__(self, path: Path) -> None:
        self.path = path
        self._tensors = read_tensors(path)
        self.tensors: Mapping[str, TensorInfo] = {
            name: TensorInfo(FILE_DTYPES[value.dtype], tuple(value.shape))
            for name, value in self._tensors.items()
        }

    def read(self, name: str) -> torch.Tensor:
        """Return a tensor, its data mapped from the file where the format allows it."""
        return self._tensors[name]

    def stream(self, names: Iterable[str]) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield tensors; the mapping lives as long as this object."""
        for name in names:
            yield name, self._tensors[name]


def list_pickle_tensors(path: Path) -> Mapping[str, TensorInfo]:
    """Return names, dtypes and shapes of a pickle's tensors; what `detect` takes as a seam.

    Raises:
        FileRefused: as `read_tensors`.
    """
    return PickleFile(path).tensors


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a pickle by name; of a trainer's dump, those of its `state_dict`.

    Averaged weights in a second dictionary come under `state_dict_ema.`, the vectors of A1111's
    textual inversions under `string_to_param.`.

    Raises:
        FileRefused: the file is broken or hostile.
    """
    is_zip = sniff(path) == "torch-zip"
    names = _globals_of_zip(path) if is_zip else _globals_of_legacy(path)
    try:
        with _lock, _inert(names):
            root = torch.load(str(path), map_location="cpu", weights_only=True, mmap=is_zip)
    except _BROKEN as exc:
        raise FileRefused(f"{path}: not a pickle of tensors: {exc}") from exc
    tensors = dict(_state_dict(path, root))
    if not 0 < len(tensors) <= MAX_TENSORS:
        raise FileRefused(f"{path}: {len(tensors)} tensors; 1..{MAX_TENSORS} are allowed")
    size = path.stat().st_size
    return {name: _checked(path, name, value, size) for name, value in tensors.items()}


@contextlib.contextmanager
def _inert(names: Iterable[str]) -> Iterator[None]:
    """Let torch know these names as stand-ins, and forget what the host allowed meanwhile."""
    allowed = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    try:
        torch.serialization.add_safe_globals([_stand_in(name) for name in names])
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(allowed)


def _stand_in(path: str) -> type:
    """Return a class that torch takes for the class or function of that dotted path."""
    module, _, name = path.rpartition(".")
    base = InertMapping if name in _MAPPINGS else Inert
    return type(name, (base,), {"__module__": module, "__qualname__": name})


def _globals_of_zip(path: Path) -> set[str]:
    header = read_zip_header(path)
    try:
        with zipfile.ZipFile(path) as archive:
            data = archive.read(f"{header.root}/data.pkl")
    except (zipfile.BadZipFile, OSError) as exc:
        raise FileRefused(f"{path}: its data.pkl cannot be read: {exc}") from exc
    return _scan(path, pickletools.genops(data))


def _globals_of_legacy(path: Path) -> set[str]:
    with path.open("rb") as file:
        return set().union(*(_scan(path, pickletools.genops(file)) for _ in range(_LEGACY_PICKLES)))


def _scan(path: Path, opcodes: Iterable[tuple[Any, Any, Any]]) -> set[str]:
    """Return the classes and functions a pickle names, as torch will look them up."""
    names: set[str] = set()
    try:
        for count, (opcode, argument, _) in enumerate(opcodes):
            if opcode.name not in _OPCODES or (opcode.name == "PROTO" and argument != 2):
                raise FileRefused(f"{path}: its {opcode.name} is not what torch.save writes")
            if count > MAX_OPCODES:
                raise FileRefused(f"{path}: more than {MAX_OPCODES} opcodes")
            if opcode.name == "GLOBAL":
                names.add(_torch_name(*str(argument).split(" ", 1)))
    except (ValueError, IndexError) as exc:
        raise FileRefused(f"{path}: a broken pickle: {exc}") from exc
    return names


def _torch_name(module: str, name: str) -> str:
    # protocol 2 writes Python 2's names of some modules; torch reads them as pickle does
    if (module, name) in _compat_pickle.NAME_MAPPING:
        return ".".join(_compat_pickle.NAME_MAPPING[(module, name)])
    return f"{_compat_pickle.IMPORT_MAPPING.get(module, module)}.{name}"


def _state_dict(path: Path, root: object) -> Iterator[tuple[str, torch.Tensor]]:
    if not isinstance(root, dict):
        raise FileRefused(f"{path}: the top is {type(root).__name__}, not a dict of tensors")
    tables = {
        "": root.get("state_dict", root),
        SECOND_EMA_PREFIX: root.get("state_dict_ema"),
        EMBEDDING_PREFIX: root.get("string_to_param"),
    }
    for prefix, table in tables.items():
        if isinstance(table, dict):
            for name, value in table.items():
                if isinstance(name, str) and isinstance(value, torch.Tensor):
                    check_tensor_name(path, prefix + name)
                    yield prefix + name, value.detach()


def _checked(path: Path, name: str, tensor: torch.Tensor, file_size: int) -> torch.Tensor:
    plain = tensor.device.type == "cpu" and tensor.layout == torch.strided
    if not plain or tensor.dtype not in FILE_DTYPES:
        raise FileRefused(f"{path}: {name} is not a plain tensor ({tensor.layout}, {tensor.dtype})")
    needed, stored = tensor.numel() * tensor.itemsize, tensor.untyped_storage().nbytes()
    if needed > stored or stored > file_size:
        raise FileRefused(f"{path}: {name} claims {needed} bytes of {stored} stored ones")
    return tensor.contiguous()
