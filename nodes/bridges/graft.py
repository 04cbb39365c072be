"""The language graft as patches of ComfyUI's MODEL, and dual conditioning on it.

A graft's patch holds no weights of its own: it computes from the tensors of the UNets on the
sockets when the host patches, in float64 as the graft of files, so that the strength can change
without loading anything again. The host rounds to the weight's dtype: within one unit in its last
place of the file.
"""

# pyright: reportMissingImports=false

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...pipeline_core.errors import InvalidRequest
from ...pipeline_core.graft.recipe import GraftMode, GraftRecipe, kind_of
from ...pipeline_core.loading.keys_unet import ldm_name
from ..graft import (
    CLIP_WEIGHT_INPUT,
    check_predictions,
    describe,
    graft_inputs,
    make_recipe,
)
from ..sockets import SocketUNet

if TYPE_CHECKING:
    import torch

PREFIX = "diffusion_model."  # of the UNet's tensors in a MODEL


class MultilingualGraftToModel:
    """Put the cross-attention of a multilingual model into a MODEL of ComfyUI, as patches."""

    DISPLAY_NAME = "Multilingual Graft to MODEL"
    CATEGORY = "multilingual/graft"
    DESCRIPTION = __doc__
    SEARCH_ALIASES = ["merge models", "add difference", "language graft", "swap cross-attention"]
    RETURN_TYPES = ("MODEL", "STRING")
    RETURN_NAMES = ("model", "report")
    OUTPUT_TOOLTIPS = (
        "The patched MODEL, for conditioning of the multilingual text encoder.",
        "What was grafted, and what of LoRAs was left out.",
    )
    FUNCTION = "execute"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        model = {"tooltip": "The community checkpoint of Load Checkpoint, with its LoRAs."}
        return graft_inputs(model=("MODEL", model))

    def execute(
        self,
        model: Any,
        multilingual: SocketUNet,
        mode: GraftMode,
        strength: float,
        base: SocketUNet | None = None,
        keep_lora: bool = False,
        **shares: float,
    ) -> tuple[Any, str]:
        recipe = make_recipe(mode, strength, shares)
        recipe.check_base(base)
        for other in (multilingual, base):
            check_predictions("the MODEL", prediction_type_of(model), other)
        patched, lines = graft_model(
            model,
            multilingual.need().network,
            base.need().network if base else None,
            recipe,
            keep_lora=keep_lora,
        )
        names = [name for name, _ in multilingual.need().network.named_parameters()]
        return patched, "\n".join([describe(recipe, names), *lines])


class MultilingualDualModel:
    """Let a grafted MODEL listen to CLIP too, with the cross-attention it had before the graft."""

    DISPLAY_NAME = "Multilingual Dual MODEL"
    CATEGORY = "multilingual/graft"
    DESCRIPTION = __doc__
    SEARCH_ALIASES = ["dual conditioning", "trigger words", "two prompts"]
    RETURN_TYPES = ("MODEL",)
    RETURN_NAMES = ("model",)
    OUTPUT_TOOLTIPS = ("Takes conditioning of Multilingual Dual Conditioning, on both sides.",)
    FUNCTION = "execute"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "model": ("MODEL", {"tooltip": "The grafted MODEL."}),
                "original": ("MODEL", {"tooltip": "The MODEL before the graft, with its LoRAs."}),
                "clip_weight": CLIP_WEIGHT_INPUT,
            }
        }

    def execute(self, model: Any, original: Any, clip_weight: float) -> tuple[Any]:
        from ...pipeline_core.ranges import check_number

        check_number("clip_weight", clip_weight, 0.0, 1.0)
        check_shapes("the original MODEL", original, shapes_of(model), ".attn2.")
        patches = model.model_options["transformer_options"].get("patches", {})
        if any(isinstance(patch, DualAttention) for patch in patches.get("attn2_patch", [])):
            raise InvalidRequest("this MODEL listens to CLIP already; take the grafted one")
        dual = DualAttention(cross_attention_weights(original), clip_weight)
        patched = model.clone()
        patched.set_model_attn2_patch(dual)
        patched.set_model_attn2_output_patch(dual.blend)
        return (patched,)


