"""Tiny real models through the nodes: equal to the pipeline, inputs never changed, refusals."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import layouts
import node_graphs as graphs
import pytest
import torch
from multilingual_diffusion.nodes import NODE_CLASS_MAPPINGS
from multilingual_diffusion.nodes.latents import fit_shape
from multilingual_diffusion.pipeline_core import ImageRequest, load_pipeline
from multilingual_diffusion.pipeline_core.errors import (
    Cancelled,
    InvalidRequest,
    ModelNotFound,
    PipelineError,
    UnknownName,
    UnsafeContent,
)
from multilingual_diffusion.pipeline_core.images.metadata import read_metadata
from multilingual_diffusion.pipeline_core.workflow import Executor, parse_api
from node_graphs import HEIGHT, LONG_PROMPT, PROMPT, STEPS, WIDTH, call, empty_latent, encode
from PIL import Image

SIZE: dict[str, Any] = {"width": WIDTH, "height": HEIGHT, "steps": STEPS, "seed": 7}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return graphs.write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(autouse=True)
def output(models: Path, tmp_path: Path) -> Iterator[Path]:
    with graphs.folders(models, tmp_path / "output"):
        yield tmp_path / "output"


@pytest.fixture(scope="module")
def parts(models: Path) -> tuple[Any, ...]:
    with graphs.folders(models, models):
        return call("MultilingualModelLoader", model="checked")


@pytest.fixture(scope="module")
def pipeline(models: Path) -> Any:
    return load_pipeline(models / "checked")


def close(found: torch.Tensor, wanted: torch.Tensor, tolerance: float = 1e-4) -> bool:
    return bool((found - wanted).abs().max() <= tolerance * wanted.abs().max())


def decode(parts: Any, latent: Any) -> torch.Tensor:
    return call("MultilingualVAEDecode", vae=parts[2], latent=latent)[0]


def request(*prompts: str, **fields: Any) -> ImageRequest:
    given = {"negative_prompts": ("blue",), "safety": "off", **SIZE, **fields}
    return ImageRequest(prompts=prompts, **given)


@pytest.mark.parametrize(
    ("positive", "negative"),
    [(PROMPT, "blue"), ("(cat:1.4) [dog]", ""), (LONG_PROMPT, "blue"), ("dog", LONG_PROMPT)],
)
def test_text_to_image_equals_the_pipeline(parts, pipeline, positive, negative) -> None:
    """Bit for bit, also where one side is longer than the other."""
    images = decode(parts, graphs.sample(parts, positive, negative, seed=7))
    wanted = pipeline(request(positive, negative_prompts=(negative,))).pixels
    assert images.shape == (1, HEIGHT, WIDTH, 3) and images.dtype == torch.float32
    assert torch.equal(images, wanted.permute(0, 2, 3, 1))


def test_a_batch_of_lines_equals_the_pipeline(parts, pipeline) -> None:
    lines = [PROMPT, "ein Hund", "\u72d7"]
    conditioning, count = call(
        "MultilingualTextEncodeBatch", text_encoder=parts[0], text="\n\n  ".join(lines)
    )
    latent = call(
        "MultilingualSampler", unet=parts[1], positive=conditioning,
        negative=encode(parts[0], "blue"), latent_image=empty_latent(count), seed=7, steps=STEPS,
    )[0]  # fmt: skip
    wanted = pipeline.sample(request(*lines)).samples
    assert torch.equal(latent["samples"], wanted)
    second = dict(empty_latent(1), batch_index=[1])  # one image taken out of the batch
    alone = graphs.sample(parts, lines[1], seed=7, latent_image=second)
    assert close(alone["samples"], wanted[1:2])
    assert not close(alone["samples"], wanted[:1], 1e-2)


def test_inpainting_equals_the_pipeline(parts, pipeline) -> None:
    pixels = torch.rand(1, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(1))
    mask = torch.zeros(1, 1, HEIGHT, WIDTH)
    mask[..., 20:40] = 1.0
    latent = call(
        "MultilingualVAEEncodeForInpaint", vae=parts[2], images=pixels.permute(0, 2, 3, 1),
        mask=mask[0], grow_mask_by=0,
    )[0]  # fmt: skip
    found = graphs.sample(parts, seed=7, latent_image=latent)["samples"]
    wanted = pipeline.sample(request(PROMPT), init_image=pixels, mask=mask).samples
    assert torch.equal(found, wanted)
    assert torch.equal(found[..., :2], latent["samples"][..., :2])  # kept, exactly
    assert not torch.equal(found[..., 3], latent["samples"][..., 3])


def test_the_mask_grows_and_grey_hides_what_is_under_it(parts) -> None:
    pixels = torch.rand(1, HEIGHT, WIDTH, 3, generator=torch.Generator().manual_seed(1))
    mask = torch.zeros(1, HEIGHT, WIDTH)
    mask[:, 24, 32] = 1.0

    def encoded(images: torch.Tensor, **fields: Any) -> dict[str, Any]:
        given = {"vae": parts[2], "images": images, "mask": mask, **fields}
        return call("MultilingualVAEEncodeForInpaint", **given)[0]

    grown = encoded(pixels, grow_mask_by=8)["noise_mask"]
    assert grown.shape == (1, 1, HEIGHT // 8, WIDTH // 8)
    assert grown.nonzero()[:, 2:].tolist() == [[y, x] for y in (2, 3, 4) for x in (3, 4, 5)]
    other = pixels.clone()
    other[:, 20:29, 28:37] = 0.9  # differs only under the grown mask
    same = [encoded(images, grow_mask_by=4, fill="grey")["samples"] for images in (pixels, other)]
    assert torch.equal(*same)
    kept = [encoded(images, grow_mask_by=4)["samples"] for images in (pixels, other)]
    assert not torch.equal(*kept)


def test_image_to_image_runs_all_steps_on_the_tail(parts, pipeline) -> None:
    image = torch.rand(1, HEIGHT, WIDTH, 3, generator=torch.Generator().manual_seed(1))
    latent = call("MultilingualVAEEncode", vae=parts[2], images=image)[0]
    pixels = image.permute(0, 3, 1, 2).contiguous()
    assert torch.equal(latent["samples"], pipeline.parts.vae.encode(pixels).samples)
    found = graphs.sample(parts, latent_image=latent, denoise=0.5, sampler="ddim")
    advanced = call(
        "MultilingualSamplerAdvanced", unet=parts[1], positive=encode(parts[0]),
        negative=encode(parts[0], "blue"), latent_image=latent, steps=2 * STEPS, start_step=STEPS,
        sampler="ddim",
    )[0]  # fmt: skip
    assert torch.equal(found["samples"], advanced["samples"])
    unchanged = graphs.sample(parts, latent_image=latent, denoise=0.0)
    assert unchanged is latent


def test_two_passes_are_one_run_and_sigmas_come_back(parts) -> None:
    text_encoder, unet, *_ = parts
    common = {
        "unet": unet, "positive": encode(text_encoder), "negative": encode(text_encoder, "blue"),
        "sampler": "euler", "seed": 3, "steps": STEPS,
    }  # fmt: skip

    def run(**fields: Any) -> tuple[Any, torch.Tensor]:
        given = {"latent_image": empty_latent(), **common, **fields}
        return call("MultilingualSamplerAdvanced", **given)

    whole, sigmas = run()
    assert sigmas.shape == (STEPS + 1,) and bool((sigmas.diff() < 0).all()) and sigmas[-1] == 0
    first, upper = run(end_step=2, keep_leftover_noise=True)
    second, lower = run(latent_image=first, start_step=2, add_noise=False)
    assert close(second["samples"], whole["samples"])
    assert torch.equal(torch.cat([upper, lower[1:]]), sigmas)
    again, same = run(sigmas=sigmas, steps=999)
    assert close(again["samples"], whole["samples"], 1e-2)  # its start noise is scaled by sigma
    assert torch.equal(same, sigmas)


def test_combined_bounded_and_timed_prompts(parts) -> None:
    """As ComfyUI's own conditioning nodes write them."""
    text_encoder, unet, *_ = parts
    one, two, negative = (encode(text_encoder, text) for text in (PROMPT, "dog", "blue"))
    plain = graphs.sample(parts)["samples"]

    def run(positive: Any) -> torch.Tensor:
        return call(
            "MultilingualSampler", unet=unet, positive=positive, negative=negative,
            latent_image=empty_latent(), steps=STEPS,
        )[0]["samples"]  # fmt: skip

    def with_keys(conditioning: Any, **keys: Any) -> Any:
        return [[tensor, {**more, **keys}] for tensor, more in conditioning]

    assert close(run(one + one), plain)  # Combine of the same
    assert torch.equal(run(one), plain)
    concat = [[torch.cat([one[0][0], two[0][0]], dim=1), one[0][1]]]
    left = torch.zeros(1, HEIGHT, WIDTH)
    left[..., :32] = 1.0
    changed = [
        run(one + two),
        run(concat),
        run(with_keys(one, area=(3, 4, 0, 0), strength=1.0) + two),
        run(with_keys(one, area=("percentage", 0.5, 0.5, 0.5, 0.5)) + two),
        run(with_keys(one, mask=left, mask_strength=1.0, set_area_to_bounds=False) + two),
        run(with_keys(one, start_percent=0.0, end_percent=0.5)
            + with_keys(two, start_percent=0.5, end_percent=1.0)),
    ]  # fmt: skip
    for index, samples in enumerate(changed):
        assert torch.isfinite(samples).all()
        assert all(not torch.equal(samples, other) for other in [plain, *changed[:index]])
    with pytest.raises(InvalidRequest, match="'control', which only ComfyUI's own sampler"):
        run(with_keys(one, control=object()))


