"""Latents to images and back.

`codec.py` is the door (`VAE`), `tiled_network.py` and `tiles.py` are what it does when memory is
tight, `preview.py` is a cheap look at latents.
"""
