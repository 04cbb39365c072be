"""Bridges to ComfyUI's own MODEL, CLIP and VAE; they are registered where ComfyUI is there.

Importing them needs no ComfyUI, so the tests of every node's contract see them everywhere.
"""

from __future__ import annotations

from . import checkpoint, graft, lora_report, sampling, text, unet, vae

_ROOMS = (checkpoint, unet, text, vae, sampling, lora_report, graft)
NODES: list[type] = [node for room in _ROOMS for node in room.NODES]