def test_rows_go_round_as_the_host_does(parts, caplog) -> None:
    two = call("MultilingualTextEncodeBatch", text_encoder=parts[0], text="cat\ndog")[0]
    three = graphs.call(
        "MultilingualSampler", unet=parts[1], positive=two, negative=encode(parts[0]),
        latent_image=empty_latent(3), steps=2,
    )[0]["samples"]  # fmt: skip
    alone = [
        graphs.sample(parts, text, PROMPT, steps=2, latent_image=empty_latent(3))["samples"]
        for text in ("cat", "dog")
    ]
    for row, source in ((0, 0), (1, 1), (2, 0)):
        assert close(three[row], alone[source][row])
    call(
        "MultilingualSampler", unet=parts[1], positive=two, negative=encode(parts[0]),
        latent_image=empty_latent(1), steps=2,
    )  # fmt: skip
    assert "2 rows for 1 images" in caplog.text


@pytest.mark.parametrize("kind", ["relative", "linked"])
def test_pictures_are_saved_below_any_name_of_the_output_folder(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "real").mkdir()
    output = Path("real")
    if kind == "linked":
        try:
            (tmp_path / "link").symlink_to("real", target_is_directory=True)
        except OSError:
            pytest.skip("this system or user may not link")
        output = tmp_path / "link"
    with graphs.folders(tmp_path, output):
        saved = call("MultilingualSaveImage", images=torch.rand(1, 8, 8, 3), filename_prefix="a/b")
    (shown,) = saved["ui"]["images"]
    assert (tmp_path / "real" / shown["subfolder"] / shown["filename"]).is_file()
    assert shown["subfolder"] == "a"


