"""Training in several processes: who writes, and who waits.

All of it is accelerate's; alone, a process is the first one and never waits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..errors import MissingDependency


def load_accelerate() -> Any:
    """Return the module `accelerate`.

    Raises:
        MissingDependency: it is not installed.
    """
    try:
        import accelerate
    except ImportError as exc:
        raise MissingDependency(
            'training needs accelerate: pip install "comfyui-multilingual-diffusion[train]"'
        ) from exc
    return accelerate


def run_once(work: Callable[[], object]) -> None:
    """Have the first process do something; all go on when it is done."""
    accelerate = load_accelerate()
    # as Accelerator itself asks: without it several processes on CPUs would each be the first
    on_cpu = accelerate.utils.parse_flag_from_env("ACCELERATE_USE_CPU")
    state = accelerate.PartialState(cpu=on_cpu)
    if state.is_main_process:
        work()
    state.wait_for_everyone()
