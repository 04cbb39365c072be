"""The stand-ins for stock nodes: the host's definitions, their work, and graphs that use them.

Equality with the host's own results is in `comfyui/test_stock_equal.py`.
"""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import node_graphs as graphs
import numpy as np
import pytest
import tiny
import torch
from multilingual_diffusion.__main__ import main
from multilingual_diffusion.nodes import NODE_CLASS_MAPPINGS, host
from multilingual_diffusion.nodes.sockets import SocketPart
from multilingual_diffusion.nodes.stock import STOCK_CLASS_MAPPINGS, STOCK_DISPLAY_NAME_MAPPINGS
from multilingual_diffusion.pipeline_core.vae.codec import VAE
from multilingual_diffusion.pipeline_core.values import Latents
from multilingual_diffusion.pipeline_core.workflow import (
    Executor,
    InvalidWorkflow,
    definitions_from_classes,
    definitions_from_object_info,
    parse_api,
)
from PIL import Image

OBJECT_INFO = tiny.SHARED / "object_info_0.33.0.json"
every_node = pytest.mark.parametrize("name", STOCK_CLASS_MAPPINGS)


@pytest.fixture(scope="module")
def object_info() -> dict[str, Any]:
    if not OBJECT_INFO.exists():
        pytest.skip("the host's object info is not beside this checkout")
    return json.loads(OBJECT_INFO.read_text(encoding="utf-8"))


@pytest.fixture(autouse=True)
def folders(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "input").mkdir()
    places = host.HeadlessFolders(
        models=(tmp_path,), output=tmp_path / "output", input=tmp_path / "input"
    )
    with host.use_folders(places):
        yield tmp_path


def call(name: str, **inputs: Any) -> Any:
    """Call a stand-in with its defaults where nothing is given."""
    node_class: Any = STOCK_CLASS_MAPPINGS[name]
    defaults = {
        key: each.options["default"]
        for key, each in definitions_from_classes({name: node_class})[name].inputs.items()
        if "default" in each.options
    }
    return node_class().execute(**{**defaults, **inputs})


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


# -- definitions


@every_node
def test_definition_is_the_hosts(name: str, object_info: dict[str, Any]) -> None:
    """Inputs in order with all their options, outputs with their names, title, output node."""
    node_class: Any = STOCK_CLASS_MAPPINGS[name]
    titles = STOCK_DISPLAY_NAME_MAPPINGS
    own = definitions_from_classes({name: node_class}, titles)[name]
    theirs = definitions_from_object_info({name: object_info[name]})[name]
    assert list(own.inputs) == list(theirs.inputs)
    for key, wanted in theirs.inputs.items():
        found = own.inputs[key]
        if wanted.type == "VAE":
            assert found.type == "VAE,MULTILINGUAL_VAE"
        elif "image_upload" not in wanted.options:  # the files of the host that was asked
            assert found.type == wanted.type, key
        options = {word: value for word, value in wanted.options.items() if word != "tooltip"}
        assert dict(found.options) == options, key
        assert found.required == wanted.required
    assert own.hidden == theirs.hidden
    assert list(own.outputs) == list(theirs.outputs)
    assert (own.is_output, own.title) == (theirs.is_output, theirs.title)
    names = getattr(node_class, "RETURN_NAMES", node_class.RETURN_TYPES)
    assert list(names) == object_info[name]["output_name"]


@every_node
def test_execute_takes_the_inputs(name: str) -> None:
    node_class: Any = STOCK_CLASS_MAPPINGS[name]
    types = node_class.INPUT_TYPES()
    offered = [*types["required"], *types.get("optional", {}), *types.get("hidden", {})]
    inspect.signature(node_class.execute).bind(None, **dict.fromkeys(offered))
    assert node_class.__doc__ and node_class.__doc__.rstrip().endswith(".")


def test_no_stand_in_hides_a_node_of_the_pack() -> None:
    assert not set(STOCK_CLASS_MAPPINGS) & set(NODE_CLASS_MAPPINGS)
    assert len(STOCK_CLASS_MAPPINGS) == len(set(STOCK_CLASS_MAPPINGS.values()))


# -- what they do