def test_nothing_that_comes_in_is_changed(parts) -> None:
    image = torch.rand(1, HEIGHT, WIDTH, 3)
    latent = {"samples": torch.randn(1, 4, 6, 8), "noise_mask": torch.rand(1, 48, 64)}
    positive = [[torch.randn(1, 77, 24), {"mask": torch.rand(48, 64), "area": (4, 4, 0, 0)}]] * 2
    negative = [[torch.randn(1, 154, 24), {"pooled_output": None}]]
    inputs: dict[str, dict[str, Any]] = {
        "MultilingualSampler": {
            "unet": parts[1], "positive": positive, "negative": negative, "latent_image": latent,
            "steps": 2,
        },
        "MultilingualSamplerAdvanced": {
            "unet": parts[1], "positive": positive, "negative": negative, "latent_image": latent,
            "sigmas": torch.tensor([5.0, 1.0, 0.0]),
        },
        "MultilingualVAEEncode": {"vae": parts[2], "images": image},
        "MultilingualVAEEncodeForInpaint": {
            "vae": parts[2], "images": image, "mask": torch.ones(1, 48, 64), "fill": "grey",
        },
        "MultilingualVAEDecode": {"vae": parts[2], "latent": latent},
        "MultilingualSafetyCheck": {
            "images": image, "safety_checker": parts[3], "adjustment": 1.0,
        },
        "MultilingualSaveImage": {"images": image},
        "MultilingualPreviewImage": {"images": image},
        "MultilingualDualConditioning": {"conditioning": positive, "clip_conditioning": negative},
        "MultilingualControlNetConditioning": {
            "conditioning": positive, "clip_conditioning": negative,
        },
    }  # fmt: skip
    assert set(inputs) == {
        name
        for name, node in NODE_CLASS_MAPPINGS.items()
        if {"CONDITIONING", "LATENT", "IMAGE", "MASK"}
        & {
            str(spec[0])
            for section in ("required", "optional")
            for spec in node.INPUT_TYPES().get(section, {}).values()
        }
    }
    for node, given in inputs.items():
        tensors = graphs.tensors_in(given)
        before = [(tensor.clone(), tensor._version) for tensor in tensors]
        keys = [set(given["latent_image"])] if "latent_image" in given else []
        call(node, **given)
        for tensor, (values, version) in zip(tensors, before, strict=True):
            assert torch.equal(tensor, values) and tensor._version == version, node
        assert not keys or keys == [set(given["latent_image"])]


