"""Bridges to ComfyUI's own MODEL, CLIP and VAE; they are registered where ComfyUI is there.

Importing them needs no ComfyUI, so the tests of every node's contract see them everywhere.
"""

from __future__ import annotations

from . import unet

NODES: list[type] = [node for room in (unet,) for node in room.NODES]