def test_inputs_are_never_changed() -> None:
    latent = {"samples": noise(3, 4, 8, 8), "noise_mask": noise(3, 1, 8, 8)}
    latent["batch_index"] = [0, 1, 2]
    entry = [[noise(1, 5, 6), {"pooled_output": noise(1, 6)}]]
    image, mask, sigmas = noise(2, 32, 32, 4), noise(2, 32, 32), noise(5).sort(descending=True)[0]
    by_type = {
        "LATENT": latent, "CONDITIONING": entry, "IMAGE": image, "MASK": mask, "SIGMAS": sigmas,
        "VAE,MULTILINGUAL_VAE": SocketPart(source="tiny", part=VAE(tiny.vae())),
    }  # fmt: skip
    tensors = graphs.tensors_in([latent, entry, image, mask, sigmas])
    before = [tensor.clone() for tensor in tensors]
    given_text = {"filename_prefix": "x", "value": 1, "string_a": "a", "string_b": "b"}
    for name, definition in definitions_from_classes(STOCK_CLASS_MAPPINGS).items():
        if name.startswith("LoadImage"):
            continue
        inputs: dict[str, Any] = {}
        for key, each in definition.inputs.items():
            choices = each.choices
            smaller = {"width": 64, "height": 64, "feather": 16, "feathering": 8}
            inputs[key] = (
                by_type[str(each.type)] if str(each.type) in by_type
                else choices[-1] if choices
                else smaller.get(key, each.options.get("default", given_text.get(key)))
            )  # fmt: skip
        call(name, **inputs)
        assert all(map(torch.equal, tensors, before)), name
    assert latent["batch_index"] == [0, 1, 2] and list(entry[0][1]) == ["pooled_output"]


def test_a_batch_keeps_its_numbers() -> None:
    latent = {"samples": noise(3, 4, 8, 8), "noise_mask": noise(3, 1, 8, 8)}
    (last,) = call("LatentFromBatch", samples=latent, batch_index=-2, length=9)
    assert last["batch_index"] == [1, 2]
    assert torch.equal(last["samples"], latent["samples"][1:])
    assert torch.equal(last["noise_mask"], latent["noise_mask"][1:])
    (again,) = call("RepeatLatentBatch", samples=last, amount=3)
    assert again["batch_index"] == [1, 2, 3, 4, 5, 6]
    (joined,) = call("LatentBatch", samples1=last, samples2={"samples": noise(1, 4, 4, 4)})
    assert joined["batch_index"] == [1, 2, 0] and joined["samples"].shape == (3, 4, 8, 8)


def test_vae_stand_ins_are_the_codec(folders: Path) -> None:
    codec = VAE(tiny.vae())
    vae = SocketPart(source="tiny", part=codec)
    latent = {"samples": noise(2, 4, 8, 6)}
    wanted = codec.decode(Latents(latent["samples"])).pixels.permute(0, 2, 3, 1)
    (images,) = call("VAEDecode", samples=latent, vae=vae)
    assert torch.equal(images, wanted)
    big = {"samples": noise(1, 4, 40, 40)}
    (tiled,) = call("VAEDecodeTiled", samples=big, vae=vae, tile_size=128)
    (whole,) = call("VAEDecode", samples=big, vae=vae)
    assert not torch.equal(tiled, whole) and (tiled - whole).abs().mean() < 0.02
    odd = noise(1, 67, 77, 4)  # cut to 64 x 72 from (1, 2)
    (encoded,) = call("VAEEncode", pixels=odd, vae=vae)
    middle = odd[:, 1:65, 2:74, :3].permute(0, 3, 1, 2).contiguous()
    assert torch.equal(encoded["samples"], codec.encode(middle).samples)
    (tiled,) = call("VAEEncodeTiled", pixels=odd, vae=vae, tile_size=512)
    assert tiled["samples"].shape == encoded["samples"].shape


def test_inpaint_encoding_empties_the_hole() -> None:
    codec = VAE(tiny.vae())
    pixels, mask = noise(1, 64, 64, 3), torch.zeros(1, 32, 32)
    mask[:, 8:12, 8:12] = 1.0  # 16..23 in pixels of the image
    (latent,) = call(
        "VAEEncodeForInpaint",
        pixels=pixels, mask=mask, vae=SocketPart(source="tiny", part=codec), grow_mask_by=4,
    )  # fmt: skip
    hole = torch.zeros(1, 1, 64, 64)
    hole[..., 16:24, 16:24] = 1.0
    emptied = torch.where(hole > 0, 0.5, pixels.permute(0, 3, 1, 2))
    assert (latent["samples"] - codec.encode(emptied).samples).abs().max() < 1e-5
    grown = torch.zeros(1, 1, 64, 64)
    grown[..., 15:26, 15:26] = 1.0  # an even square reaches one pixel further at the end
    assert torch.equal(latent["noise_mask"], grown)


