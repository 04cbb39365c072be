"""Our UNet as a MODEL: ComfyUI's own UNetModel over the same tensors, in its ModelPatcher.

The network is built from our config on the meta device and takes our tensors by their LDM names,
so LoRA, ControlNet and attention patches of the host find their layers and nothing is stored
twice. Prediction type and noise levels are our model's, not the host's guess.
"""

# pyright: reportMissingImports=false

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...pipeline_core.errors import InvalidRequest
from ...pipeline_core.loading.keys_unet import ldm_name
from ..sockets import UNET, SocketUNet
from .unet_config import schedule_settings, unet_settings

if TYPE_CHECKING:
    import torch

    from ...pipeline_core.models.specs import PredictionType


class MultilingualUNetToModel:
    """Turn a UNet of this pack into ComfyUI's MODEL, for its samplers, LoRAs and ControlNets."""

    DISPLAY_NAME = "Multilingual UNet to MODEL"
    CATEGORY = "multilingual/comfyui"
    DESCRIPTION = __doc__
    SEARCH_ALIASES = ["bridge", "KSampler", "convert UNet", "native model"]
    RETURN_TYPES = ("MODEL",)
    RETURN_NAMES = ("model",)
    OUTPUT_TOOLTIPS = ("For KSampler, LoraLoader, ControlNet and every node that takes a MODEL.",)
    FUNCTION = "execute"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"unet": (UNET, {"tooltip": "From a loader of this pack."})}}

    def execute(self, unet: SocketUNet) -> tuple[Any]:
        return (make_model(unet),)


def make_model(unet: SocketUNet) -> Any:
    """Return a ModelPatcher around the host's own UNet with the weights of ours.

    Weights that lie at rest are shared; a LoRA or a patch of the host never changes ours.

    Raises:
        InvalidRequest: the host's UNet cannot be this network, or nobody knows what it predicts.
        PipelineError: the model has no UNet.
    """
    import torch
    from comfy.model_base import BaseModel, ModelType
    from comfy.model_patcher import ModelPatcher

    network, place = unet.need().network, unet.patcher
    model_type = {"epsilon": ModelType.EPS, "v_prediction": ModelType.V_PREDICTION}
    prediction_type: PredictionType = unet.known_prediction_type()
    tensors = ldm_tensors(network, place.offload_device)
    _check_layers(unet.source, [name for name in tensors if ".processor." in name])
    config = _model_config(unet, network, place.load_device)
    model = BaseModel(config, model_type=model_type[prediction_type], device=torch.device("meta"))
    loaded = model.diffusion_model.load_state_dict(tensors, strict=False, assign=True)
    _check_layers(unet.source, [*loaded.missing_keys, *loaded.unexpected_keys])
    model.device = place.offload_device
    sigmas = training_sigmas(unet.scheduler_config)
    model.model_sampling.set_sigmas(sigmas)
    model.model_sampling.num_timesteps = len(sigmas)
    return ModelPatcher(model, load_device=place.load_device, offload_device=place.offload_device)


def ldm_tensors(network: Any, device: torch.device) -> dict[str, torch.Tensor]:
    """Return a diffusers UNet's tensors by their LDM names, shared where they lie on the device."""
    config: Mapping[str, Any] = network.config
    return {
        ldm_name(name, config): tensor.to(device) for name, tensor in network.state_dict().items()
    }


def _check_layers(source: str, other: Sequence[str]) -> None:
    """Refuse a network whose layers were exchanged, such as one with two cross-attentions."""
    if other:
        raise InvalidRequest(
            f"the UNet of {source} has layers that ComfyUI's own has not, or lacks some "
            f"({len(other)} tensors, such as {other[0]}); make the MODEL of the UNet before it was "
            "changed, and change the MODEL"
        )


def training_sigmas(scheduler_config: Mapping[str, Any]) -> torch.Tensor:
    """Return the noise level of every training timestep, rising, as our samplers have them."""
    import torch

    from ...pipeline_core.sampling import make_noise_scheduler
    from ...pipeline_core.sampling.schedules import sigmas_from_alphas

    # what the network predicts does not touch the levels
    scheduler = make_noise_scheduler("euler", scheduler_config, prediction_type="epsilon")
    return torch.from_numpy(sigmas_from_alphas(scheduler.alphas_cumprod.double().numpy()))


def _model_config(unet: SocketUNet, network: Any, device: torch.device) -> Any:
    """Return the host's config of a Stable Diffusion 1 or 2, with our model's values in it."""
    import comfy.model_management as management
    import torch
    from comfy.supported_models import SD15, SD20

    settings = unet_settings(network.config)
    config = (SD20 if settings["use_linear_in_transformer"] else SD15)(settings)
    config.unet_config.update(settings)  # the class has put its usual heads over ours
    if network.config["upcast_attention"]:
        config.unet_config["attn_precision"] = torch.float32
    config.sampling_settings = schedule_settings(unet.scheduler_config)
    config.latent_format.scale_factor = unet.scaling_factor
    compute = management.unet_manual_cast(network.dtype, device, config.supported_inference_dtypes)
    config.set_inference_dtype(network.dtype, compute)
    return config


NODES = [MultilingualUNetToModel]
