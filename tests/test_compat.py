"""The code examples of the four model cards, with only their imports changed, on tiny folders."""

from __future__ import annotations

import importlib.util
import runpy
import shutil
import sys
import types
from pathlib import Path
from typing import Any

import layouts
import numpy as np
import pytest
import torch
from multilingual_diffusion.pipeline_core.compat import (
    AltDiffusionPipeline,
    AutoLoader,
    Predictor,
    Tasks,
    pipeline,
)
from multilingual_diffusion.pipeline_core.errors import FileRefused, InvalidRequest, UnknownName
from multilingual_diffusion.pipeline_core.loading.convert import convert
from PIL import Image

EXAMPLES = Path(__file__).parent / "data" / "model_cards"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder in which the hub ids of the cards are folders."""
    half = {"weights": "safetensors", "null_checkers": True, "dtype": torch.float16}
    layouts.write_diffusers_folder(tmp_path / "BAAI/AltDiffusion-m9", "m9", **half)
    layouts.write_diffusers_folder(tmp_path / "BAAI/AltDiffusion-m18", "m18", **half)
    layouts.write_modelscope_folder(
        tmp_path / "damo/multi-modal_chinese_stable_diffusion_v1.0", weights="safetensors"
    )
    (tmp_path / "checkpoints").mkdir()
    for name in ("AltDiffusion-m9", "AltDiffusion-m18"):
        convert(tmp_path / "BAAI" / name, tmp_path / "checkpoints" / name)
    encoder = tmp_path / "BAAI/RobertaSeriesModelWithTransformation"
    layouts.modules("m9")["text_encoder"].save_pretrained(encoder)
    layouts.write_sentencepiece(encoder)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.glob("*.txt")))
def test_card_example_runs(name: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = {"width": 64, "height": 64, "num_inference_steps": 2}
    original = AltDiffusionPipeline.__call__

    def quick(self: Any, prompt: Any, **options: Any) -> Any:
        return original(self, prompt, **{**options, **small})

    monkeypatch.setattr(AltDiffusionPipeline, "__call__", quick)
    images = Predictor.predict_generate_images

    def quick_images(self: Any, prompt: str, **options: Any) -> None:
        images(self, prompt, **{**options, "H": 64, "W": 64, "ddim_steps": 2, "n_samples": 2})

    monkeypatch.setattr(Predictor, "predict_generate_images", quick_images)
    if importlib.util.find_spec("cv2") is None:
        monkeypatch.setitem(sys.modules, "cv2", opencv_by_pillow())
    runpy.run_path(str(EXAMPLES / name))
    written = [path for path in place.rglob("*.png") if "BAAI" not in path.parts]
    assert written
    for path in written:
        with Image.open(path) as picture:
            assert picture.width >= 64


def opencv_by_pillow() -> types.ModuleType:
    """Stand in for OpenCV's `imwrite`, the one function of it that the cards call."""
    module = types.ModuleType("cv2")

    def imwrite(path: str, bgr: np.ndarray) -> bool:
        Image.fromarray(np.ascontiguousarray(bgr[:, :, ::-1])).save(path)
        return True

    module.imwrite = imwrite  # type: ignore[attr-defined]
    return module


def predictor(place: Path, name: str = "AltDiffusion-m9") -> Predictor:
    model = AutoLoader("text2img", name, model_dir=place / "checkpoints").get_model()
    return Predictor(model.to("cpu"))


SMALL: dict[str, Any] = {"H": 64, "W": 64, "ddim_steps": 4, "n_samples": 2}


def test_flagai_names_and_grids(place: Path) -> None:
    flagai = predictor(place)
    flagai.predict_generate_images("a dog", outpath="out", n_iter=2, n_rows=3, **SMALL)
    flagai.predict_generate_images("a dog", outpath="out", skip_grid=True, **SMALL)
    flagai.predict_generate_images("a dog", outpath="out", skip_save=True, **SMALL)
    names = sorted(path.name for path in Path("out/samples").iterdir())
    assert names == [f"{number:05}.png" for number in range(6)]
    grids = sorted(Path("out").glob("*.png"))
    assert [path.name for path in grids] == ["grid-0000.png", "grid-0001.png"]
    with Image.open(grids[0]) as grid:  # 4 pictures, 3 in a row
        assert grid.size == (3 * 66 + 2, 2 * 66 + 2)


def test_flagai_from_file_seed_and_fixed_code(place: Path) -> None:
    Path("prompts.txt").write_text("a dog\n\u732b\na hat\n", encoding="utf-8")
    flagai = predictor(place)
    flagai.predict_generate_images("", outpath="a", from_file="prompts.txt", plms=True, **SMALL)
    assert len(list(Path("a/samples").iterdir())) == 3
    options: dict[str, Any] = {**SMALL, "n_samples": 1, "n_iter": 2, "skip_grid": True}
    flagai.predict_generate_images("a dog", outpath="b", fixed_code=True, **options)
    flagai.predict_generate_images("a dog", outpath="c", **options)
    assert pixels("b/samples/00000.png") == pixels("b/samples/00001.png")
    assert pixels("c/samples/00000.png") != pixels("c/samples/00001.png")
    assert pixels("b/samples/00000.png") == pixels("c/samples/00000.png")