def test_the_safety_check_and_what_is_saved(parts, pipeline, output) -> None:
    image = decode(parts, graphs.sample(parts, seed=7))
    check = {"images": image, "safety_checker": parts[3]}
    strict = call("MultilingualSafetyCheck", **check, adjustment=1.0)
    wanted = pipeline(request(PROMPT, safety="black", safety_adjustment=1.0))
    assert torch.equal(strict[0], wanted.pixels.permute(0, 2, 3, 1)) and not strict[0].any()
    assert strict[1] == [True] and strict[2] == [max(wanted.verdicts[0].concept_scores)]
    assert strict[3].shape == (1, HEIGHT, WIDTH) and bool((strict[3] == 1).all())
    mild = call("MultilingualSafetyCheck", **check, adjustment=-1.0)
    assert torch.equal(mild[0], image) and mild[1] == [False] and not mild[3].any()
    blurred = call("MultilingualSafetyCheck", **check, adjustment=1.0, policy="blur")[0]
    assert blurred.any() and not torch.equal(blurred, image)
    with pytest.raises(UnsafeContent):
        call("MultilingualSafetyCheck", **check, adjustment=1.0, policy="block")
    off = call("MultilingualSafetyCheck", **check, policy="off")
    assert torch.equal(off[0], image) and off[2] == [0.0] and off[4] == {"policy": "off"}

    graph = {"9": {"class_type": "MultilingualSaveImage", "inputs": {"filename_prefix": "p"}}}
    shown = call(
        "MultilingualSaveImage", images=strict[0], safety_record=strict[4], prompt=graph,
        extra_pnginfo={"workflow": {"nodes": []}}, filename_prefix="sub/%width%x%height%",
    )["ui"]["images"]  # fmt: skip
    assert shown == [{"filename": "64x48_00001_.png", "subfolder": "sub", "type": "output"}]
    path = output / "sub" / "64x48_00001_.png"
    assert read_metadata(path)["safety"] == {
        "policy": "black", "adjustment": 1.0, "flagged": [True],
    }  # fmt: skip
    with Image.open(path) as picture:
        assert json.loads(picture.text["prompt"]) == graph
        assert json.loads(picture.text["workflow"]) == {"nodes": []}
    call("MultilingualSaveImage", images=image, filename_prefix="plain")
    assert read_metadata(output / "plain_00001_.png")["safety"] == {"policy": "off"}
    preview = call("MultilingualPreviewImage", images=image)["ui"]["images"][0]
    assert preview["type"] == "temp" and (output / "preview" / preview["filename"]).is_file()
    with pytest.raises(InvalidRequest, match="speaks of 1 images and 2 come"):
        call("MultilingualSaveImage", images=image.repeat(2, 1, 1, 1), safety_record=strict[4])
    with pytest.raises(PipelineError, match="leads out"):
        call("MultilingualSaveImage", images=image, filename_prefix="../outside")


