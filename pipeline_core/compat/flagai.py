"""FlagAI's `AutoLoader` and `Predictor.predict_generate_images`, over our own pipeline.

Not reproduced, on purpose:
* `from_file` shadows the factor `f` and raises there; here it works, a short last batch too.
* files are never overwritten: the counter goes past the highest number, not past the file count.
* 8-bit values are rounded; FlagAI cuts them off.
* noise is drawn on the CPU, so a seed means the same picture on every device.
* H and W must be multiples of 8; FlagAI divides and rounds down.
* a flagged picture is black; FlagAI tries to paste one of its own.
* `.to` returns the model; FlagAI's returns None. Nothing is downloaded.
Source: FlagAI flagai/model/predictor/predictor.py, flagai/auto_model/auto_loader.py.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from ..assemble import load_pipeline
from ..errors import InvalidRequest, UnknownName
from ..images.grid import make_grid
from ..images.png import write_png, write_png_as
from ..models.detection import PartName
from ..pipeline import TextToImagePipeline
from ..ranges import check_whole
from ..sampling import make_noise
from ..values import CheckedImages, ImageRequest
from .places import log_warnings, pick_device, pick_dtype

_MODELS = ("AltDiffusion", "AltDiffusion-m9", "AltDiffusion-m18")


class AutoLoader:
    """Find `model_dir/model_name`; its weights are read by `get_model`.

    Args:
        use_fp16, fp16: half precision (on a CPU: the best precision of this one).
        allow_pickle: open the published `model.ckpt`, which is a pickle.
    """

    def __init__(
        self,
        task_name: str = "text2img",
        model_name: str = "AltDiffusion",
        model_dir: str | Path = "./checkpoints",
        *,
        use_fp16: bool = False,
        fp16: bool = False,
        allow_pickle: bool = False,
    ) -> None:
        if task_name != "text2img":
            raise UnknownName("task", task_name, ["text2img"])
        if model_name not in _MODELS:
            raise UnknownName("model", model_name, _MODELS)
        self.place = Path(model_dir) / model_name
        self.checker = Path(model_dir) / "SafetyChecker"
        self.dtype = torch.float16 if use_fp16 or fp16 else None
        self.allow_pickle = allow_pickle

    def get_model(self) -> AltDiffusionModel:
        """Return the model, still on no device."""
        return AltDiffusionModel(self)


class AltDiffusionModel:
    """What FlagAI calls the model: something to put on a device and to hand to `Predictor`."""

    def __init__(self, loader: AutoLoader) -> None:
        self._loader = loader
        self._pipeline: TextToImagePipeline | None = None
        self.device = torch.device("cpu")

    def to(self, device: str | torch.device) -> AltDiffusionModel:
        """Run on that device from now on."""
        chosen = pick_device(device)
        if chosen != self.device:
            self.device, self._pipeline = chosen, None
        return self

    def _inference(self) -> AltDiffusionModel:
        """Return self: the networks never train here."""
        return self

    eval = _inference

    @property
    def pipeline(self) -> TextToImagePipeline:
        """Our own pipeline, loaded at the first use."""
        if self._pipeline is None:
            checker = self._loader.checker
            elsewhere: dict[PartName, str | Path] = {"safety_checker": checker}
            self._pipeline = load_pipeline(
                self._loader.place,
                device=self.device,
                dtype=pick_dtype(self._loader.dtype, self.device),
                parts=elsewhere if checker.is_dir() else None,
                allow_pickle=self._loader.allow_pickle,
            )
        return self._pipeline


class Predictor:
    """Makes pictures with a model of `AutoLoader`."""

    def __init__(self, model: AltDiffusionModel, tokenizer: Any = None) -> None:
        self.model = model

    def predict_generate_images(
        self,
        prompt: str,
        outpath: str | Path = "AltDiffusionOutputs",
        n_samples: int = 4,
        n_rows: int = 0,
        skip_grid: bool = False,
        skip_save: bool = False,
        ddim_steps: int = 50,
        n_iter: int = 1,
        plms: bool = False,
        fixed_code: bool = False,
        ddim_eta: float = 0.0,
        H: int = 512,
        W: int = 512,
        C: int = 4,
        f: int = 8,
        scale: float = 7.5,
        from_file: str | Path | None = None,
        seed: int = 34234,
        negative_prompt: str = "",
    ) -> None:
        """Write `n_iter * n_samples` pictures to `outpath/samples`, and a grid to `outpath`.

        Args:
            n_rows: pictures in a row of the grid; 0: `n_samples`.
            skip_grid, skip_save: leave out the grid, the single pictures.
            plms: PLMS instead of DDIM; `ddim_eta` must then be 0.
            fixed_code: one start noise for every iteration.
            C, f: channels and factor of the latents; only 4 and 8 exist.
            scale: guidance; 1 runs no second pass.
            from_file: a file with a prompt a line, taken `n_samples` at a time.

        Raises:
            InvalidRequest: an argument does not fit.
        """
        if plms and ddim_eta:
            raise InvalidRequest(f"ddim_eta is {ddim_eta:g}; PLMS needs 0")
        check_whole("n_samples", n_samples, 1, 4096)
        check_whole("n_iter", n_iter, 1, 4096)
        check_whole("n_rows", n_rows, 0, 4096)
        if (C, f) != (4, 8):
            raise InvalidRequest(f"C is {C} and f is {f}; the models have 4 channels, factor 8")
        base: dict[str, Any] = {
            "negative_prompts": (negative_prompt,),
            "width": W,
            "height": H,
            "steps": ddim_steps,
            "sampler": "plms" if plms else "ddim",
            "timestep_rule": "flagai",
            "eta": ddim_eta,
            "guidance_scale": scale,
            "seed": seed,
            "noise": "flagai",
        }
        batches = list(_batches(prompt, from_file, n_samples))
        requests = [ImageRequest(prompts=batch, **base) for _ in range(n_iter) for batch in batches]
        generator = torch.Generator().manual_seed(seed)
        code = make_noise((seed,) * n_samples, W, H, "flagai") if fixed_code else None
        done: list[CheckedImages] = []
        for request in requests:
            noise = None if code is None else code[: request.count]
            images = self.model.pipeline(request, noise=noise, generator=generator)
            if not skip_save:
                write_png(Path(outpath) / "samples", images, prefix="", first=0)
            log_warnings(images)
            done.append(images)
        if not skip_grid:
            grid = make_grid(_together(done), n_rows or n_samples)
            write_png_as(_free_grid_name(Path(outpath)), grid)


def _together(done: list[CheckedImages]) -> CheckedImages:
    """Return the images of all iterations as one batch, with the first one's metadata."""
    return dataclasses.replace(
        done[0],
        pixels=torch.cat([images.pixels for images in done]),
        verdicts=tuple(verdict for images in done for verdict in images.verdicts),
    )


def _free_grid_name(folder: Path) -> Path:
    names = (folder / f"grid-{number:04}.png" for number in itertools.count())
    return next(path for path in names if not path.exists())


def _batches(
    prompt: str, from_file: str | Path | None, n_samples: int
) -> Iterator[tuple[str, ...]]:
    if from_file is None:
        yield (prompt,) * n_samples
        return
    try:
        lines = Path(from_file).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as exc:
        raise InvalidRequest(f"from_file {from_file} cannot be read: {exc}") from exc
    if not lines:
        raise InvalidRequest(f"from_file {from_file} holds no prompt")
    for start in range(0, len(lines), n_samples):
        yield tuple(lines[start : start + n_samples])
