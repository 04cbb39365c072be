"""The nodes, one file a room in the order of the flow; ComfyUI reads the two mappings.

Registering them imports no heavy library: what a node needs is imported when it runs. Bridges to
ComfyUI's own models are there only where ComfyUI is.
"""

from __future__ import annotations

from . import adapters, bridges, graft, host, images, latents, loaders, safety, sampler, text, vae

_ROOMS = (loaders, text, latents, sampler, vae, safety, images, adapters, graft)
NODES: list[type] = [
    node for room in (*_ROOMS, *([bridges] if host.is_hosted() else [])) for node in room.NODES
]

NODE_CLASS_MAPPINGS: dict[str, type] = {node.__name__: node for node in NODES}
NODE_DISPLAY_NAME_MAPPINGS: dict[str, str] = {
    node.__name__: vars(node)["DISPLAY_NAME"] for node in NODES
}
