"""The one file that asks ComfyUI: devices, memory, progress, interrupt, folders, at call time.

Without ComfyUI the same functions answer for plain torch, the user's folders and the headless
executor's events.
"""

# pyright: reportMissingImports=false

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..pipeline_core.models.configs import SCALING_FACTOR

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

    from ..pipeline_core.adapters.folders import AdapterFolders, AdapterKind
    from ..pipeline_core.models.detection import PartName
    from ..pipeline_core.models.folders import ModelFolders
    from ..pipeline_core.values import Step

# ComfyUI's own folders that may hold a part, besides the pack's and `diffusers`
_FOLDERS: dict[PartName | None, tuple[str, ...]] = {
    None: ("checkpoints",),
    "text_encoder": ("checkpoints", "text_encoders"),
    "unet": ("checkpoints", "diffusion_models"),
    "vae": ("checkpoints", "vae"),
}
OWN_FOLDER = "multilingual"  # the pack's type of model folder, also in extra_model_paths.yaml


@functools.cache
def is_hosted() -> bool:
    """Tell whether this process is ComfyUI."""
    return all(importlib.util.find_spec(name) is not None for name in ("folder_paths", "comfy"))


# -- folders


@dataclass(frozen=True)
class HeadlessFolders:
    """Where a run without ComfyUI reads models and pictures, and writes pictures.

    Without models folders they are the user's own.
    """

    models: tuple[Path, ...] = ()
    output: Path = Path("output")
    input: Path = Path("input")


_USUAL = HeadlessFolders()
_HEADLESS: ContextVar[HeadlessFolders] = ContextVar("headless_folders", default=_USUAL)


@contextmanager
def use_folders(folders: HeadlessFolders) -> Iterator[None]:
    """Take these folders while the context lasts; in ComfyUI they are not looked at."""
    token = _HEADLESS.set(folders)
    try:
        yield
    finally:
        _HEADLESS.reset(token)


def model_folders(part: PartName | None = None) -> ModelFolders:
    """Return the folders that may hold a model, or one part of one.

    In ComfyUI these are `models/multilingual`, `models/diffusers` and its folders of the part's
    kind, with everything that `extra_model_paths.yaml` adds to them.
    """
    from ..pipeline_core.models.folders import ModelFolders

    if not is_hosted():
        return ModelFolders(_HEADLESS.get().models)
    import folder_paths

    folder_paths.add_model_folder_path(OWN_FOLDER, str(Path(folder_paths.models_dir) / OWN_FOLDER))
    kinds = (OWN_FOLDER, "diffusers", *_FOLDERS.get(part, ()))
    roots = [root for kind in kinds for root in folder_paths.get_folder_paths(kind)]
    return ModelFolders(dict.fromkeys(roots))


def adapter_folders(kind: AdapterKind) -> AdapterFolders:
    """Return the folders of LoRAs or of embeddings: ComfyUI's own, else those among the models."""
    from ..pipeline_core.adapters.folders import AdapterFolders

    if not is_hosted():
        return AdapterFolders.among(kind, model_folders())
    import folder_paths

    return AdapterFolders(kind, tuple(map(Path, folder_paths.get_folder_paths(kind))))


def output_folder() -> Path:
    """Return where saved pictures go."""
    if not is_hosted():
        return _HEADLESS.get().output
    import folder_paths

    return Path(folder_paths.get_output_directory())


def input_folder() -> Path:
    """Return where pictures to load lie."""
    if not is_hosted():
        return _HEADLESS.get().input
    import folder_paths

    return Path(folder_paths.get_input_directory())


def preview_folder() -> Path:
    """Return where previews go, which nobody keeps."""
    if not is_hosted():
        return _HEADLESS.get().output / "preview"
    import folder_paths

    return Path(folder_paths.get_temp_directory())


def writes_metadata() -> bool:
    """Tell whether saved pictures carry the graph; ComfyUI's `--disable-metadata` says no."""
    if not is_hosted():
        return True
    from comfy.cli_args import args

    return not args.disable_metadata


# -- devices and memory