def test_an_unknown_codec_is_told() -> None:
    missing = SocketPart[Any](source="m9", missing="m9 has no vae")
    with pytest.raises(Exception, match="m9 has no vae"):
        call("VAEDecode", samples={"samples": noise(1, 4, 8, 8)}, vae=missing)


# -- files


def save(path: Path, array: np.ndarray, mode: str | None = None) -> None:
    picture = Image.fromarray(array)
    (picture.convert(mode) if mode else picture).save(path)


def test_pictures_are_loaded_with_their_transparency(folders: Path) -> None:
    array = np.random.default_rng(0).integers(0, 256, (5, 7, 4), dtype=np.uint8)
    save(folders / "input" / "alpha.png", array)
    save(folders / "input" / "plain.png", array[..., :3])
    (folders / "input" / "notes.txt").write_text("x", encoding="utf-8")
    (listed, options) = STOCK_CLASS_MAPPINGS["LoadImage"].INPUT_TYPES()["required"]["image"]  # type: ignore[attr-defined]
    assert listed == ["alpha.png", "plain.png"] and options == {"image_upload": True}
    image, mask = call("LoadImage", image="alpha.png")
    values = torch.from_numpy(array.astype(np.float32) / 255.0)
    assert torch.equal(image, values[None, ..., :3]) and torch.equal(mask, 1 - values[None, ..., 3])
    image, mask = call("LoadImage", image="plain.png")
    assert torch.equal(mask, torch.zeros(1, 64, 64))
    (green,) = call("LoadImageMask", image="alpha.png", channel="green")
    assert torch.equal(green, values[None, ..., 1])
    (alpha,) = call("LoadImageMask", image="alpha.png", channel="alpha")
    assert torch.equal(alpha, 1 - values[None, ..., 3])


@pytest.mark.parametrize(
    "name", ["../secret.png", "/etc/hostname", "absent.png", "a/../../secret.png", "", "[output]"]
)
def test_names_lead_nowhere_else(folders: Path, name: str) -> None:
    save(folders / "secret.png", np.zeros((4, 4, 3), np.uint8))
    flow = parse_api(
        {
            "1": {"class_type": "LoadImage", "inputs": {"image": name}},
            "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
        }
    )
    with pytest.raises(InvalidWorkflow) as refused:
        Executor(STOCK_CLASS_MAPPINGS).run(flow)
    error = refused.value.to_json()["node_errors"]["1"]["errors"][0]
    assert error["type"] == "custom_validation_failed"
    assert error["details"] == f"image - Invalid image file: {name}"


def test_saved_pictures_are_loaded_again(folders: Path) -> None:
    """Values are cut off to 8 bits; a changed file under the same name is read anew."""
    save(folders / "input" / "in.png", np.full((8, 8, 3), 200, np.uint8))
    flow = parse_api(
        {
            "1": {"class_type": "LoadImage", "inputs": {"image": "in.png"}},
            "2": {
                "class_type": "ImageScaleBy",
                "inputs": {"image": ["1", 0], "upscale_method": "bicubic", "scale_by": 2.0},
            },
            "3": {
                "class_type": "SaveImage",
                "inputs": {"images": ["2", 0], "filename_prefix": "sub/%width%_%batch_num%"},
            },
        }
    )
    executor = Executor(STOCK_CLASS_MAPPINGS)
    shown = executor.run(flow).ui["3"]["images"]
    assert shown == [{"filename": "16_0_00001_.png", "subfolder": "sub", "type": "output"}]
    image, _ = call("LoadImage", image="sub/16_0_00001_.png [output]")
    assert torch.equal(image, torch.full((1, 16, 16, 3), 200 / 255))
    with Image.open(folders / "output" / "sub" / "16_0_00001_.png") as picture:
        assert json.loads(picture.info["prompt"])["2"]["class_type"] == "ImageScaleBy"  # type: ignore[attr-defined]
    assert not executor.run(flow).executed
    save(folders / "input" / "in.png", np.full((8, 8, 3), 100, np.uint8))
    assert set(executor.run(flow).executed) == {"1", "2", "3"}


