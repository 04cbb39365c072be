"""The language graft on our own UNet, its report, and dual conditioning."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..pipeline_core.errors import InvalidRequest
from ..pipeline_core.graft.recipe import MODES, GraftMode, GraftRecipe, Strengths
from .conversions import EMPTY_WINDOW
from .sockets import UNET, SocketUNet

if TYPE_CHECKING:
    import torch

CONTROLNET_TEXT = "cross_attn_controlnet"  # the host's key: what a ControlNet attends to instead

MULTILINGUAL_INPUT = (
    UNET,
    {"tooltip": "The model that lends its language: AltDiffusion or -m9 for SD1.x, -m18 or Chinese "
     "Stable Diffusion for SD2.x-base."},
)  # fmt: skip
BASE_INPUT = (
    UNET,
    {"tooltip": "What the multilingual model was trained from, for the delta modes: SD 1.4 for "
     "AltDiffusion and -m9, SD 2.1-base for -m18."},
)  # fmt: skip
KEEP_LORA_INPUT = (
    "BOOLEAN",
    {"default": False, "tooltip": "Keep what LoRAs before this node changed in keys and values. "
     "Off: it was learned on CLIP's tokens and is left out; all else of them stays.",
     "advanced": True},
)  # fmt: skip
CLIP_WEIGHT_INPUT = (
    "FLOAT",
    {"default": 0.5, "min": 0.0, "max": 1.0, "step": 0.01, "tooltip": "How much CLIP's prompt "
     "counts: 0 is the grafted model alone, 1 the original's cross-attention alone."},
)  # fmt: skip


def recipe_inputs() -> dict[str, Any]:
    """Return the widgets that every graft has."""
    return {
        "mode": (
            list(MODES),
            {"default": "replace-attn2", "tooltip": "replace: the multilingual keys and values, or "
             "its whole cross-attention, take the place of the community's. delta: what training "
             "changed in the base is added to the community's; all: in every tensor."},
        ),
        "strength": (
            "FLOAT",
            {"default": 1.0, "min": 0.0, "max": 1.0, "step": 0.01, "tooltip": "0: the community "
             "model, bit for bit; 1: the whole graft."},
        ),
    }  # fmt: skip


def share_inputs() -> dict[str, Any]:
    """Return the shares of the strength that each side of the UNet takes."""
    return {
        side: (
            "FLOAT",
            {"default": 1.0, "min": 0.0, "max": 1.0, "step": 0.01, "advanced": True,
             "tooltip": f"Share of the strength in {where}."},
        )
        for side, where in (
            ("down", "the blocks on the way down: layout and subject"),
            ("mid", "the middle block"),
            ("up", "the blocks on the way up: detail and style"),
        )
    }  # fmt: skip


def graft_inputs(**community: Any) -> dict[str, Any]:
    """Return the inputs of a graft into `community`: the name of its socket, and the socket."""
    return {
        "required": {**community, "multilingual": MULTILINGUAL_INPUT, **recipe_inputs()},
        "optional": {"base": BASE_INPUT, **share_inputs(), "keep_lora": KEEP_LORA_INPUT},
    }


def make_recipe(mode: GraftMode, strength: float, shares: dict[str, float]) -> GraftRecipe:
    """Return what the widgets say."""
    return GraftRecipe(mode, Strengths.of(strength, **shares))


def check_predictions(community: str, predicts: str, other: SocketUNet | None) -> None:
    """Refuse parents of which one predicts the noise and the other v.

    Raises:
        InvalidRequest: naming both.
    """
    if other is not None and other.known_prediction_type() != predicts:
        raise InvalidRequest(
            f"the UNet of {community} predicts {predicts} and that of {other.source} "
            f"{other.prediction_type}; a graft needs two of one kind"
        )


class MultilingualGraft:
    """Put the cross-attention of a multilingual model into another UNet of its family."""

    DISPLAY_NAME = "Multilingual Graft"
    CATEGORY = "multilingual/graft"
    DESCRIPTION = __doc__
    SEARCH_ALIASES = ["merge models", "add difference", "language graft", "swap cross-attention"]
    RETURN_TYPES = (UNET, "STRING")
    RETURN_NAMES = ("unet", "report")
    OUTPUT_TOOLTIPS = (
        "The grafted UNet, for conditioning of the multilingual text encoder.",
        "What was grafted, and what of LoRAs was left out.",
    )
    FUNCTION = "execute"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        unet = {"tooltip": "The community's UNet, with its LoRAs: it gives style and subjects."}
        return graft_inputs(unet=(UNET, unet))

    def execute(
        self,
        unet: SocketUNet,
        multilingual: SocketUNet,
        mode: GraftMode,
        strength: float,
        base: SocketUNet | None = None,
        keep_lora: bool = False,
        **shares: float,
    ) -> tuple[SocketUNet, str]:
        from ..pipeline_core.graft.loras import graft_denoiser

        recipe = make_recipe(mode, strength, shares)
        for other in (multilingual, base):
            check_predictions(unet.source, unet.known_prediction_type(), other)
        grafted, lines = graft_denoiser(
            unet.need(),
            multilingual.need().network,
            base.need().network if base else None,
            recipe,
            keep_lora=keep_lora,
            device=unet.rest,
        )
        source = f"{unet.source} + {multilingual.source}"
        names = [name for name, _ in unet.need().network.named_parameters()]
        changed = unet.grafted or any(map(recipe.strength_of, names))
        result = dataclasses.replace(unet.with_part(grafted), source=source, grafted=changed)
        return result, "\n".join([describe(recipe, names), *lines])


class MultilingualGraftReport:
    """Say which tensors of a UNet its multilingual training changed, and by how much."""

    DISPLAY_NAME = "Multilingual Graft Report"
    CATEGORY = "multilingual/graft"
    DESCRIPTION = __doc__
    SEARCH_ALIASES = ["diff", "compare models", "what changed"]
    RETURN_TYPES = ("STRING",)
    RETURN_NAMES = ("report",)
    OUTPUT_TOOLTIPS = ("A table by block and kind of tensor, and the mode that takes all of it.",)
    FUNCTION = "execute"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        base = {"tooltip": "What it was trained from: SD 1.4 for AltDiffusion and -m9, SD 2.1-base "
                "for -m18."}  # fmt: skip
        return {
            "required": {
                "multilingual": (UNET, {"tooltip": "The UNet of the multilingual model."}),
                "base": (UNET, base),
            }
        }

    def execute(self, multilingual: SocketUNet, base: SocketUNet) -> dict[str, Any]:
        from ..pipeline_core.graft.network import diff_networks

        found = diff_networks(
            base.need().network, multilingual.need().network, (base.source, multilingual.source)
        )
        return {"ui": {"text": [str(found)]}, "result": (str(found),)}


class MultilingualDualUNet:
    """Let a grafted UNet listen to CLIP too, with the cross-attention it had before the graft."""

    DISPLAY_NAME = "Multilingual Dual UNet"
    CATEGORY = "multilingual/graft"
    DESCRIPTION = __doc__
    SEARCH_ALIASES = ["dual conditioning", "trigger words", "two prompts"]
    RETURN_TYPES = (UNET,)
    RETURN_NAMES = ("unet",)
    OUTPUT_TOOLTIPS = ("Takes conditioning of Multilingual Dual Conditioning, on both sides.",)
    FUNCTION = "execute"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "unet": (UNET, {"tooltip": "The grafted UNet."}),
                "original": (UNET, {"tooltip": "The UNet before the graft, with its LoRAs."}),
                "clip_weight": CLIP_WEIGHT_INPUT,
            }
        }

    def execute(
        self, unet: SocketUNet, original: SocketUNet, clip_weight: float
    ) -> tuple[SocketUNet]:
        from ..pipeline_core.graft.dual import make_dual_unet
        from ..pipeline_core.sampling import UNetDenoiser

        network = make_dual_unet(
            unet.need().network, original.need().network, clip_weight, device=unet.rest
        )
        return (unet.with_part(UNetDenoiser(network)),)


class MultilingualDualConditioning:
    """Join a multilingual prompt and a CLIP prompt for a dual UNet or MODEL."""

    DISPLAY_NAME = "Multilingual Dual Conditioning"
    CATEGORY = "multilingual/graft"
    DESCRIPTION = __doc__
    SEARCH_ALIASES = ["trigger words", "two prompts", "CLIP and XLM-R"]
    RETURN_TYPES = ("CONDITIONING",)
    RETURN_NAMES = ("conditioning",)
    OUTPUT_TOOLTIPS = ("For a dual UNet or MODEL only; ControlNets read its CLIP side.",)
    FUNCTION = "execute"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "conditioning": ("CONDITIONING", {"tooltip": "Of Multilingual Text Encode."}),
                "clip_conditioning": (
                    "CONDITIONING",
                    {"tooltip": "Of CLIP Text Encode with the community checkpoint's own CLIP: "
                     "trigger words, embeddings, style tags. One entry serves all."},
                ),
            }
        }  # fmt: skip

    def execute(
        self, conditioning: Sequence[Any], clip_conditioning: Sequence[Any]
    ) -> tuple[list[list[Any]]]:
        return ([_join(*pair) for pair in _pairs(conditioning, clip_conditioning)],)


class MultilingualControlNetConditioning:
    """Have ControlNets read a CLIP prompt, while the UNet reads the multilingual one."""

    DISPLAY_NAME = "Multilingual ControlNet Conditioning"
    CATEGORY = "multilingual/graft"
    DESCRIPTION = __doc__
    SEARCH_ALIASES = ["ControlNet prompt", "ControlNet CLIP", "T2I adapter"]
    RETURN_TYPES = ("CONDITIONING",)
    RETURN_NAMES = ("conditioning",)
    OUTPUT_TOOLTIPS = ("The multilingual conditioning; a ControlNet applied to it reads CLIP's.",)
    FUNCTION = "execute"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "conditioning": ("CONDITIONING", {"tooltip": "What the UNet reads."}),
                "clip_conditioning": (
                    "CONDITIONING",
                    {"tooltip": "What ControlNets read: they were trained on CLIP's tokens. A "
                     "prompt in English, or an empty one. One entry serves all."},
                ),
            }
        }  # fmt: skip

    def execute(
        self, conditioning: Sequence[Any], clip_conditioning: Sequence[Any]
    ) -> tuple[list[list[Any]]]:
        pairs = _pairs(conditioning, clip_conditioning)
        return ([[own, {**more, CONTROLNET_TEXT: clip}] for (own, more), clip in pairs],)


def describe(recipe: GraftRecipe, names: Sequence[str]) -> str:
    """Return a line about a graft of a UNet with tensors of these (diffusers') names."""
    grafted = sum(recipe.strength_of(name) > 0 for name in names)
    shares = recipe.strengths
    return (
        f"{recipe.mode}: {grafted} tensors grafted, {len(names) - grafted} kept; strength "
        f"down {shares.down:g}, mid {shares.mid:g}, up {shares.up:g}"
    )


def _pairs(
    conditioning: Sequence[Any], clip_conditioning: Sequence[Any]
) -> list[tuple[Any, torch.Tensor]]:
    """Return each entry with the CLIP embeddings that go with it.

    Raises:
        InvalidRequest: there are several of both, and not as many.
    """
    clips = [clip for clip, _ in clip_conditioning]
    if len(clips) not in (1, len(conditioning)):
        raise InvalidRequest(
            f"the conditioning has {len(conditioning)} entries and CLIP's {len(clips)}; give one, "
            "or as many"
        )
    if len(clips) == 1:
        clips *= len(conditioning)
    return list(zip(conditioning, clips, strict=True))


def _join(entry: Sequence[Any], clip: torch.Tensor) -> list[Any]:
    from ..pipeline_core.graft.dual import join_conditioning

    own, more = entry
    joined = join_conditioning(own, clip)
    more = {**more, CONTROLNET_TEXT: clip}
    window = more.pop(EMPTY_WINDOW, None)
    # A further empty window beside CLIP's tokens once more: that leaves what CLIP says as it is.
    if window is not None and clip.shape[:2] == (1, window.shape[0]):
        more[EMPTY_WINDOW] = join_conditioning(window[None], clip)[0]
    return [joined, more]


NODES = [
    MultilingualGraft,
    MultilingualGraftReport,
    MultilingualDualUNet,
    MultilingualDualConditioning,
    MultilingualControlNetConditioning,
]