def test_a_graph_too_large_for_a_picture_does_not_lose_it(output, caplog) -> None:
    graph = {"1": {"class_type": "Note", "inputs": {"text": "x" * 2**20}}}
    call("MultilingualSaveImage", images=torch.rand(1, 8, 8, 3), prompt=graph)
    assert "the picture is saved without its prompt" in caplog.text
    assert read_metadata(output / "multilingual_00001_.png")["safety"] == {"policy": "off"}


def test_a_missing_checker_disables_only_its_node() -> None:
    parts = call("MultilingualModelLoader", model="group/bare")
    image = decode(parts, graphs.sample(parts, steps=2))
    check = {"images": image, "safety_checker": parts[3]}
    for policy in ("black", "blur", "block", "pass"):
        with pytest.raises(PipelineError, match="bare has no safety_checker: load one with"):
            call("MultilingualSafetyCheck", **check, policy=policy)
    assert torch.equal(call("MultilingualSafetyCheck", **check, policy="off")[0], image)
    checker = call("MultilingualSafetyCheckerLoader", model="checked")[0]
    call("MultilingualSafetyCheck", images=image, safety_checker=checker)
    with pytest.raises(ModelNotFound, match="safety_checker"):
        call("MultilingualSafetyCheckerLoader", model="group/bare")


def test_a_model_that_lacks_parts_still_loads(models) -> None:
    """A checker that the index names but nobody downloaded; a checkpoint without our encoder."""
    lacking = layouts.write_diffusers_folder(models / "lacking", "m9", weights="safetensors")
    shutil.rmtree(lacking / "safety_checker")
    layouts.write_sd_checkpoint(models / "plain.safetensors", "sd1")
    lacking_parts = call("MultilingualModelLoader", model="lacking")
    assert [part.part is None for part in lacking_parts] == [False, False, False, True]
    plain = call("MultilingualModelLoader", model="plain.safetensors")
    assert [part.part is None for part in plain] == [True, False, False, True]
    with pytest.raises(PipelineError, match=r"plain\.safetensors has no text_encoder: a plain"):
        encode(plain[0])
    mixed = (lacking_parts[0], *plain[1:])  # one model's language, another's UNet and VAE
    assert torch.isfinite(decode(mixed, graphs.sample(mixed, steps=2))).all()


def test_parts_loaded_alone_are_those_of_the_model(parts) -> None:
    alone = [
        call(f"Multilingual{part}Loader", model="checked")[0]
        for part in ("TextEncoder", "UNet", "VAE")
    ]
    assert alone[1].scaling_factor == parts[1].scaling_factor
    first, second = (graphs.sample(each, seed=1) for each in (alone, parts))
    assert torch.equal(decode(alone, first), decode(parts, second))


