"""What nodes ask of ComfyUI, against a stand-in with the few functions they call.

The real server is another ring (`make test-comfyui`); this one says which calls are made and when.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import node_graphs as graphs
import pytest
import torch
from multilingual_diffusion.nodes import host
from multilingual_diffusion.pipeline_core.errors import InvalidRequest
from node_graphs import STEPS, call, empty_latent


class Interrupted(Exception):
    """The host's InterruptProcessingException."""


class Comfy:
    """The stand-in: records what it was asked for."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folders: dict[str, list[str]] = {
            kind: [str(root / kind)] for kind in ("checkpoints", "diffusers", "text_encoders",
                                                  "diffusion_models", "vae", "loras",
                                                  "embeddings")
        }  # fmt: skip
        self.brought: list[tuple[list[Any], int]] = []
        self.progress: list[tuple[int, int, Any]] = []
        self.interrupt_at: int | None = None
        self.args = SimpleNamespace(disable_metadata=False, preview_method="auto", preview_size=300)
        self.text_encoder_device = torch.device("cpu", 0)

    def add_folder(self, kind: str, path: str) -> None:
        paths = self.folders.setdefault(kind, [])
        if path not in paths:
            paths.append(path)

    def bring(
        self, patchers: list[Any], memory_required: int, force_full_load: bool = False
    ) -> None:
        assert force_full_load  # plain layers cannot be streamed
        self.brought.append((patchers, memory_required))

    def throw_if_interrupted(self) -> None:
        if self.interrupt_at is not None and len(self.progress) >= self.interrupt_at:
            raise Interrupted

    def modules(self) -> dict[str, ModuleType]:
        comfy = self

        class ModelPatcher:
            def __init__(self, model: Any, load_device: Any, offload_device: Any) -> None:
                model.device = offload_device  # as the host does; a property would refuse it
                self.model, self.load_device = model, load_device

            def model_size(self) -> int:
                return 1

            loaded_size = model_size

        class ProgressBar:
            def __init__(self, total: int) -> None:
                self.total = total

            def update_absolute(self, value: int, total: int, preview: Any) -> None:
                comfy.progress.append((value, total, preview))

        contents: dict[str, dict[str, Any]] = {
            "comfy": {"__path__": []},
            "comfy.model_management": {
                "get_torch_device": lambda: torch.device("cpu", 0),  # not where networks rest
                "unet_offload_device": lambda: torch.device("cpu"),
                "text_encoder_device": lambda: self.text_encoder_device,
                "text_encoder_offload_device": lambda: torch.device("cpu"),
                "vae_device": lambda: torch.device("cpu", 0),
                "vae_offload_device": lambda: torch.device("cpu"),
                "intermediate_device": lambda: torch.device("cpu"),
                "load_models_gpu": self.bring,
                "throw_exception_if_processing_interrupted": self.throw_if_interrupted,
            },
            "comfy.model_patcher": {"ModelPatcher": ModelPatcher},
            "comfy.utils": {"ProgressBar": ProgressBar},
            "comfy.cli_args": {
                "args": self.args, "LatentPreviewMethod": SimpleNamespace(NoPreviews="none"),
            },
            "folder_paths": {
                "models_dir": str(self.root),
                "add_model_folder_path": self.add_folder,
                "get_folder_paths": lambda kind: list(self.folders[kind]),
                "get_output_directory": lambda: str(self.root / "output"),
                "get_temp_directory": lambda: str(self.root / "temp"),
            },
        }  # fmt: skip
        modules: dict[str, ModuleType] = {}
        for name, members in contents.items():
            modules[name] = ModuleType(name)
            modules[name].__spec__ = ModuleSpec(name, None)
            vars(modules[name]).update(members)
            parent, _, child = name.rpartition(".")
            if parent:
                setattr(modules[parent], child, modules[name])
        return modules


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("comfy")
    graphs.write_models(root / "multilingual")
    return root


@pytest.fixture
def comfy(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Comfy]:
    stand_in = Comfy(root)
    for name, module in stand_in.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    host.is_hosted.cache_clear()
    yield stand_in
    monkeypatch.undo()
    host.is_hosted.cache_clear()


def test_models_come_from_the_hosts_folders(comfy: Comfy, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"  # as extra_model_paths.yaml adds it
    graphs.write_models(elsewhere)
    (elsewhere / "checked").rename(elsewhere / "shared")
    host.model_folders()  # makes the pack's own kind of folder
    comfy.add_folder("multilingual", str(elsewhere))
    found = {model.name: model.path for model in host.model_folders().list_models()}
    assert set(found) - {"nano"} == {"shared", "group/bare", "checked"}
    assert found["group/bare"].is_relative_to(comfy.root)  # the first folder wins
    vae = call("MultilingualVAELoader", model="shared")[0]
    assert vae.source == "shared"
    with pytest.raises(InvalidRequest):
        call("MultilingualVAELoader", model="../multilingual/checked")


def test_every_network_is_brought_before_it_runs(comfy: Comfy) -> None:
    parts = call("MultilingualModelLoader", model="checked")
    assert all(part.patcher.load_device == torch.device("cpu", 0) for part in parts)
    assert not comfy.brought
    latent = graphs.sample(parts)
    image = call("MultilingualVAEDecode", vae=parts[2], latent=latent)[0]
    call("MultilingualSafetyCheck", images=image, safety_checker=parts[3])
    order = [patchers[0] for patchers, _ in comfy.brought]
    text, unet, vae, checker = (part.patcher for part in parts)
    assert order == [text, text, unet, vae, checker]
    networks = [next(iter(patcher.model)) for patcher in (text, unet, vae, checker)]
    assert networks == [part.part.network for part in parts]
    memory = {id(patchers[0]): required for patchers, required in comfy.brought}
    assert memory[id(unet)] > 0 and memory[id(vae)] > 0


def test_the_host_may_keep_a_text_encoder_on_the_cpu(comfy: Comfy) -> None:
    comfy.text_encoder_device = torch.device("cpu")  # as under --lowvram
    parts = call("MultilingualModelLoader", model="checked", dtype="bf16")
    devices = [part.patcher.load_device for part in parts]
    assert devices == [torch.device("cpu"), *[torch.device("cpu", 0)] * 3]
    assert all(next(p.part.network.parameters()).dtype == torch.bfloat16 for p in parts[1:])
    alone = call("MultilingualTextEncoderLoader", model="checked")[0]
    assert alone.patcher.load_device == torch.device("cpu")


def test_a_fixed_device_and_precision_are_kept(comfy: Comfy) -> None:
    vae = call("MultilingualVAELoader", model="checked", device="cpu", dtype="bf16")[0]
    assert vae.part.network.dtype == torch.bfloat16
    assert vae.patcher.load_device == torch.device("cpu")
    moving = call("MultilingualVAELoader", model="checked", dtype="bf16")[0]
    assert moving.part.network.dtype == torch.bfloat16
    with pytest.raises(InvalidRequest, match="fp16 on a CPU"):
        call("MultilingualVAELoader", model="checked", dtype="fp16")


def test_progress_shows_a_preview_unless_the_user_wants_none(comfy: Comfy) -> None:
    parts = call("MultilingualModelLoader", model="checked")
    graphs.sample(parts, latent_image=empty_latent(2))
    assert [(value, total) for value, total, _ in comfy.progress] == [
        (step, STEPS) for step in range(1, STEPS + 1)
    ]
    kind, picture, side = comfy.progress[0][2]
    assert kind == "JPEG" and picture.size == (8, 6) and side == 300
    comfy.args.preview_method = "none"
    graphs.sample(parts)
    assert comfy.progress[-1][2] is None


def test_the_interrupt_comes_through_within_a_step(comfy: Comfy) -> None:
    parts = call("MultilingualModelLoader", model="checked")
    comfy.interrupt_at = 2
    with pytest.raises(Interrupted):
        graphs.sample(parts)
    assert len(comfy.progress) == 2


def test_pictures_go_to_the_hosts_folders(comfy: Comfy) -> None:
    from PIL import Image

    image, graph = torch.rand(1, 8, 8, 3), {"1": {"class_type": "X", "inputs": {}}}
    call("MultilingualSaveImage", images=image, prompt=graph)
    call("MultilingualPreviewImage", images=image)
    assert list((comfy.root / "temp").glob("*.png"))
    comfy.args.disable_metadata = True
    call("MultilingualSaveImage", images=image, prompt=graph)
    for number, has_graph in ((1, True), (2, False)):
        with Image.open(comfy.root / "output" / f"multilingual_{number:05}_.png") as picture:
            assert ("prompt" in picture.text) is has_graph
