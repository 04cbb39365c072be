"""An AutoencoderKL run in tiles that look as if it had run whole.

The half of the network that works on few pixels (its attention included) runs on the whole picture.
Only the large half is tiled, and there every GroupNorm takes its statistics from one run over the
picture made small: tiles with statistics of their own would differ in colour and contrast. The
small picture is sampled, not averaged, so that its values spread as the large one's do.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import torch

from .tiles import TileCallback, run_tiled

_OVERLAP = 12  # latent pixels; what a tile's border spoils reaches less than a quarter of it


def decode_tiled(
    network: Any, samples: torch.Tensor, tile: int, on_tile: TileCallback | None = None
) -> torch.Tensor:
    """Return what `network.decode` gives for samples [1, C, h, w], in tiles of `tile` latents."""
    decoder = _with_shared_norms(network.decoder)
    blocks = decoder.up_blocks
    half = max(1, len(blocks) // 2)
    features = decoder.mid_block(decoder.conv_in(_optional(network.post_quant_conv, samples)))
    for block in blocks[: half - 1]:
        features = block(features)
    for resnet in blocks[half - 1].resnets:
        features = resnet(features, None)

    def large_half(features: torch.Tensor) -> torch.Tensor:
        for upsampler in blocks[half - 1].upsamplers or ():
            features = upsampler(features)
        for block in blocks[half:]:
            features = block(features)
        return decoder.conv_out(decoder.conv_act(decoder.conv_norm_out(features)))

    grown = 2 ** (half - 1)
    _learn_statistics(decoder, large_half, features, tile * grown)
    return run_tiled(
        large_half,
        features,
        tile=tile * grown,
        overlap=_overlap(tile) * grown,
        factors=(1, 2 ** (len(blocks) - half)),
        on_tile=on_tile,
    )


def encode_tiled(
    network: Any, pixels: torch.Tensor, tile: int, on_tile: TileCallback | None = None
) -> torch.Tensor:
    """Return the moments [1, 2C, h, w] that `network.encode` gives for pixels [1, 3, H, W]."""
    encoder = _with_shared_norms(network.encoder)
    blocks = encoder.down_blocks
    half = len(blocks) // 2

    def large_half(pixels: torch.Tensor) -> torch.Tensor:
        features = encoder.conv_in(pixels)
        for block in blocks[:half]:
            features = block(features)
        return features

    left = 2 ** (len(blocks) - 1 - half)  # features a latent pixel
    _learn_statistics(encoder, large_half, pixels, tile * 2 ** (len(blocks) - 1))
    features = run_tiled(
        large_half,
        pixels,
        tile=tile * left,
        overlap=_overlap(tile) * left,
        factors=(2**half, 1),
        on_tile=on_tile,
    ).to(pixels.dtype)
    for block in blocks[half:]:
        features = block(features)
    features = encoder.conv_act(encoder.conv_norm_out(encoder.mid_block(features)))
    return _optional(network.quant_conv, encoder.conv_out(features))


class _SharedNorm(torch.nn.Module):
    """A GroupNorm that can keep the statistics of one input and use them for others."""

    def __init__(self, norm: torch.nn.GroupNorm) -> None:
        super().__init__()
        self.norm = norm
        self.learning = False
        self.statistics: tuple[torch.Tensor, torch.Tensor] | None = None

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        if self.learning:
            groups = values.float().reshape(self.norm.num_groups, -1)  # one image: B is 1
            self.statistics = groups.mean(1), groups.var(1, unbiased=False)
        if self.statistics is None:
            return self.norm(values)
        mean, variance = self.statistics
        grouped = (self.norm.num_groups, -1)
        spread = (variance + self.norm.eps).sqrt()[:, None]
        scale = self.norm.weight.float().view(grouped) / spread
        shift = self.norm.bias.float().view(grouped) - mean[:, None] * scale
        result = values.float() * scale.reshape(1, -1, 1, 1) + shift.reshape(1, -1, 1, 1)
        return result.to(values.dtype)


def _with_shared_norms(module: Any) -> Any:
    """Return a copy of the module's structure over the same weights, its GroupNorms replaced."""
    weights = {id(value): value for value in (*module.parameters(), *module.buffers())}
    twin = copy.deepcopy(module, weights)
    for parent in list(twin.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, torch.nn.GroupNorm):
                setattr(parent, name, _SharedNorm(child))
    return twin


def _learn_statistics(
    module: torch.nn.Module,
    function: Callable[[torch.Tensor], torch.Tensor],
    values: torch.Tensor,
    side: int,
) -> None:
    """Run `function` over `values`, sampled to a tile's area; the norms keep their statistics."""
    height, width = values.shape[-2:]
    shrink = side / math.sqrt(height * width)
    if shrink < 1:  # to multiples of 8: an encoder halves its input several times
        size = [max(8, int(length * shrink / 8) * 8) for length in (height, width)]
        values = torch.nn.functional.interpolate(values, size, mode="nearest-exact")
    norms = [child for child in module.modules() if isinstance(child, _SharedNorm)]
    for norm in norms:
        norm.learning = True
    function(values)
    for norm in norms:
        norm.learning = False


def _overlap(tile: int) -> int:
    return min(_OVERLAP, tile // 2)


def _optional(layer: torch.nn.Module | None, values: torch.Tensor) -> torch.Tensor:
    return values if layer is None else layer(values)
