"""The device and dtype policy says what it chose and why, and refuses what is not there."""

from __future__ import annotations

import pytest
import torch
from multilingual_diffusion.pipeline_core.errors import InvalidRequest, UnknownName
from multilingual_diffusion.pipeline_core.loading.devices import (
    SMALL,
    available_devices,
    choose_device,
    choose_dtype,
    cpu_multiplies_bf16,
)

CPU, CUDA, MPS = torch.device("cpu"), torch.device("cuda"), torch.device("mps")
LARGE = 860_000_000
VAE_PARAMETERS = 83_653_863


def test_automatic_device_is_one_of_this_machine() -> None:
    choice = choose_device()
    assert choice.device.type == next(iter(available_devices()))
    assert "fastest" in choice.reason


def test_named_devices() -> None:
    assert choose_device("cpu").device == CPU
    assert choose_device(CPU).device == CPU
    assert choose_device("cpu:0").device.type == "cpu"
    with pytest.raises(UnknownName, match="did you mean 'cuda'"):
        choose_device("cdua")
    for wrong in ("cuda:x", "cuda:-1", "", "CPU"):
        with pytest.raises(UnknownName):
            choose_device(wrong)


def test_absent_devices_are_named_with_what_is_there() -> None:
    with pytest.raises(InvalidRequest, match=r"'cuda:99' is not in this machine; it has: .*cpu"):
        choose_device("cuda:99")
    with pytest.raises(InvalidRequest, match="'cpu:1'"):
        choose_device("cpu:1")


def test_named_dtypes() -> None:
    assert choose_dtype("bf16", CPU, LARGE).dtype == torch.bfloat16
    assert choose_dtype(torch.float32, CPU, LARGE).dtype == torch.float32
    assert choose_dtype("fp16", CUDA, LARGE).dtype == torch.float16
    assert choose_dtype("keep", CPU, LARGE, torch.float16).dtype == torch.float16
    assert choose_dtype("keep", CPU, LARGE, torch.float8_e4m3fn).dtype == torch.float32
    with pytest.raises(UnknownName, match="Known: auto, keep, fp32, fp16, bf16"):
        choose_dtype("float", CPU, LARGE)
    with pytest.raises(UnknownName):
        choose_dtype(torch.int8, CPU, LARGE)


@pytest.mark.parametrize("name", ["fp16", torch.float16])
def test_fp16_is_never_computed_on_a_cpu(name: str | torch.dtype) -> None:
    with pytest.raises(InvalidRequest, match="fp16 on a CPU"):
        choose_dtype(name, CPU, LARGE)
    for file_dtype in (torch.float16, torch.float32, torch.bfloat16):
        assert choose_dtype("auto", CPU, LARGE, file_dtype).dtype != torch.float16


def test_automatic_dtype() -> None:
    expected = torch.bfloat16 if cpu_multiplies_bf16() else torch.float32
    assert choose_dtype("auto", CPU, LARGE).dtype == expected
    for device in (CPU, CUDA, MPS):
        assert choose_dtype("auto", device, SMALL - 1).dtype == torch.float32
    assert choose_dtype("auto", MPS, LARGE).dtype == torch.float16


def test_all_parts_of_a_full_size_model_agree() -> None:
    smallest = choose_dtype("auto", CPU, VAE_PARAMETERS)
    assert smallest == choose_dtype("auto", CPU, LARGE)