def test_models_are_named_with_forward_slashes() -> None:
    names = NODE_CLASS_MAPPINGS["MultilingualModelLoader"].INPUT_TYPES()["required"]["model"][0]
    assert {"checked", "group/bare"} <= set(names)


@pytest.mark.parametrize(
    ("node", "inputs", "error"),
    [
        ("MultilingualModelLoader", {"model": "../checked"}, InvalidRequest),
        ("MultilingualModelLoader", {"model": "/etc"}, InvalidRequest),
        ("MultilingualModelLoader", {"model": "absent"}, ModelNotFound),
        ("MultilingualModelLoader", {"model": "checked", "device": "tpu"}, UnknownName),
        ("MultilingualModelLoader", {"model": "checked", "dtype": "int8"}, UnknownName),
        ("MultilingualVAELoader", {"model": "checked", "dtype": "fp16", "device": "cpu"},
         InvalidRequest),
        ("MultilingualUNetLoader", {"model": "checked", "prediction_type": "x0"}, UnknownName),
        ("MultilingualEmptyLatent", {"shape": "round"}, UnknownName),
        ("MultilingualEmptyLatent", {"shape": "custom", "width": 12}, InvalidRequest),
        ("MultilingualEmptyLatent", {"shape": "custom", "width": 16384, "height": 16384},
         InvalidRequest),
    ],
)  # fmt: skip
def test_refusals_of_values_that_no_host_checked(node, inputs, error) -> None:
    with pytest.raises(error):
        call(node, **inputs)


def test_refusals_before_the_network_runs(parts) -> None:
    for inputs, message in (
        ({"sampler": "dimm"}, "did you mean 'ddim'"),
        ({"schedule": "sgm"}, "schedule 'sgm' is unknown"),
        ({"steps": 0}, "steps is 0"),
        ({"latent_image": {"samples": torch.zeros(1, 16, 8, 8)}}, "these models take"),
        ({"positive": []}, "has no prompt"),
        ({"positive": [[torch.zeros(1, 77, 768), {}]]}, "768 numbers a token and the UNet of che"),
    ):
        positive = {"positive": inputs.pop("positive")} if "positive" in inputs else {}
        given = {
            "unet": parts[1], "positive": encode(parts[0]), "negative": encode(parts[0]),
            "latent_image": empty_latent(), **inputs, **positive,
        }  # fmt: skip
        with pytest.raises(InvalidRequest, match=message):
            call("MultilingualSampler", **given)
    with pytest.raises(InvalidRequest, match="this latent is a part of one"):
        call(
            "MultilingualSamplerAdvanced", unet=parts[1], positive=encode(parts[0]),
            negative=encode(parts[0]), latent_image={**empty_latent(), "batch_index": [3]},
            noise="batch",
        )  # fmt: skip
    image = torch.rand(1, 8, 8, 3)
    for adjustment in (float("nan"), 2.0):
        with pytest.raises(InvalidRequest, match="adjustment is"):
            call(
                "MultilingualSafetyCheck", images=image, safety_checker=parts[3],
                adjustment=adjustment,
            )  # fmt: skip
    with pytest.raises(InvalidRequest, match="grow_mask_by is 65"):
        call(
            "MultilingualVAEEncodeForInpaint", vae=parts[2], images=image,
            mask=torch.ones(1, 8, 8), grow_mask_by=65,
        )  # fmt: skip
    for policy in ("auto", "none"):
        with pytest.raises(UnknownName):
            call(
                "MultilingualSafetyCheck", images=torch.rand(1, 8, 8, 3), safety_checker=parts[3],
                policy=policy,
            )  # fmt: skip