def graft_model(
    model: Any,
    multilingual: Any,
    base: Any | None,
    recipe: GraftRecipe,
    *,
    keep_lora: bool = False,
) -> tuple[Any, list[str]]:
    """Return a clone of a MODEL with the graft as patches, and what LoRAs before it lost.

    `multilingual` and `base` are UNet2DConditionModels.

    Raises:
        InvalidRequest: they are not of the MODEL's family.
    """
    from ...pipeline_core.graft.parents import Structure, check_structures

    first = Structure.of("the multilingual model", multilingual, multilingual.config)
    if base is not None:
        check_structures(first, Structure.of("the base", base, base.config))
    keys = {name: PREFIX + ldm_name(name, multilingual.config) for name in first.shapes}
    check_shapes("the MODEL", model, {keys[name]: shape for name, shape in first.shapes.items()})
    chosen = [name for name in keys if recipe.strength_of(name) > 0]
    new = dict(multilingual.named_parameters())
    old = dict(base.named_parameters()) if base is not None and recipe.needs_base else {}
    patched = model.clone()
    lines: list[str] = []
    if not keep_lora:
        lines = _drop_loras(patched, [keys[name] for name in chosen if kind_of(name) == "kv"])
    make = _patch_class()
    patches = {
        keys[name]: make({name}, (new[name], old.get(name), recipe.strength_of(name)))
        for name in chosen
    }
    patched.add_patches(patches)
    for key in patches:
        _before_loras(patched.patches[key])
    return patched, lines


@functools.cache
def _patch_class() -> type:
    """Return the patch as the host knows it: a weight adapter.

    The host may make another of `loaded_keys` and `weights` copied to where the weight lies.
    """
    from comfy.weight_adapter import WeightAdapterBase

    from ...pipeline_core.graft.arithmetic import graft_tensor

    class GraftPatch(WeightAdapterBase):
        name = "multilingual_graft"

        def __init__(self, loaded_keys: set[str], weights: tuple[Any, Any, float]) -> None:
            self.loaded_keys, self.weights = loaded_keys, weights

        def calculate_weight(self, weight: torch.Tensor, key: str, *_: Any, **__: Any) -> Any:
            multilingual, base, strength = self.weights
            multilingual = multilingual.reshape(weight.shape)
            base = None if base is None else base.reshape(weight.shape)
            return graft_tensor(key, weight, multilingual, base, strength)

    return GraftPatch


def _drop_loras(patched: Any, keys: Iterable[str]) -> list[str]:
    """Take LoRAs off these weights of a clone; say off how many."""
    dropped = 0
    for key in keys:
        there = patched.patches.get(key, [])
        kept = [patch for patch in there if not _is_lora(patch)]
        if len(kept) < len(there):
            patched.patches[key] = kept
            dropped += 1
    if not dropped:
        return []
    return [
        f"LoRAs: their changes of {dropped} keys and values are left out (learned on CLIP's tokens)"
    ]


def _before_loras(patches: list[Any]) -> None:
    """Move a weight's last patch, the graft, before the LoRAs that precede it: they lie on top."""
    graft = patches.pop()
    place = len(patches)
    while place and _is_lora(patches[place - 1]):
        place -= 1
    patches.insert(place, graft)


def _is_lora(patch: Sequence[Any]) -> bool:
    """Tell a LoRA (LoHa, LoKr, OFT ...) from a merge of checkpoints and from another graft."""
    from comfy.weight_adapter import WeightAdapterBase

    return isinstance(patch[1], WeightAdapterBase) and not isinstance(patch[1], _patch_class())


def prediction_type_of(model: Any) -> str:
    """Return what a MODEL's UNet predicts, by its (or a node's) model_sampling.

    Raises:
        InvalidRequest: it is neither epsilon nor v.
    """
    from comfy.model_sampling import EPS, V_PREDICTION

    sampling = model.get_model_object("model_sampling")
    if isinstance(sampling, V_PREDICTION):
        return "v_prediction"
    if isinstance(sampling, EPS):
        return "epsilon"
    raise InvalidRequest("this MODEL predicts neither noise nor v; a graft needs an SD1.x or SD2.x")


def shapes_of(model: Any) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the UNet's tensors in a MODEL."""
    tensors: Mapping[str, torch.Tensor] = model.model_state_dict(PREFIX)
    return {name: tuple(value.shape) for name, value in tensors.items()}


