"""The ten everyday colours of the small world, far apart also after a lossy VAE.

The names serve things and backgrounds alike. Values are sRGB; pictures vary each by at most
`drawing.SHADE` in brightness.
"""

from __future__ import annotations

PALETTE: dict[str, tuple[int, int, int]] = {
    "red": (216, 28, 36),
    "orange": (255, 134, 0),
    "yellow": (255, 225, 44),
    "green": (38, 150, 62),
    "blue": (26, 96, 216),
    "purple": (136, 40, 158),
    "pink": (255, 150, 196),
    "brown": (112, 66, 30),
    "black": (16, 16, 18),
    "white": (248, 248, 246),
}
COLOURS = tuple(PALETTE)
