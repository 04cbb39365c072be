"""The language graft: put the cross-attention of a multilingual model into another checkpoint.

`diff_parents` says what a model's training changed, `write_graft` writes a grafted model or
checkpoint, `graft_network` grafts loaded networks, `make_dual_unet` lets one UNet listen to CLIP
and to a multilingual text encoder at once.
"""

from __future__ import annotations
