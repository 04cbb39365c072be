"""What makes training and measuring on a CPU faster: freed memory is kept, denormals are zero.

Measured with nano, one thread: keeping large blocks saves half of the time of encoding (the page
faults of every activation); without denormals a step of the UNet takes 0.68 s instead of 1.22 s.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # parameters of mallopt(3)


@contextmanager
def tuned_cpu() -> Iterator[None]:
    """Set up the process for a command; threads that torch starts within inherit it.

    The thresholds of the C library stay as they are set; denormals come back.
    """
    import torch

    _keep_freed_memory()
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def _keep_freed_memory() -> bool:
    """Raise the thresholds above which glibc gives memory back; say whether it took them."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_MMAP_THRESHOLD, 2**30) and mallopt(_TRIM_THRESHOLD, 2**31 - 1))
