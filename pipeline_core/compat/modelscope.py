"""ModelScope's call for Chinese Stable Diffusion: a dictionary in, BGR arrays out.

Source: modelscope pipelines/multi_modal/diffusers_wrapped/stable_diffusion. Differences: no hub,
`init_image`-like extras do not exist, a safety checker runs where the folder has one.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .diffusers_style import AltDiffusionPipeline

_INPUTS = (
    "height", "width", "num_inference_steps", "guidance_scale", "negative_prompt",
    "num_images_per_prompt", "eta", "generator", "latents", "output_type", "return_dict",
    "callback", "callback_steps",
)  # fmt: skip


class Tasks:
    """Names of tasks; this one is served."""

    text_to_image_synthesis = "text-to-image-synthesis"


class OutputKeys:
    """Keys of the result."""

    OUTPUT_IMGS = "output_imgs"


class ChineseStableDiffusion:
    """What `pipeline(...)` returns; `.pipeline.scheduler` can be replaced as in the card."""

    def __init__(self, inner: AltDiffusionPipeline) -> None:
        self.pipeline = inner

    def __call__(self, inputs: Mapping[str, Any]) -> dict[str, list[Any]]:
        """Return `{"output_imgs": [H x W x 3 uint8, BGR]}` for `{"text": ..., ...}`.

        Raises:
            ValueError: the input is no dictionary, has no `text` or a key that is unknown.
        """
        if not isinstance(inputs, Mapping):
            raise ValueError(f"the input is {type(inputs).__name__}; it must be a dictionary")
        if "text" not in inputs:
            raise ValueError("the input has no key 'text', the prompt")
        options = {key: value for key, value in inputs.items() if key != "text"}
        unknown = sorted(set(options) - set(_INPUTS))
        if unknown:
            raise ValueError(f"the input has unknown keys {unknown}; known: text, {_INPUTS}")
        negative = options.get("negative_prompt")
        if negative is not None and isinstance(negative, str) != isinstance(inputs["text"], str):
            raise ValueError("negative_prompt must be of the same type as text")
        as_pictures = options.pop("output_type", "pil") == "pil"
        options.pop("return_dict", None)
        pictures = self.pipeline(inputs["text"], output_type="pil", **options).images
        return {OutputKeys.OUTPUT_IMGS: [_to_bgr(one) for one in pictures] if as_pictures else []}


def pipeline(
    task: str = Tasks.text_to_image_synthesis,
    model: str | Path = "damo/multi-modal_chinese_stable_diffusion_v1.0",
    *,
    torch_dtype: torch.dtype = torch.float32,
    device: str = "gpu",
    allow_pickle: bool = False,
    models_dir: str | Path | None = None,
) -> ChineseStableDiffusion:
    """Open the model of a folder, or of a hub id in the models folder.

    Raises:
        ValueError: another task.
        ModelNotFound, FileRefused: there is no such model, or a file was refused.
    """
    if task != Tasks.text_to_image_synthesis:
        raise ValueError(f"task is {task!r}; only {Tasks.text_to_image_synthesis!r} is served")
    inner = AltDiffusionPipeline.from_pretrained(
        model, torch_dtype=torch_dtype, allow_pickle=allow_pickle, models_dir=models_dir
    )
    return ChineseStableDiffusion(inner.to(device))


def _to_bgr(picture: Any) -> np.ndarray:
    return np.ascontiguousarray(np.asarray(picture)[:, :, ::-1])