def check_shapes(
    title: str, model: Any, wanted: Mapping[str, tuple[int, ...]], part: str = ""
) -> None:
    """Refuse a MODEL that lacks tensors, or has them in other shapes.

    Raises:
        InvalidRequest: naming one.
    """
    from ...pipeline_core.graft.parents import WHICH
    from ...pipeline_core.loading.matching import fits

    found = shapes_of(model)
    for name, shape in wanted.items():
        if part in name and not (name in found and fits(found[name], shape)):
            has = list(found[name]) if name in found else "absent"
            raise InvalidRequest(
                f"{title} is of another family: {name} is {has}, not {list(shape)}; {WHICH}"
            )


def cross_attention_weights(model: Any) -> dict[str, torch.Tensor]:
    """Return the patched weights of a MODEL's cross-attention, by the original code's names."""
    import comfy.lora
    import torch

    weights: dict[str, torch.Tensor] = {}
    for key, (start, *patches) in model.get_key_patches(PREFIX).items():
        if ".attn2." not in key:
            continue
        weight, convert = start
        exact = convert(weight.detach().to("cpu", torch.float32, copy=True), inplace=True)
        patched = comfy.lora.calculate_weight(patches, exact, key)
        weights[key.removeprefix(PREFIX)] = patched.to(weight.dtype)
    return weights


class DualAttention:
    """The original cross-attention of a MODEL over CLIP's tokens, beside the grafted one.

    It is the host's `attn2_patch`: it hands the multilingual half of a joined conditioning on and
    computes the other half itself; `blend` is its `attn2_output_patch`. Its weights, a twentieth of
    the UNet, are moved by the host with the MODEL.
    """

    def __init__(self, weights: Mapping[str, torch.Tensor], clip_weight: float) -> None:
        self.weights = dict(weights)
        self.clip_weight = clip_weight
        self._answers: dict[str, torch.Tensor] = {}

    def to(self, place: Any) -> DualAttention:
        """Move the weights to a device, as the host asks of patches; dtypes are cast in use."""
        import torch

        if isinstance(place, torch.device):
            self.weights = {name: value.to(place) for name, value in self.weights.items()}
        return self

    def __call__(
        self, hidden: torch.Tensor, context: torch.Tensor, value: Any, options: dict[str, Any]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Split the context [B, T, 2 D], let the original answer its CLIP half."""
        name = _layer(options)
        width = self.weights[f"{name}.to_k.weight"].shape[1]
        if context.shape[2] != 2 * width:
            raise InvalidRequest(
                f"this MODEL takes joined conditioning of {2 * width} numbers a token, not "
                f"{context.shape[2]}; put Multilingual Dual Conditioning on both sides"
            )
        multilingual, clip = context.chunk(2, dim=2)
        self._answers[name] = self._attend(name, hidden, clip, options)
        return hidden, multilingual, multilingual

    def blend(self, output: torch.Tensor, options: dict[str, Any]) -> torch.Tensor:
        """Blend what the grafted cross-attention said with the original's answer."""
        import torch

        return torch.lerp(output, self._answers.pop(_layer(options)), self.clip_weight)

    def _attend(
        self, name: str, hidden: torch.Tensor, clip: torch.Tensor, options: dict[str, Any]
    ) -> torch.Tensor:
        from comfy.ldm.modules.attention import optimized_attention
        from torch.nn.functional import linear

        def weight(part: str) -> torch.Tensor:
            return self.weights[f"{name}.{part}"].to(hidden)

        query = linear(hidden, weight("to_q.weight"))
        key, value = (linear(clip, weight(f"to_{side}.weight")) for side in "kv")
        heads, precision = options["n_heads"], options["attn_precision"]
        answer = optimized_attention(query, key, value, heads, attn_precision=precision)
        return linear(answer, weight("to_out.0.weight"), weight("to_out.0.bias"))


def _layer(options: Mapping[str, Any]) -> str:
    """Return the name of the cross-attention that the host is in."""
    side, place = options["block"]
    blocks = "middle_block" if side == "middle" else f"{side}_blocks.{place}"
    return f"{blocks}.1.transformer_blocks.{options['block_index']}.attn2"


NODES = [MultilingualGraftToModel, MultilingualDualModel]
