"""Bridges to ComfyUI's own MODEL, CLIP and VAE; they are registered where ComfyUI is there.

Importing them needs no ComfyUI, so the tests of every node's contract see them everywhere.
"""

from __future__ import annotations

from . import checkpoint, graft, text, unet, vae

NODES: list[type] = [node for room in (checkpoint, unet, text, vae, graft) for node in room.NODES]
