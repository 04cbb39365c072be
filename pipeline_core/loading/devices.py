"""One policy for where a network runs and in which precision; every choice can say why.

`choose_device` and `choose_dtype` take the user's word or "auto"; the measurements behind the
automatic choice: fp16 is slow and fragile on CPUs, bf16 is twice as fast as fp32 where the CPU
multiplies it in hardware, small networks gain nothing and lose exactness.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from ..errors import InvalidRequest, UnknownName

DEVICES = ("auto", "cpu", "cuda", "mps", "xpu")
DTYPES: dict[str, torch.dtype] = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
}
# Below the VAE (84 M), the least of the full-size networks: all parts of a model agree.
SMALL = 50_000_000


@dataclass(frozen=True)
class DeviceChoice:
    """Where a network runs, and one line that says why."""

    device: torch.device
    reason: str


@dataclass(frozen=True)
class DtypeChoice:
    """Precision of a network, and one line that says why."""

    dtype: torch.dtype
    reason: str


def choose_device(name: str | torch.device = "auto") -> DeviceChoice:
    """Return the device of that name ("cuda:1" too), or the best one there is for "auto".

    Raises:
        UnknownName: no device is called that.
        InvalidRequest: the device is not in this machine; the text says what is.
    """
    kind, _, index = str(name).partition(":")
    if kind not in DEVICES or (index and not index.isdecimal()):
        raise UnknownName("device", str(name), DEVICES)
    present = available_devices()
    if kind == "auto":
        best = next(iter(present))
        return DeviceChoice(torch.device(best), f"device {best}: the fastest of this machine")
    count = present.get(kind, 0)
    if int(index or 0) >= count:
        have = ", ".join(f"{kind} ({count})" for kind, count in present.items())
        raise InvalidRequest(f"device {str(name)!r} is not in this machine; it has: {have}")
    return DeviceChoice(torch.device(str(name)), f"device {name}: asked for")


def available_devices() -> dict[str, int]:
    """Return the kinds of device of this machine with their count, the fastest first."""
    present: dict[str, int] = {}
    if torch.cuda.is_available():
        present["cuda"] = torch.cuda.device_count()
    if torch.backends.mps.is_available():
        present["mps"] = 1
    if torch.xpu.is_available():
        present["xpu"] = torch.xpu.device_count()
    return {**present, "cpu": 1}


def choose_dtype(
    name: str | torch.dtype,
    device: torch.device,
    parameters: int,
    file_dtype: torch.dtype = torch.float32,
) -> DtypeChoice:
    """Return the precision of a network with so many parameters on that device.

    `name` is a key of `DTYPES`, a torch dtype, "keep" (as in the file) or "auto".

    Raises:
        UnknownName: no precision is called that.
        InvalidRequest: fp16 is asked for on a CPU by name.
    """
    if isinstance(name, torch.dtype):
        name = _name_of(name)
    if name == "keep":
        dtype = file_dtype if file_dtype in DTYPES.values() else torch.float32
        return DtypeChoice(dtype, f"{_name_of(dtype)}: as in the file")
    if name == "auto":
        return _automatic(device, parameters, file_dtype)
    if name not in DTYPES:
        raise UnknownName("dtype", name, ("auto", "keep", *DTYPES))
    if name == "fp16" and device.type == "cpu":
        raise InvalidRequest("fp16 on a CPU is slow and overflows; take bf16, fp32 or auto")
    return DtypeChoice(DTYPES[name], f"{name}: asked for")


def _automatic(device: torch.device, parameters: int, file_dtype: torch.dtype) -> DtypeChoice:
    if parameters < SMALL:
        return DtypeChoice(torch.float32, f"fp32: {parameters / 1e6:.1f} M parameters are small")
    if device.type == "cpu":
        if cpu_multiplies_bf16():
            return DtypeChoice(torch.bfloat16, "bf16: this CPU multiplies it in hardware")
        return DtypeChoice(torch.float32, "fp32: this CPU has no bf16 arithmetic")
    if device.type == "mps":
        return DtypeChoice(torch.float16, "fp16: half the memory on Apple GPUs")
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return DtypeChoice(torch.float16, "fp16: this GPU has no bf16 arithmetic")
    if file_dtype == torch.float16:
        return DtypeChoice(torch.float16, "fp16: as in the file, nothing to convert")
    return DtypeChoice(torch.bfloat16, "bf16: half the memory, cannot overflow")


def cpu_multiplies_bf16() -> bool:
    """Tell whether the CPU has AMX or AVX-512 instructions for bf16 (or Arm's, as Linux names it).

    torch has no public question for it on all its versions, so Linux is asked; elsewhere: no.
    """
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    flags = next((line for line in text.splitlines() if line.startswith(("flags", "Features"))), "")
    return bool({"amx_bf16", "avx512_bf16", "bf16"} & set(flags.split()))


def _name_of(dtype: torch.dtype) -> str:
    names = {value: name for name, value in DTYPES.items()}
    if dtype not in names:
        raise UnknownName("dtype", dtype, names.values())
    return names[dtype]
