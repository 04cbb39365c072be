"""Every node keeps the host's contract; the pack loads as ComfyUI loads it."""

from __future__ import annotations

import importlib.util
import inspect
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from multilingual_diffusion.nodes import (
    NODE_CLASS_MAPPINGS,
    NODE_DISPLAY_NAME_MAPPINGS,
    bridges,
    host,
)
from multilingual_diffusion.pipeline_core.workflow import definitions_from_classes

ROOT = Path(__file__).parent.parent
# Ids, widgets in order, outputs: for ever. New ones go to the end.
FROZEN = {
    "MultilingualModelLoader": (
        "model device dtype prediction_type allow_pickle ema",
        "text_encoder unet vae safety_checker",
    ),
    "MultilingualTextEncoderLoader": ("model device dtype allow_pickle", "text_encoder"),
    "MultilingualUNetLoader": ("model device dtype prediction_type allow_pickle ema", "unet"),
    "MultilingualVAELoader": ("model device dtype allow_pickle", "vae"),
    "MultilingualSafetyCheckerLoader": ("model device dtype allow_pickle", "safety_checker"),
    "MultilingualTextEncode": ("text_encoder text weighting long_prompt", "conditioning"),
    "MultilingualTextEncodeBatch": (
        "text_encoder text weighting long_prompt",
        "conditioning count",
    ),
    "MultilingualTokenMeter": ("text_encoder text long_prompt", "report tokens limit windows"),
    "MultilingualGlossary": ("text glossary", "text count"),
    "MultilingualEmptyLatent": ("shape width height batch_size unet", "latent width height"),
    "MultilingualSampler": (
        "unet positive negative latent_image seed steps cfg sampler schedule denoise",
        "latent",
    ),
    "MultilingualSamplerAdvanced": (
        "unet positive negative latent_image seed steps cfg sampler schedule start_step end_step "
        "add_noise keep_leftover_noise sigmas noise eta timestep_rule guidance_batching",
        "latent sigmas",
    ),
    "MultilingualVAEEncode": ("vae images tiling", "latent"),
    "MultilingualVAEEncodeForInpaint": ("vae images mask grow_mask_by fill tiling", "latent"),
    "MultilingualVAEDecode": ("vae latent tiling", "images"),
    "MultilingualSafetyCheck": (
        "images safety_checker policy adjustment",
        "images flagged scores mask safety_record",
    ),
    "MultilingualSaveImage": ("images filename_prefix safety_record", ""),
    "MultilingualPreviewImage": ("images", ""),
    "MultilingualLoraLoader": ("unet lora_name strength allow_pickle", "unet report"),
    "MultilingualGraft": (
        "unet multilingual mode strength base down mid up keep_lora",
        "unet report",
    ),
    "MultilingualGraftReport": ("multilingual base", "report"),
    "MultilingualDualUNet": ("unet original clip_weight", "unet"),
    "MultilingualDualConditioning": ("conditioning clip_conditioning", "conditioning"),
    "MultilingualControlNetConditioning": ("conditioning clip_conditioning", "conditioning"),
}
# Registered in ComfyUI only; their classes need none, so the contract holds here too.
FROZEN_BRIDGES = {
    "MultilingualCheckpointLoader": (
        "model device dtype prediction_type allow_pickle ema",
        "model clip vae",
    ),
    "MultilingualUNetToModel": ("unet", "model"),
    "MultilingualTextEncoderToCLIP": ("text_encoder weighting long_prompt", "clip"),
    "MultilingualVAEToVAE": ("vae", "vae"),
    "MultilingualPLMSSampler": ("model steps", "sampler sigmas"),
    "MultilingualLoraReport": ("model lora_name clip", "report applied skipped"),
    "MultilingualGraftToModel": (
        "model multilingual mode strength base down mid up keep_lora",
        "model report",
    ),
    "MultilingualDualModel": ("model original clip_weight", "model"),
}
BRIDGES: dict[str, type] = {node.__name__: node for node in bridges.NODES}
EVERY_CLASS = {**NODE_CLASS_MAPPINGS, **BRIDGES}
every_node = pytest.mark.parametrize("name", EVERY_CLASS)


def inputs_of(name: str) -> dict:
    types = EVERY_CLASS[name].INPUT_TYPES()
    assert set(types) <= {"required", "optional", "hidden"}
    return {**types["required"], **types.get("optional", {})}


def test_ids_widgets_and_outputs_are_frozen() -> None:
    found = {
        name: (" ".join(inputs_of(name)), " ".join(getattr(node, "RETURN_NAMES", ())))
        for name, node in EVERY_CLASS.items()
    }
    assert found == {**FROZEN, **FROZEN_BRIDGES}
    assert list(NODE_CLASS_MAPPINGS) == list(FROZEN)
    assert list(NODE_DISPLAY_NAME_MAPPINGS) == list(FROZEN)
    assert len(set(NODE_DISPLAY_NAME_MAPPINGS.values())) == len(FROZEN)


