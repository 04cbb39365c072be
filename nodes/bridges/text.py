"""Our text encoder as a CLIP: stock nodes give it prompts and get our conditioning back.

Its tokens are the prompt itself, so words, weights and windows are cut by our own rule (the host
would cut at every bracket); its memory is the patcher's that our own nodes use.
"""

# pyright: reportMissingImports=false

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NoReturn, get_args

from ...pipeline_core.errors import InvalidRequest
from ...pipeline_core.values import LongPrompt, Weighting
from .. import host
from ..conversions import check_choice
from ..sockets import SocketPart
from ..text import MultilingualTextEncode, encode_prompts

if TYPE_CHECKING:
    from ...pipeline_core.text.encoder import TextEncoder

PROMPT = "multilingual_prompt"  # the only key of our tokens


class MultilingualTextEncoderToCLIP:
    """Turn a text encoder of this pack into ComfyUI's CLIP, for CLIP Text Encode and its kin."""

    DISPLAY_NAME = "Multilingual Text Encoder to CLIP"
    CATEGORY = "multilingual/comfyui"
    DESCRIPTION = __doc__
    SEARCH_ALIASES = ["bridge", "CLIP Text Encode", "convert text encoder", "native clip"]
    RETURN_TYPES = ("CLIP",)
    RETURN_NAMES = ("clip",)
    OUTPUT_TOOLTIPS = ("For CLIP Text Encode; it reads prompts in the model's languages.",)
    FUNCTION = "execute"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        encode = MultilingualTextEncode.INPUT_TYPES()
        text_encoder = encode["required"]["text_encoder"]
        return {"required": {"text_encoder": text_encoder}, "optional": encode["optional"]}

    def execute(
        self,
        text_encoder: SocketPart[TextEncoder],
        weighting: str = "toward-empty",
        long_prompt: str = "chunk",
    ) -> tuple[Any]:
        return (make_clip(text_encoder, weighting=weighting, long_prompt=long_prompt),)


def make_clip(
    text_encoder: SocketPart[TextEncoder],
    *,
    weighting: str = "toward-empty",
    long_prompt: str = "chunk",
) -> Any:
    """Return a CLIP of the host's class whose conditioning is our encoder's.

    Raises:
        UnknownName: of the weighting or the way with long prompts.
        PipelineError: the model has no text encoder.
    """
    check_choice("weighting", weighting, get_args(Weighting))
    check_choice("long_prompt", long_prompt, get_args(LongPrompt))
    way = {"weighting": weighting, "long_prompt": long_prompt}
    return _clip_class()(text_encoder.need(), text_encoder.patcher, way)


class PromptTokenizer:
    """What the host calls a tokenizer: it hands the prompt on as it is."""

    def tokenize_with_weights(
        self, text: str, return_word_ids: bool = False, **options: Any
    ) -> dict[str, str]:
        """Return the tokens of a prompt, which only our own encoder reads."""
        return {PROMPT: text}


@functools.cache
def _prompt_encoder_class() -> type:
    """Return the class of `cond_stage_model`, which needs torch."""
    import torch

    class PromptEncoder(torch.nn.Module):
        """What the host calls to encode; the network it uses belongs to the CLIP's patcher."""

        disable_offload = True  # the host's plain kind of patcher, until ours takes its place

        def __init__(self, encoder: TextEncoder, patcher: Any, way: Mapping[str, Any]) -> None:
            super().__init__()
            # In a tuple no parameter is registered: the patcher alone moves and counts them.
            self._ours = (encoder, patcher.model, way)
            self.dtypes = {encoder.network.dtype}

        def set_clip_options(self, options: Mapping[str, Any]) -> None:
            """Take the host's wishes; refuse another layer."""
            if options.get("layer") is not None:
                _refuse_layer(options["layer"])

        def reset_clip_options(self) -> None:
            """Forget the host's wishes."""

        def state_dict(self, *arguments: Any, **options: Any) -> Any:
            """Return the network's tensors by the patcher's names, for LoRAs made for them."""
            return self._ours[1].state_dict(*arguments, **options)

        def encode_token_weights(self, tokens: Mapping[str, Any]) -> tuple[Any, None, Any]:
            """Return embeddings [1, T, D], no pooled output, and the conditioning's other keys."""
            encoder, _, way = self._ours
            if set(tokens) != {PROMPT}:
                raise InvalidRequest(
                    f"these tokens ({', '.join(tokens)}) come from another CLIP; tokenize with the "
                    "one of Multilingual Text Encoder to CLIP"
                )
            return _encode(encoder, tokens[PROMPT], way)

    return PromptEncoder


def _refuse_layer(layer: int) -> NoReturn:
    raise InvalidRequest(
        f"CLIP Set Last Layer asks for layer {layer}; these models were trained on one fixed layer "
        "of their text encoder, another gives unrelated pictures; leave that node out"
    )


def _encode(encoder: TextEncoder, prompt: str, way: Mapping[str, Any]) -> tuple[Any, None, Any]:
    """Encode as Multilingual Text Encode does, with weights that the host may have patched."""
    # the weights may be others than at the last prompt
    [[embeddings, more]] = encode_prompts(encoder.without_memory(), [prompt], **way)
    return embeddings, more.pop("pooled_output"), more


@functools.cache
def _clip_class() -> type:
    """Return the subclass of the host's CLIP, made where the host is."""
    import torch
    from comfy.sd import CLIP
    from comfy.supported_models_base import ClipTarget

    class MultilingualCLIP(CLIP):
        """A CLIP that refuses what would silently mean something else here."""

        def __init__(self, encoder: TextEncoder, patcher: Any, way: Mapping[str, Any]) -> None:
            def model(**options: Any) -> Any:
                return _prompt_encoder_class()(encoder, patcher, way)

            def tokenizer(**options: Any) -> PromptTokenizer:
                return PromptTokenizer()

            places = {
                "load_device": patcher.load_device,
                "offload_device": patcher.offload_device,
                "initial_device": torch.device("meta"),  # it has no weights: nothing to bring yet
            }
            super().__init__(ClipTarget(tokenizer, model), model_options=places)
            empty, self.patcher = self.patcher, patcher.clone()
            self.patcher.is_clip, self.patcher.hook_mode = True, empty.hook_mode

        def clone(self, *arguments: Any, **options: Any) -> Any:
            """Return a copy with patches of its own."""
            copy = super().clone(*arguments, **options)
            copy.__class__ = type(self)  # the host makes one of its own class
            return copy

        def load_model(self, tokens: Any = None) -> Any:
            """Bring the network to its device, whole: the host streams its own layers only."""
            host.bring(self.patcher, 0)
            return self.patcher

        def clip_layer(self, layer_idx: int) -> NoReturn:
            """Refuse another layer."""
            _refuse_layer(layer_idx)

        def get_sd(self) -> NoReturn:
            """Refuse to be saved."""
            raise InvalidRequest(
                "a multilingual CLIP is not saved in ComfyUI's format: its own loaders would build "
                "an English CLIP from it; copy the model's files, or write them anew with "
                "`multilingual-diffusion models convert`"
            )

        state_dict_for_saving = get_sd

    return MultilingualCLIP


NODES = [MultilingualTextEncoderToCLIP]
