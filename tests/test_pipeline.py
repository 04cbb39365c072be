"""The whole run: equal to diffusers' AltDiffusionPipeline; batches, options, metadata, refusals."""

from __future__ import annotations

import dataclasses
import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import layouts
import pytest
import tiny
import torch
from multilingual_diffusion.pipeline_core import ImageRequest, assemble, load_pipeline
from multilingual_diffusion.pipeline_core.errors import (
    Cancelled,
    InvalidRequest,
    ModelNotFound,
    PipelineError,
    UnknownName,
)
from multilingual_diffusion.pipeline_core.pipeline import TextToImagePipeline
from multilingual_diffusion.pipeline_core.values import Step

PROMPTS = ("a red circle on a blue background", "a dog", "dark elf princess, sharp focus")
SMALL: dict[str, Any] = {"width": 64, "height": 48, "steps": 5}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("folders")
    paths = {model: root / model for model in ("m9", "m18")}
    for model, path in paths.items():
        layouts.write_diffusers_folder(path, model, weights="safetensors", null_checkers=True)
    paths["checked"] = root / "checked"
    layouts.write_diffusers_folder(paths["checked"], "m9", weights="safetensors")
    return paths


@pytest.fixture(scope="module")
def m9(folders: dict[str, Path]) -> TextToImagePipeline:
    return load_pipeline(folders["m9"])


