"""A script for ComfyUI's process: its memory management over networks of ours, memory being short.

The device is `meta`: the host takes it for an accelerator, and what has not been brought there
shows. The host's free memory is what the script says it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

SHORT = 1  # byte
CASES = {
    "plenty": (2**34, "NORMAL_VRAM"),
    "short": (SHORT, "NORMAL_VRAM"),
    "lowvram": (SHORT, "LOW_VRAM"),
    "novram": (SHORT, "NO_VRAM"),
}


def main(models: str) -> dict[str, Any]:
    """Return, for each case and network of a model, what the host made of it."""
    import folder_paths
    from multilingual_diffusion.nodes import host
    from multilingual_diffusion.nodes.loaders import MultilingualModelLoader

    folder_paths.add_model_folder_path(host.OWN_FOLDER, models)
    found: dict[str, Any] = {}
    for case, (free, vram_state) in CASES.items():
        with torch.inference_mode(), memory_is(0, "DISABLED"):  # as nodes run
            networks = [
                part.part.network for part in MultilingualModelLoader().execute(model="checked")
            ]
        with torch.inference_mode(), memory_is(free, vram_state):
            found[case] = {type(each).__name__: bring(each) for each in networks}
    return found


@contextmanager
def memory_is(free: int, vram_state: str) -> Iterator[None]:
    """Have the host see so much free memory, in a state that flags put it in."""
    import comfy.model_management as management

    before = management.vram_state, management.get_free_memory
    management.vram_state = management.VRAMState[vram_state]
    management.get_free_memory = lambda device=None, torch_free_too=False: (
        (free, free) if torch_free_too else free
    )
    try:
        yield
    finally:
        management.vram_state, management.get_free_memory = before
        management.current_loaded_models.clear()  # nothing comes back from `meta`


def bring(network: torch.nn.Module) -> dict[str, Any]:
    """Bring a network and say what the host calls it, holds of it, and left behind."""
    import comfy.model_management as management
    from multilingual_diffusion.nodes import host

    patcher = host.make_patcher(network, host.Place(torch.device("meta"), torch.device("cpu")))
    host.bring(patcher, 0)
    known = management.current_loaded_models.pop().model  # so that the next one need not free it
    tensors = [*network.named_parameters(), *network.named_buffers()]
    return {
        "called": type(patcher.model).__name__,
        "left behind": [name for name, tensor in tensors if tensor.device.type != "meta"],
        "known": known is patcher,
        "counted": patcher.loaded_size() == patcher.model_size(),
    }
