"""Weights files as tables of tensors: shards, streams, mapped memory, written files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from multilingual_diffusion.pipeline_core.errors import FileRefused
from multilingual_diffusion.pipeline_core.loading import tensors as tensors_module
from multilingual_diffusion.pipeline_core.loading.dtypes import FILE_DTYPES, TORCH_DTYPES
from multilingual_diffusion.pipeline_core.loading.tensors import open_weights
from multilingual_diffusion.pipeline_core.loading.writing import Output, write_safetensors
from safetensors.torch import load_file, save_file


def save(path: Path, **tensors: torch.Tensor) -> Path:
    save_file(tensors, path, {"format": "pt"})
    return path


def test_shards_are_one_table(tmp_path: Path) -> None:
    first = save(tmp_path / "1.safetensors", a=torch.ones(3), b=torch.zeros(2, 2).half())
    second = save(tmp_path / "2.safetensors", c=torch.arange(4.0))
    source = open_weights([first, second])
    assert source.shapes == {"a": (3,), "b": (2, 2), "c": (4,)}
    assert source.metadata == {"format": "pt"}
    assert source.dtype_of(["b"]) == torch.float16
    assert source.dtype_of(["b", "c"]) == torch.float32  # most bytes
    names = ["c", "b", "a"]
    streamed = list(source.stream(names))
    assert [name for name, _ in streamed] == source.in_file_order(names) == ["b", "a", "c"]
    assert all(torch.equal(tensor, source.read(name)) for name, tensor in streamed)


def test_a_name_in_two_shards_is_refused(tmp_path: Path) -> None:
    first = save(tmp_path / "1.safetensors", a=torch.ones(3))
    second = save(tmp_path / "2.safetensors", a=torch.ones(3))
    with pytest.raises(FileRefused, match="'a' is in another shard too"):
        open_weights([first, second])


def test_no_files_and_foreign_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileRefused, match="no weights files"):
        open_weights([])
    (tmp_path / "page.safetensors").write_text("<!doctype html><html>", encoding="utf-8")
    with pytest.raises(FileRefused, match="web page"):
        open_weights([tmp_path / "page.safetensors"])


def test_a_stream_lets_go_of_what_it_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a small budget the file is mapped anew again and again, and the values are the same."""
    monkeypatch.setattr(tensors_module, "RENEW_BYTES", 1000)
    values = {f"t{index}": torch.full((200,), float(index)) for index in range(20)}
    source = open_weights([save(tmp_path / "1.safetensors", **values)])
    streamed = {name: tensor.clone() for name, tensor in source.stream(list(values))}
    assert streamed.keys() == values.keys()
    assert all(torch.equal(streamed[name], values[name]) for name in values)


def test_every_dtype_survives_writing(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    raw = torch.randint(0, 2, (6, 8), generator=generator, dtype=torch.uint8)
    values = {name: raw.clone().view(dtype) for name, dtype in TORCH_DTYPES.items()}
    source = open_weights([save(tmp_path / "1.safetensors", **values)])
    outputs = [
        Output(f"new.{name}", tuple(value.shape), value.dtype, source, name)
        for name, value in values.items()
    ]
    write_safetensors(tmp_path / "2.safetensors", outputs, {"note": "x"}, lambda output: None)
    written = load_file(tmp_path / "2.safetensors")
    for name, value in values.items():
        assert written[f"new.{name}"].dtype == value.dtype == TORCH_DTYPES[name]
        assert torch.equal(written[f"new.{name}"].view(torch.uint8), value.view(torch.uint8)), name
    assert FILE_DTYPES[torch.bfloat16] == "BF16"


def test_scalars_and_reshaped_tensors_are_written(tmp_path: Path) -> None:
    source = open_weights([save(tmp_path / "1.safetensors", s=torch.tensor(2.5), m=torch.eye(4))])
    outputs = [
        Output("s", (), torch.bfloat16, source, "s"),
        Output("m", (4, 4, 1, 1), torch.float16, source, "m"),
    ]
    write_safetensors(tmp_path / "2.safetensors", outputs, {}, lambda output: None)
    written = load_file(tmp_path / "2.safetensors")
    assert written["s"] == 2.5 and written["s"].shape == ()
    assert torch.equal(written["m"], torch.eye(4).half().reshape(4, 4, 1, 1))