def pixels(path: str) -> bytes:
    with Image.open(path) as picture:
        return picture.tobytes()


def test_flagai_refusals(place: Path) -> None:
    flagai = predictor(place)
    with pytest.raises(InvalidRequest, match="PLMS"):
        flagai.predict_generate_images("a", plms=True, ddim_eta=0.5)
    with pytest.raises(InvalidRequest, match="n_iter"):
        flagai.predict_generate_images("a", n_iter=0)
    with pytest.raises(InvalidRequest, match="factor 8"):
        flagai.predict_generate_images("a", f=4)
    with pytest.raises(UnknownName, match="AltDiffusion-m18"):
        AutoLoader(model_name="AltDiffusion-m19")
    layouts.write_flagai_folder(place / "checkpoints/AltDiffusion", "m9")
    with pytest.raises(FileRefused, match="convert"):
        predictor(place, "AltDiffusion").predict_generate_images("a", **SMALL)


def test_schedulers_are_honoured(place: Path) -> None:
    from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, DPMSolverSinglestepScheduler

    pipe = AltDiffusionPipeline.from_pretrained("BAAI/AltDiffusion-m9")

    def picture(**options: Any) -> np.ndarray:
        generator = torch.Generator().manual_seed(1)
        size = {"height": 64, "width": 64, "num_inference_steps": 4, "output_type": "np"}
        return pipe("a dog", generator=generator, **size, **options).images

    plms = picture()
    config = pipe.scheduler.config
    pipe.scheduler = DDIMScheduler.from_config(config)
    ddim = picture()
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(config, use_karras_sigmas=True)
    karras = picture()
    assert plms.shape == (1, 64, 64, 3)
    assert np.abs(plms - ddim).max() > 1e-3 and np.abs(ddim - karras).max() > 1e-3
    pipe.scheduler = DPMSolverSinglestepScheduler.from_config(config)
    with pytest.raises(InvalidRequest, match="DPMSolverSinglestepScheduler"):
        picture()


def test_latents_generators_and_callbacks(place: Path) -> None:
    pipe = AltDiffusionPipeline.from_pretrained("BAAI/AltDiffusion-m9")
    options: dict[str, Any] = {
        "height": 64, "width": 64, "num_inference_steps": 3, "output_type": "pt"
    }  # fmt: skip
    noise = torch.randn((2, 4, 8, 8), generator=torch.Generator().manual_seed(4))
    given = pipe(["a", "b"], latents=noise, **options).images
    drawn = pipe(["a", "b"], generator=torch.Generator().manual_seed(4), **options).images
    assert torch.equal(given, drawn)
    pair = [torch.Generator().manual_seed(seed) for seed in (4, 5)]
    alone = [torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(s)) for s in (4, 5)]
    listed = pipe(["a", "b"], generator=pair, **options).images
    assert torch.equal(listed, pipe(["a", "b"], latents=torch.cat(alone), **options).images)
    seen: list[int] = []
    pipe("a", callback=lambda step, t, latents: seen.append(step), callback_steps=2, **options)
    assert seen[:2] == [0, 2]
    with pytest.raises(InvalidRequest, match="callback_steps"):
        pipe("a", callback=lambda step, t, latents: None, callback_steps=0)
    unchecked = AltDiffusionPipeline.from_pretrained("BAAI/AltDiffusion-m9", safety_checker=None)
    assert unchecked("a", **options).nsfw_content_detected is None
    pictures, flags = pipe("a", return_dict=False, height=64, width=64, num_inference_steps=2)
    assert flags is None and pictures[0].size == (64, 64)


def test_modelscope_dictionary_call(place: Path) -> None:
    pipe = pipeline(Tasks.text_to_image_synthesis, "damo/multi-modal_chinese_stable_diffusion_v1.0")
    options = {"height": 64, "width": 64, "num_inference_steps": 2}
    generator = torch.Generator().manual_seed(3)
    bgr = pipe({"text": "\u72d7", "generator": generator, **options})["output_imgs"][0]
    assert bgr.dtype == np.uint8 and bgr.shape == (64, 64, 3)
    rgb = pipe.pipeline("\u72d7", generator=torch.Generator().manual_seed(3), **options).images[0]
    assert np.array_equal(bgr[:, :, ::-1], np.asarray(rgb))
    for wrong in ("a text", {"prompt": "a"}, {"text": "a", "size": 3}):
        with pytest.raises(ValueError):
            pipe(wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="same type"):
        pipe({"text": "a", "negative_prompt": ["b"], **options})


def test_copy_without_files_is_refused_at_once(place: Path) -> None:
    shutil.rmtree(place / "BAAI/AltDiffusion-m9/unet")
    with pytest.raises(Exception, match="unet"):
        AltDiffusionPipeline.from_pretrained("BAAI/AltDiffusion-m9")("a")
