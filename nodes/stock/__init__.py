"""Our own small stand-ins for ComfyUI's stock nodes, so that shared graphs run without it.

Only the headless commands hand them to the executor; ComfyUI never sees them. One file a room.
"""

from __future__ import annotations

from . import conditioning, files, images, latent_batches, latents, masks, sigmas, vae, values
from .definition import StockNode

_ROOMS = (
    values, conditioning, latents, latent_batches, sigmas, vae, masks, images, files,
)  # fmt: skip

NODES: list[type[StockNode]] = [node for room in _ROOMS for node in room.NODES]

STOCK_CLASS_MAPPINGS: dict[str, type] = {node.__name__: node for node in NODES}
STOCK_DISPLAY_NAME_MAPPINGS: dict[str, str] = {node.__name__: node.DISPLAY_NAME for node in NODES}