@every_node
def test_every_input_has_a_tooltip_and_a_valid_default(name: str) -> None:
    for input_name, (kind, options) in inputs_of(name).items():
        assert len(options["tooltip"]) > 8, input_name
        choices = kind if isinstance(kind, list) else None
        if choices and "default" in options:
            assert options["default"] in choices
        if kind in ("INT", "FLOAT"):
            assert options["min"] <= options["default"] <= options["max"]
        if kind in ("INT", "FLOAT", "STRING", "BOOLEAN"):
            assert "default" in options


@every_node
def test_outputs_are_described(name: str) -> None:
    node = EVERY_CLASS[name]
    outputs = node.RETURN_TYPES
    assert len(outputs) == len(node.OUTPUT_TOOLTIPS) == len(getattr(node, "RETURN_NAMES", ()))
    assert len(getattr(node, "OUTPUT_IS_LIST", outputs)) == len(outputs)
    assert all(node.OUTPUT_TOOLTIPS)
    assert outputs or node.OUTPUT_NODE
    assert node.CATEGORY.startswith("multilingual/")
    assert node.DESCRIPTION.endswith(".") and "\n" not in node.DESCRIPTION
    assert len(node.SEARCH_ALIASES) >= 2
    assert not hasattr(node, "VALIDATE_INPUTS")  # it would switch off the host's own checks


@every_node
def test_execute_takes_exactly_the_inputs(name: str) -> None:
    node = EVERY_CLASS[name]
    assert node.FUNCTION == "execute"
    types = node.INPUT_TYPES()
    parameters = dict(inspect.signature(node.execute).parameters)
    parameters.pop("self")
    takes_more = any(each.kind is each.VAR_KEYWORD for each in parameters.values())
    named = {key for key, each in parameters.items() if each.kind is not each.VAR_KEYWORD}
    offered = set(inputs_of(name)) | set(types.get("hidden", {}))
    assert named <= offered
    assert takes_more or named == offered
    for key in types.get("optional", {}):  # the host leaves out what is not connected
        assert takes_more or parameters[key].default is not inspect.Parameter.empty


@every_node
def test_the_headless_executor_reads_the_class(name: str) -> None:
    definition = definitions_from_classes(EVERY_CLASS)[name]
    assert list(definition.inputs) == list(inputs_of(name))


@every_node
def test_help_page(name: str) -> None:
    page = (ROOT / "web" / "docs" / f"{name}.md").read_text(encoding="utf-8")
    node = EVERY_CLASS[name]
    assert page.startswith(f"# {node.DISPLAY_NAME}\n\n{node.DESCRIPTION}\n")
    for word in (*inputs_of(name), *getattr(node, "RETURN_NAMES", ())):
        assert f"| `{word}`" in page, word
    for _, options in inputs_of(name).values():
        assert options["tooltip"].replace("|", "\\|") in page


def test_no_help_page_without_a_node() -> None:
    assert {path.stem for path in (ROOT / "web" / "docs").glob("*.md")} == set(EVERY_CLASS)


def test_only_host_and_bridges_import_comfyui() -> None:
    foreign = re.compile(r"^\s*(?:from|import) (?:comfy\w*|folder_paths|server|latent_preview)\b")
    for path in (ROOT / "nodes").rglob("*.py"):
        lines = path.read_text(encoding="utf-8").splitlines()
        hits = [line for line in lines if foreign.match(line)]
        assert not hits or path.name == "host.py" or path.parent.name == "bridges", path
        assert all(line.startswith("    ") for line in hits), path  # at call time


LOAD = """
import sys, importlib.util
folder = sys.argv[1]
name = folder.replace(".", "_x_")
spec = importlib.util.spec_from_file_location(name, folder + "/__init__.py")
module = importlib.util.module_from_spec(spec)
sys.modules[name] = module
sys.path = [entry for entry in sys.path if entry not in ("", ".")]
spec.loader.exec_module(module)
heavy = {"diffusers", "transformers", "sentencepiece", "PIL", "comfy"} & set(sys.modules)
assert not heavy, heavy
assert "multilingual_diffusion" not in sys.modules
latent = module.NODE_CLASS_MAPPINGS["MultilingualEmptyLatent"]().execute("tall 2:3", 8, 8, 2)
print(len(module.NODE_CLASS_MAPPINGS), module.WEB_DIRECTORY, latent[1:])
"""


def test_loads_as_comfyui_loads_it(tmp_path: Path) -> None:
    pack = tmp_path / "ComfyUI-Multilingual.Diffusion-v0.1"
    for part in ("nodes", "pipeline_core"):
        shutil.copytree(ROOT / part, pack / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "__init__.py", pack)
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(pack)],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split(maxsplit=2) == [str(len(FROZEN)), "./web", "(512, 768)\n"]


def test_without_comfyui_nothing_is_hosted() -> None:
    if importlib.util.find_spec("folder_paths") is None:
        assert not host.is_hosted()