def reference(model: Any, folder: Path) -> Any:
    """Return diffusers' pipeline over the very modules the folder was written from."""
    pytest.importorskip("google.protobuf", reason="transformers reads sentencepiece through it")
    from diffusers import AltDiffusionPipeline, PNDMScheduler
    from transformers import XLMRobertaTokenizer

    parts = layouts.modules(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipe = AltDiffusionPipeline(
            vae=parts["vae"],
            text_encoder=parts["text_encoder"],
            tokenizer=XLMRobertaTokenizer.from_pretrained(folder / "tokenizer"),
            unet=parts["unet"],
            scheduler=PNDMScheduler.from_config(tiny.SCHEDULER),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize("model", ["m9", "m18"])
def test_equal_to_diffusers(model: str, folders: dict[str, Path]) -> None:
    import diffusers

    classes = {
        "ddim": ("DDIMScheduler", {}),
        "plms": ("PNDMScheduler", {}),
        "dpmpp_2m": ("DPMSolverMultistepScheduler", {}),
        "unipc": ("UniPCMultistepScheduler", {}),
        "euler": ("EulerDiscreteScheduler", {}),
    }
    theirs, ours = reference(model, folders[model]), load_pipeline(folders[model])
    base = theirs.scheduler.config
    for sampler, (name, options) in classes.items():
        theirs.scheduler = getattr(diffusers, name).from_config(base, **options)
        generators = [torch.Generator().manual_seed(7 + index) for index in range(len(PROMPTS))]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            wanted = theirs(
                list(PROMPTS),
                height=48,
                width=64,
                num_inference_steps=5,
                guidance_scale=7.5,
                negative_prompt=["blue"] * 3,
                generator=generators,
                output_type="latent",
            ).images
        request = ImageRequest(
            prompts=PROMPTS, negative_prompts=("blue",), sampler=sampler, seed=7, **SMALL
        )
        got = ours.sample(request).samples * ours.parts.vae.scaling_factor
        assert (got - wanted).abs().max() <= 1e-4 * wanted.abs().max(), sampler


def test_pixels_equal_to_diffusers(folders: dict[str, Path], m9: TextToImagePipeline) -> None:
    theirs = reference("m9", folders["m9"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wanted = theirs(
            PROMPTS[0],
            height=48,
            width=64,
            num_inference_steps=5,
            generator=torch.Generator().manual_seed(0),
            output_type="pt",
        ).images
    got = m9(ImageRequest(prompts=PROMPTS[:1], sampler="plms", **SMALL)).pixels
    assert (got - wanted).abs().max() <= 1e-4


def test_an_image_is_the_same_alone_and_in_a_batch(m9: TextToImagePipeline) -> None:
    long = " ".join(["a red circle on a blue background"] * 12)  # more than one window
    request = ImageRequest(
        prompts=(*PROMPTS, long), images_per_prompt=2, seed=5, sampler="euler_ancestral", **SMALL
    )
    together = m9(request)
    assert len(together.verdicts) == 8
    for index in (0, 3, 6, 7):
        alone = m9(request.single(index))
        assert (together.pixels[index] - alone.pixels[0]).abs().max() <= 1e-4, index
    assert (together.pixels[0] - together.pixels[1]).abs().max() > 1e-2  # seeds differ
    assert torch.equal(together.pixels, m9(request).pixels)  # bit-equal again
    split = m9(request, batch_size=3)
    assert (together.pixels - split.pixels).abs().max() <= 1e-4


@pytest.mark.parametrize("size", [(512, 1024), (1024, 512), (40, 72)])
def test_tall_and_wide(m9: TextToImagePipeline, size: tuple[int, int]) -> None:
    cheap = {"steps": 2, "sampler": "ddim", "guidance_scale": 1.0}
    request = ImageRequest(prompts=("a dog",), width=size[0], height=size[1], **cheap)
    assert m9.sample(request).samples.shape == (1, 4, size[1] // 8, size[0] // 8)


def test_model_defaults_fill_the_request(m9: TextToImagePipeline) -> None:
    request = m9.complete(ImageRequest(prompts=("a",)))
    assert (request.width, request.height) == (m9.native_size, m9.native_size)
    assert (request.sampler, request.steps, request.guidance_scale) == ("dpmpp_2m", 25, 7.5)


def test_metadata_makes_the_picture_again(m9: TextToImagePipeline) -> None:
    request = ImageRequest(
        prompts=PROMPTS, negative_prompts=("x",), eta=0.5, sampler="ddim", **SMALL
    )
    images = m9(request)
    text = json.dumps(images.metadata, allow_nan=False)
    again = ImageRequest.from_metadata(json.loads(text)["request"])
    assert again == m9.complete(request)
    assert torch.equal(images.pixels, m9(again).pixels)


def test_guidance_one_needs_no_negative_side(m9: TextToImagePipeline) -> None:
    request = ImageRequest(prompts=("a dog",), guidance_scale=1.0, **SMALL)
    other = dataclasses.replace(request, negative_prompts=("blue",))
    assert torch.equal(m9.sample(request).samples, m9.sample(other).samples)


def test_img2img_and_inpainting(m9: TextToImagePipeline) -> None:
    init = torch.rand((1, 3, 48, 64), generator=torch.Generator().manual_seed(1))
    mask = torch.zeros((1, 1, 48, 64))
    mask[..., 32:] = 1.0
    request = ImageRequest(prompts=("a dog", "a hat"), strength=0.6, **SMALL)
    changed = m9(request, init_image=init)
    painted = m9(request, init_image=init, mask=mask)
    assert (changed.pixels - init).abs().max() > 0.05
    assert torch.equal(painted.pixels[..., :32], init.expand(2, -1, -1, -1)[..., :32])
    assert (painted.pixels[..., 32:] - init[..., 32:]).abs().max() > 0.05
    with pytest.raises(InvalidRequest, match="give it again"):
        m9(ImageRequest.from_metadata(dict(painted.metadata["request"])))
    with pytest.raises(InvalidRequest, match="not the one"):
        m9(ImageRequest.from_metadata(dict(changed.metadata["request"])), init_image=1 - init)


def test_steps_are_counted_through_and_can_be_cancelled(m9: TextToImagePipeline) -> None:
    seen: list[Step] = []
    m9.sample(ImageRequest(prompts=PROMPTS[:2], **SMALL), on_step=seen.append, batch_size=1)
    assert [(step.index, step.total) for step in seen] == [(index, 10) for index in range(10)]
    assert seen[0].latents.shape == (1, 4, 6, 8)

    def stop(step: Step) -> None:
        seen.append(step)
        raise Cancelled("enough")

    seen.clear()
    with pytest.raises(Cancelled):
        m9(ImageRequest(prompts=("a dog",), **SMALL), on_step=stop)
    assert len(seen) == 1


def test_weights_and_long_prompts_reach_the_picture(m9: TextToImagePipeline) -> None:
    def latents(prompt: str, **options: Any) -> torch.Tensor:
        return m9.sample(ImageRequest(prompts=(prompt,), **options, **SMALL)).samples

    plain = latents("a red circle")
    assert torch.equal(plain, latents("a (red:1.0) circle"))
    assert not torch.equal(plain, latents("a (red:1.5) circle"))
    assert torch.equal(plain, latents("a (red:1.5) circle", weighting="none"))
    long = " ".join(["red"] * 120)
    assert not torch.equal(latents(long), latents(long, long_prompt="single"))
    cut = m9(ImageRequest(prompts=(long,), long_prompt="truncate", **SMALL))
    assert any("cut" in warning for warning in cut.warnings)


def test_safety_policies(folders: dict[str, Path], m9: TextToImagePipeline) -> None:
    checked = load_pipeline(folders["checked"])
    request = ImageRequest(prompts=("a dog",), safety_adjustment=1.0, **SMALL)  # flags everything
    black = checked(request)
    assert black.policy == "black" and black.verdicts[0].flagged and not black.pixels.any()
    shown = checked(dataclasses.replace(request, safety="pass"))
    assert shown.verdicts[0].flagged and shown.pixels.any()
    with pytest.raises(PipelineError, match="flagged"):
        checked(dataclasses.replace(request, safety="block"))
    unchecked = m9(request)
    assert unchecked.policy == "off" and unchecked.warnings
    assert unchecked.metadata["safety"] == {"policy": "off"}
    with pytest.raises(PipelineError, match="none is loaded"):
        m9(dataclasses.replace(request, safety="black"))


def test_a_promised_checker_that_is_not_there_fails(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(folders["checked"], broken)
    shutil.rmtree(broken / "safety_checker")
    with pytest.raises(ModelNotFound, match="safety_checker"):
        load_pipeline(broken)
    without = load_pipeline(broken, parts=("text_encoder", "tokenizer", "unet", "vae"))
    assert without(ImageRequest(prompts=("a",), safety="off", **SMALL)).policy == "off"
    lent = load_pipeline(broken, parts={"safety_checker": folders["checked"] / "safety_checker"})
    assert lent(ImageRequest(prompts=("a",), **SMALL)).policy == "black"


WRONG_OPTIONS: list[tuple[dict[str, Any], str]] = [
    ({"sampler": "dimm"}, "did you mean 'ddim'"),
    ({"schedule": "caras"}, "schedule"),
    ({"steps": 0}, "steps"),
    ({"steps": 1000, "sampler": "dpmpp_2m"}, "steps"),
    ({"steps": 2.5}, "steps"),
    ({"width": 100}, "multiple of 8"),
    ({"height": 0}, "height"),
    ({"width": "512"}, "width"),
    ({"width": 16384, "height": 16384}, "megapixels"),
    ({"seed": -1}, "seed"),
    ({"seed": 2**64}, "seed"),
    ({"seed": True}, "seed"),
    ({"guidance_scale": float("nan")}, "guidance_scale"),
    ({"guidance_scale": -1.0}, "guidance_scale"),
    ({"eta": 2.0}, "eta"),
    ({"eta": 0.5, "sampler": "euler"}, "eta"),
    ({"strength": 1.5}, "strength"),
    ({"sigmas": (1.0, 2.0)}, "fall"),
    ({"sigmas": (1.0,)}, "sigmas"),
    ({"noise": "gpu"}, "noise"),
    ({"weighting": "compel"}, "weighting"),
    ({"long_prompt": "drop"}, "long_prompt"),
    ({"safety": "maybe"}, "safety"),
    ({"timestep_rule": "flagai", "sampler": "euler"}, "flagai"),
    ({"images_per_prompt": 0}, "images_per_prompt"),
    ({"negative_prompts": ("a", "b", "c")}, "negative"),
    ({"prompts": ()}, "prompts"),
    ({"prompts": "a dog"}, "list"),
    ({"mask": "0" * 64}, "init image"),
    ({"vae_tiling": 1}, "vae_tiling"),
    ({"strength": 0.5}, "init image"),
    ({"timestep_rule": "flagai", "sampler": "ddim", "steps": 3}, "flagai"),
    ({"prompts": ("(a",)}, "character"),
    ({"negative_prompts": ("a)",)}, "character"),
    ({"init_image": "0" * 64}, "give it again"),
    ({"init_image": 5}, "sha256"),
    ({"sigmas": 5}, "list"),
    ({"prompts": 5}, "list"),
    ({"sampler": ["ddim"]}, "name"),
    ({"guidance_scale": 10**400}, "guidance_scale"),
]
WRONG = [options for options, _ in WRONG_OPTIONS]


@pytest.mark.parametrize(("options", "message"), WRONG_OPTIONS)
def test_wrong_options_are_one_line(
    m9: TextToImagePipeline, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidRequest, match=message) as caught:
        m9(ImageRequest(**{"prompts": ("a",), **options}))
    assert "\n" not in str(caught.value)


class WeightsWereRead(Exception):
    """Raised in place of every loader of weights."""


@pytest.fixture
def guarded(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise WeightsWereRead

    for name in ("load_text_network", "load_unet_network", "load_vae_network"):
        monkeypatch.setattr(assemble, name, refuse)


@pytest.mark.parametrize("options", WRONG)
def test_wrong_options_fail_before_a_weight_is_read(
    guarded: None, folders: dict[str, Path], options: dict[str, Any]
) -> None:
    with pytest.raises(InvalidRequest):
        request = ImageRequest(**{"prompts": ("a",), **options})
        load_pipeline(folders["m9"], before_loading=lambda outline: outline.complete(request))


def test_right_options_go_on_to_the_weights(guarded: None, folders: dict[str, Path]) -> None:
    request = ImageRequest(prompts=("a",))
    with pytest.raises(WeightsWereRead):
        load_pipeline(folders["m9"], before_loading=lambda outline: outline.complete(request))


def test_mixing_parts(folders: dict[str, Path], tmp_path: Path) -> None:
    plain = layouts.write_sd_checkpoint(tmp_path / "sd1.safetensors", "sd1")
    mixed = load_pipeline(folders["m9"], parts={"unet": plain, "vae": plain})
    assert mixed(ImageRequest(prompts=("a dog",), **SMALL)).pixels.shape == (1, 3, 48, 64)
    with pytest.raises(InvalidRequest, match="numbers a token"):
        load_pipeline(folders["m18"], parts={"unet": plain})
    with pytest.raises(UnknownName):
        load_pipeline(folders["m9"], parts={"nose": "x"})  # type: ignore[dict-item]
    encoder = folders["m9"] / "text_encoder"
    own = load_pipeline(folders["m9"], parts={"text_encoder": encoder})
    assert own.spec.name == "altdiffusion-m9" and own.encode(["a dog"]).embeddings.shape[2] == 24
    alone = load_pipeline(plain)
    assert alone.parts.text_encoder is None
    with pytest.raises(PipelineError, match="text_encoder"):
        alone(ImageRequest(prompts=("a dog",), **SMALL))
    second = load_pipeline(layouts.write_sd_checkpoint(tmp_path / "sd2.safetensors", "sd2"))
    with pytest.raises(InvalidRequest, match="prediction_type"):
        second.complete(ImageRequest(prompts=("a",)))


def test_the_embedded_model_draws_what_is_asked_in_seconds() -> None:
    nano = load_pipeline("nano")
    request = ImageRequest(prompts=("a blue circle on a yellow background",) * 2, seed=1)
    images = nano(request)
    assert images.policy == "black" and images.pixels.shape == (2, 3, 128, 128)
    corner = images.pixels[:, :, 4:12, 4:12].mean(dim=(0, 2, 3))  # the ground: yellow
    assert corner[0] > 0.6 and corner[1] > 0.6 and corner[2] < 0.5


def test_the_demonstration_checker_guards_no_other_model(folders: dict[str, Path]) -> None:
    with pytest.raises(InvalidRequest, match="demonstration"):
        load_pipeline(folders["m9"], parts={"safety_checker": "nano"})