@dataclass(frozen=True)
class Place:
    """Where a network computes, and where it lies meanwhile."""

    compute: torch.device
    rest: torch.device

    @property
    def is_one(self) -> bool:
        """Whether the network never moves."""
        return self.compute == self.rest


def choose_place(device: str, part: PartName | None = None) -> Place:
    """Return the place of a device's name; for "auto" the host says, else the best there is.

    The host may put text encoders and VAEs elsewhere than UNets (`--lowvram`, `--cpu-vae`).

    Raises:
        UnknownName, InvalidRequest: see `choose_device`.
    """
    from ..pipeline_core.loading.devices import choose_device

    if device != "auto" or not is_hosted():
        chosen = choose_device(device).device
        return Place(chosen, chosen)
    import comfy.model_management as management

    if part == "text_encoder":
        return Place(management.text_encoder_device(), management.text_encoder_offload_device())
    if part == "vae":
        return Place(management.vae_device(), management.vae_offload_device())
    return Place(management.get_torch_device(), management.unet_offload_device())


def make_patcher(network: torch.nn.Module, place: Place) -> Any:
    """Return what makes the host's memory management know a network; None without the host."""
    if not is_hosted():
        return None
    import torch
    from comfy.model_patcher import ModelPatcher

    # The list around it takes the attributes that a patcher sets (diffusers' own refuse `device`);
    # its class is called as the network's, which is what the host's log says.
    holder = type(type(network).__name__, (torch.nn.ModuleList,), {})([network])
    return ModelPatcher(holder, load_device=place.compute, offload_device=place.rest)


def make_patcher_beside(patcher: Any, network: torch.nn.Module) -> Any:
    """Return what the host knows another network by, in the places of a first; None without."""
    if patcher is None:
        return None
    return make_patcher(network, Place(patcher.load_device, patcher.offload_device))


def bring(patcher: Any, memory: int) -> None:
    """Have the host bring a network to its device, with so many bytes free beside it."""
    if patcher is None:
        return
    import comfy.model_management as management

    # Whole or not at all: the host streams the weights of its own layers only, and would leave
    # those of plain ones behind.
    management.load_models_gpu([patcher], memory_required=memory, force_full_load=True)
    if patcher.loaded_size() < patcher.model_size():  # under --novram even then
        patcher.partially_load(patcher.load_device, float("inf"))


def intermediate_device() -> torch.device:
    """Return where tensors lie between nodes."""
    import torch

    if not is_hosted():
        return torch.device("cpu")
    import comfy.model_management as management

    return management.intermediate_device()


# -- progress and interrupt


def check_interrupted() -> None:
    """Raise the host's interrupt where the user asked for it."""
    if is_hosted():
        import comfy.model_management as management

        management.throw_exception_if_processing_interrupted()


class Progress:
    """Tell how far a node is; every report is a place where it can be interrupted."""

    def __init__(self, scaling_factor: float = SCALING_FACTOR) -> None:
        self.scaling_factor = scaling_factor
        self._bar: Any = None

    def step(self, step: Step) -> None:
        """Report a step of sampling, with a look at the first of its pictures."""
        self._report(step.index + 1, step.total, step.latents)

    def tile(self, done: int, total: int) -> None:
        """Report a tile of the VAE."""
        self._report(done, total)

    def _report(self, done: int, total: int, latents: torch.Tensor | None = None) -> None:
        if not is_hosted():
            from ..pipeline_core.workflow import report_progress

            report_progress(done, total)
            return
        from comfy.cli_args import args
        from comfy.utils import ProgressBar

        check_interrupted()
        if self._bar is None:
            self._bar = ProgressBar(total)
        shown = None
        if latents is not None and _shows_previews():
            shown = ("JPEG", self._picture(latents), args.preview_size)
        self._bar.update_absolute(done, total, shown)

    def _picture(self, latents: torch.Tensor) -> Image:
        from ..pipeline_core.vae.preview import preview

        return preview(latents[:1], scaling_factor=self.scaling_factor)[0]


def _shows_previews() -> bool:
    from comfy.cli_args import LatentPreviewMethod, args

    return args.preview_method != LatentPreviewMethod.NoPreviews