def test_shapes_keep_the_native_size(parts) -> None:
    assert fit_shape((2, 3), 512) == (512, 768) and fit_shape((16, 9), 512) == (896, 512)
    assert fit_shape((1, 1), 128) == (128, 128) and fit_shape((9, 16), 128) == (128, 224)
    latent, width, height = call("MultilingualEmptyLatent", shape="wide 3:2", unet=parts[1])
    assert (width, height) == (768, 512)
    assert latent["samples"].shape == (1, 4, 64, 96) and not latent["samples"].any()


def test_meter_and_glossary(parts) -> None:
    report, tokens, limit, windows = call(
        "MultilingualTokenMeter", text_encoder=parts[0], text=LONG_PROMPT, long_prompt="truncate"
    )
    assert tokens > limit == 75 and windows == 1
    assert f"{tokens} tokens in 1 window of 75" in report and "does not fit: " in report
    assert call("MultilingualTokenMeter", text_encoder=parts[0], text=LONG_PROMPT)[3] >= 2
    assert call("MultilingualGlossary", text="Anna", glossary="anna = a woman") == ("a woman", 1)


GRAPH: dict[str, Any] = {
    "1": {"class_type": "MultilingualModelLoader", "inputs": {"model": "checked"}},
    "2": {"class_type": "MultilingualTextEncode",
          "inputs": {"text_encoder": ["1", 0], "text": PROMPT}},
    "3": {"class_type": "MultilingualTextEncode",
          "inputs": {"text_encoder": ["1", 0], "text": "blue"}},
    "4": {"class_type": "MultilingualEmptyLatent",
          "inputs": {"shape": "custom", "width": WIDTH, "height": HEIGHT, "batch_size": 2}},
    "5": {"class_type": "MultilingualSampler",
          "inputs": {"unet": ["1", 1], "positive": ["2", 0], "negative": ["3", 0],
                     "latent_image": ["4", 0], "seed": 7, "steps": STEPS, "cfg": 7.5,
                     "sampler": "dpmpp_2m", "schedule": "model", "denoise": 1.0}},
    "6": {"class_type": "MultilingualVAEDecode", "inputs": {"vae": ["1", 2], "latent": ["5", 0]}},
    "7": {"class_type": "MultilingualSafetyCheck",
          "inputs": {"images": ["6", 0], "safety_checker": ["1", 3], "policy": "pass",
                     "adjustment": 0.0}},
    "8": {"class_type": "MultilingualSaveImage",
          "inputs": {"images": ["7", 0], "filename_prefix": "graph", "safety_record": ["7", 4]}},
}  # fmt: skip


def test_a_graph_runs_headless_once(pipeline, output) -> None:
    executor = Executor(NODE_CLASS_MAPPINGS)
    with torch.inference_mode():  # as the host runs nodes
        result = executor.run(parse_api(GRAPH))
        assert executor.run(parse_api(GRAPH)).executed == []
    assert [item["filename"] for item in result.ui["8"]["images"]] == [
        "graph_00001_.png", "graph_00002_.png",
    ]  # fmt: skip
    wanted = pipeline(request(PROMPT, images_per_prompt=2, safety="pass")).to_pil()
    for number, picture in enumerate(wanted, 1):
        with Image.open(output / f"graph_{number:05}_.png") as saved:
            assert saved.tobytes() == picture.tobytes()
            assert json.loads(saved.text["prompt"])["5"]["inputs"]["seed"] == 7


def test_an_interrupt_stops_within_a_step() -> None:
    seen: list[float] = []

    def on_event(event: dict[str, Any]) -> None:
        if event["type"] == "progress":
            seen.append(event["data"]["value"])
            if len(seen) == 2:
                executor.interrupt()

    executor = Executor(NODE_CLASS_MAPPINGS, on_event=on_event)
    with pytest.raises(Cancelled):
        executor.run(parse_api(GRAPH))
    assert seen == [1, 2]