def test_values_are_cut_off_as_the_host_does(folders: Path) -> None:
    images = noise(1, 16, 16, 3) * 1.2 - 0.1
    call("SaveImage", images=images, filename_prefix="cut")
    written = np.asarray(Image.open(folders / "output" / "cut_00001_.png"))
    wanted = (255.0 * images[0].numpy()).clip(0, 255).astype(np.uint8)
    assert np.array_equal(written, wanted)
    rounded = (255.0 * images[0].numpy()).clip(0, 255).round().astype(np.uint8)
    assert not np.array_equal(written, rounded)


# -- together with the pack's nodes


def test_a_shared_graph_runs_without_the_host(tmp_path: Path) -> None:
    models = graphs.write_models(tmp_path / "models")
    nodes: dict[str, Any] = {
        "model": ("MultilingualModelLoader", {"model": "checked"}),
        "text": ("PrimitiveStringMultiline", {"value": "a red circle"}),
        "first": ("MultilingualTextEncode", {"text_encoder": ["model", 0], "text": ["text", 0]}),
        "second": ("MultilingualTextEncode", {"text_encoder": ["model", 0], "text": "a dog"}),
        "average": (
            "ConditioningAverage",
            {"conditioning_to": ["first", 0], "conditioning_from": ["second", 0],
             "conditioning_to_strength": 0.5},
        ),
        "nothing": ("ConditioningZeroOut", {"conditioning": ["first", 0]}),
        "empty": ("EmptyLatentImage", {"width": 64, "height": 48, "batch_size": 1}),
        "sample": (
            "MultilingualSampler",
            {"unet": ["model", 1], "positive": ["average", 0], "negative": ["nothing", 0],
             "latent_image": ["empty", 0], "seed": 3, "steps": 2, "cfg": 5.0,
             "sampler": "ddim", "schedule": "model", "denoise": 1.0},
        ),
        "decode": ("VAEDecode", {"samples": ["sample", 0], "vae": ["model", 2]}),
        "save": ("SaveImage", {"images": ["decode", 0], "filename_prefix": "shared"}),
    }  # fmt: skip
    flow = parse_api(
        {key: {"class_type": kind, "inputs": inputs} for key, (kind, inputs) in nodes.items()}
    )
    with graphs.folders(models, tmp_path / "output"), torch.inference_mode():
        result = Executor({**STOCK_CLASS_MAPPINGS, **NODE_CLASS_MAPPINGS}).run(flow)
    assert result.ui["save"]["images"][0]["filename"] == "shared_00001_.png"
    assert (tmp_path / "output" / "shared_00001_.png").stat().st_size > 100


def test_run_reads_the_input_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Beside the workflow, or the one that is named."""
    flow = tmp_path / "flow.json"
    nodes = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "in.png"}},
        "2": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}},
        "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "x"}},
    }
    flow.write_text(json.dumps(nodes), encoding="utf-8")
    (tmp_path / "other").mkdir()
    save(tmp_path / "input" / "in.png", np.full((8, 8, 3), 10, np.uint8))
    save(tmp_path / "other" / "in.png", np.full((8, 8, 3), 20, np.uint8))
    command = ["run", str(flow), "--output", str(tmp_path / "out")]
    assert main(command) == 0
    assert main([*command, "--input-dir", str(tmp_path / "other")]) == 0
    values = [
        np.asarray(Image.open(path))[0, 0, 0] for path in sorted((tmp_path / "out").iterdir())
    ]
    assert values == [245, 235]
    assert main([*command, "--input-dir", str(tmp_path / "absent")]) == 2
    assert "no such folder" in capsys.readouterr().err
    target = tmp_path / "api.json"
    assert main(["convert", str(flow), "--output", str(target)]) == 0
    assert json.loads(target.read_text(encoding="utf-8"))["2"]["class_type"] == "ImageInvert"


def test_listing_the_nodes_imports_no_torch() -> None:
    """What ComfyUI and the command read first: the mappings of the pack, and `models list`."""
    code = (
        "import sys, multilingual_diffusion as pack;"
        "from multilingual_diffusion.__main__ import main;"
        "names = list(pack.NODE_CLASS_MAPPINGS);"
        "code = main(['models', 'list']);"
        "print(len(names) > 10, code, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1:] == ["True 0 False"], done.stderr[-2000:]
