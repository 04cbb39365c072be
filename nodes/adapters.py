"""What changes a loaded model: LoRAs on the UNet."""

from __future__ import annotations

from typing import Any

from . import host
from .sockets import UNET, SocketUNet


class MultilingualLoraLoader:
    """Change what a UNet paints by a LoRA; several in a row add up."""

    DISPLAY_NAME = "Multilingual LoRA Loader"
    CATEGORY = "multilingual/loaders"
    DESCRIPTION = __doc__
    SEARCH_ALIASES = ["LoRA", "load LoRA", "LoCon", "style"]
    RETURN_TYPES = (UNET, "STRING")
    RETURN_NAMES = ("unet", "report")
    OUTPUT_TOOLTIPS = (
        "The changed UNet; the one that came in stays as it is.",
        "How many layers changed, and what of the file does not apply and why.",
    )
    FUNCTION = "execute"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "unet": (UNET, {"tooltip": "From a loader of this pack, or from another LoRA."}),
                "lora_name": (
                    host.adapter_folders("loras").list_names(),
                    {"tooltip": "A file in ComfyUI's models/loras; without ComfyUI, in the folder "
                     "loras of the models folder. Only its UNet half applies."},
                ),
                "strength": (
                    "FLOAT",
                    {"default": 1.0, "min": -100.0, "max": 100.0, "step": 0.01, "tooltip": "1: as "
                     "trained; 0: the UNet as it came in; below 0: away from what it learned."},
                ),
            },
            "optional": {
                "allow_pickle": (
                    "BOOLEAN",
                    {"default": False, "tooltip": "Also open .bin, .ckpt and .pt files, always "
                     "with weights_only. safetensors files are safer.", "advanced": True},
                ),
            },
        }  # fmt: skip

    def execute(
        self, unet: SocketUNet, lora_name: str, strength: float, allow_pickle: bool = False
    ) -> tuple[SocketUNet, str]:
        from ..pipeline_core.adapters.lora import apply_loras, open_loras

        denoiser, folders = unet.need(), host.adapter_folders("loras")
        shapes = {name: tuple(value.shape) for name, value in denoiser.network.named_parameters()}
        applied = open_loras(
            [(folders.find(lora_name), strength)],
            shapes,
            denoiser.network.config,
            folders=folders,
            allow_pickle=allow_pickle,
            grafted=unet.grafted,
        )
        changed = apply_loras(denoiser, applied, device=unet.rest)
        return unet.with_part(changed), applied[0].report


NODES = [MultilingualLoraLoader]
