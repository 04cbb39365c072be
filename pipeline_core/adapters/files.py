"""Open the small files of tensors that adapters are: safetensors, pickles only where allowed."""

from __future__ import annotations

from pathlib import Path

from ..errors import FileRefused
from ..loading.tensors import TensorSource, open_weights
from ..models.headers import is_pickle


def open_adapter(path: Path, *, allow_pickle: bool = False) -> TensorSource:
    """Open a small file of tensors; no tensor data is read.

    Raises:
        FileRefused: it is broken, or a pickle that was not allowed.
    """
    if is_pickle(path) and not allow_pickle:
        raise FileRefused(
            f"{path} is a pickle, which can carry code, and pickles were not allowed; take its "
            "safetensors version, or allow pickles (--allow-pickle, allow_pickle) if you trust it"
        )
    return open_weights([path], allow_pickle=allow_pickle)
