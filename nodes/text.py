"""Prompts to conditioning, and what helps to write prompts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

from ..pipeline_core.errors import InvalidRequest
from ..pipeline_core.values import LongPrompt, Weighting
from .conversions import check_choice, log_warnings, to_comfy_conditioning
from .sockets import TEXT_ENCODER, SocketPart

if TYPE_CHECKING:
    from ..pipeline_core.text.encoder import TextEncoder
    from ..pipeline_core.text.report import TokenReport

_ENCODER_INPUT = (TEXT_ENCODER, {"tooltip": "From a loader of this pack."})
_WEIGHTING_INPUT = (
    list(get_args(Weighting)),
    {
        "default": "toward-empty",
        "tooltip": "What (word:1.2) does. toward-empty: away from or toward the empty prompt, as "
        "ComfyUI; mean-restored: as the A1111 web UI; none: weights are ignored.",
        "advanced": True,
    },
)
_LONG_PROMPT_INPUT = (
    list(get_args(LongPrompt)),
    {
        "default": "chunk",
        "tooltip": "A prompt longer than the window. chunk: several windows side by side; single: "
        "one long pass (AltDiffusion only); truncate: the rest is cut, with a warning.",
        "advanced": True,
    },
)


class MultilingualTextEncode:
    """Encode a prompt in any language the model speaks; it may have many lines."""

    DISPLAY_NAME = "Multilingual Text Encode"
    CATEGORY = "multilingual/text"
    DESCRIPTION = __doc__
    SEARCH_ALIASES = ["prompt", "CLIP Text Encode", "positive", "negative"]
    RETURN_TYPES = ("CONDITIONING",)
    RETURN_NAMES = ("conditioning",)
    OUTPUT_TOOLTIPS = ("What the UNet attends to; also for ComfyUI's own conditioning nodes.",)
    FUNCTION = "execute"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "text_encoder": _ENCODER_INPUT,
                "text": (
                    "STRING",
                    {
                        "multiline": True,
                        "dynamicPrompts": True,
                        "default": "",
                        "tooltip": "The prompt. (word:1.2) weighs, [word] weighs less, BREAK "
                        "starts a new window, \\( is a bracket itself, embedding:name is a textual "
                        "inversion.",
                    },
                ),
            },
            "optional": {"weighting": _WEIGHTING_INPUT, "long_prompt": _LONG_PROMPT_INPUT},
        }

    def execute(
        self,
        text_encoder: SocketPart[TextEncoder],
        text: str,
        weighting: str = "toward-empty",
        long_prompt: str = "chunk",
    ) -> tuple[list[list[Any]]]:
        return (encode_prompts(text_encoder.ready(), [text], weighting, long_prompt),)


class MultilingualTextEncodeBatch:
    """Encode one prompt for each image of a batch; every line may be in another language."""

    DISPLAY_NAME = "Multilingual Text Encode Batch"
    CATEGORY = "multilingual/text"
    DESCRIPTION = __doc__
    SEARCH_ALIASES = ["prompt list", "prompt per image", "languages side by side"]
    RETURN_TYPES = ("CONDITIONING", "INT")
    RETURN_NAMES = ("conditioning", "count")
    OUTPUT_TOOLTIPS = (
        "One row an image, all of one length.",
        "How many prompts there are; for batch_size of an empty latent.",
    )
    FUNCTION = "execute"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "text_encoder": _ENCODER_INPUT,
                "text": (
                    "STRING",
                    {
                        "multiline": True,
                        "default": "",
                        "tooltip": "One prompt a line, each for an image of its own; empty lines "
                        "are skipped.",
                    },
                ),
            },
            "optional": {"weighting": _WEIGHTING_INPUT, "long_prompt": _LONG_PROMPT_INPUT},
        }

    def execute(
        self,
        text_encoder: SocketPart[TextEncoder],
        text: str,
        weighting: str = "toward-empty",
        long_prompt: str = "chunk",
    ) -> tuple[list[list[Any]], int]:
        prompts = [line.strip() for line in text.splitlines() if line.strip()]
        if not prompts:
            raise InvalidRequest("text has no line that is not empty; write one prompt a line")
        encoded = encode_prompts(text_encoder.ready(), prompts, weighting, long_prompt)
        return encoded, len(prompts)


class MultilingualTokenMeter:
    """Measure a prompt: how many tokens it has, what fits, which words the model does not know."""

    DISPLAY_NAME = "Multilingual Token Meter"
    CATEGORY = "multilingual/text"
    DESCRIPTION = __doc__
    SEARCH_ALIASES = ["token counter", "prompt length", "tokenizer"]
    RETURN_TYPES = ("STRING", "INT", "INT", "INT")
    RETURN_NAMES = ("report", "tokens", "limit", "windows")
    OUTPUT_TOOLTIPS = (
        "The measure in words, with the part of the prompt that does not fit.",
        "Tokens of the prompt.",
        "Tokens that fit in one window.",
        "Windows the prompt takes.",
    )
    FUNCTION = "execute"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "text_encoder": _ENCODER_INPUT,
                "text": (
                    "STRING",
                    {"multiline": True, "default": "", "tooltip": "The prompt to measure."},
                ),
            },
            "optional": {"long_prompt": _LONG_PROMPT_INPUT},
        }

    def execute(
        self, text_encoder: SocketPart[TextEncoder], text: str, long_prompt: str = "chunk"
    ) -> dict[str, Any]:
        check_choice("long_prompt", long_prompt, get_args(LongPrompt))
        measured: TokenReport = text_encoder.need().count_tokens(text, long_prompt=long_prompt)  # pyright: ignore[reportArgumentType]
        report = _describe(measured, text)
        result = (report, measured.used, measured.limit, measured.chunks)
        return {"ui": {"text": [report]}, "result": result}


class MultilingualGlossary:
    """Replace terms in a prompt, such as the names of your characters, before it is encoded."""

    DISPLAY_NAME = "Multilingual Glossary"
    CATEGORY = "multilingual/text"
    DESCRIPTION = __doc__
    SEARCH_ALIASES = ["find and replace", "terms", "dictionary"]
    RETURN_TYPES = ("STRING", "INT")
    RETURN_NAMES = ("text", "count")
    OUTPUT_TOOLTIPS = ("The prompt with its terms replaced.", "How many were replaced.")
    FUNCTION = "execute"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "text": (
                    "STRING",
                    {"multiline": True, "default": "", "tooltip": "The prompt."},
                ),
                "glossary": (
                    "STRING",
                    {
                        "multiline": True,
                        "default": "",
                        "placeholder": "term = replacement",
                        "tooltip": "Lines of: term = replacement. The longest term wins; letter "
                        "case and full width do not count. Lines that start with # are notes.",
                    },
                ),
            }
        }

    def execute(self, text: str, glossary: str) -> tuple[str, int]:
        from ..pipeline_core.text.glossary import read_glossary

        return read_glossary(glossary).apply(text)


def encode_prompts(
    encoder: TextEncoder, prompts: list[str], weighting: Any, long_prompt: Any
) -> list[list[Any]]:
    """Return prompts as a CONDITIONING, a row each.

    An encoded empty window goes with them, for the shorter side of the guidance.
    """
    conditioning = encoder.encode(prompts, weighting=weighting, long_prompt=long_prompt)
    log_warnings(conditioning.warnings)
    if long_prompt == "single":
        return to_comfy_conditioning(conditioning)
    return to_comfy_conditioning(conditioning, encoder.encode([""]).embeddings[0])


def _describe(measured: TokenReport, text: str) -> str:
    from ..pipeline_core.text.languages import detect_language

    windows = "1 window" if measured.chunks == 1 else f"{measured.chunks} windows"
    parts = [f"{measured.used} tokens in {windows} of {measured.limit}"]
    parts += [f"{written} takes {count} tokens" for written, count in measured.embeddings]
    language = detect_language(text)
    if language:
        parts.append(f"language: {language}")
    if measured.unknown_share:
        parts.append(f"{measured.unknown_share:.0%} of the tokens are unknown to the model")
    parts += [f"does not fit: {text[start:end].strip()!r}" for start, end in measured.lost]
    return "; ".join(parts)


NODES = [
    MultilingualTextEncode,
    MultilingualTextEncodeBatch,
    MultilingualTokenMeter,
    MultilingualGlossary,
]
