"""Where converted and grafted models are written: whole, or not at all.

Everything goes into a folder under a temporary name beside the target, and is moved when complete.
"""

from __future__ import annotations

import contextlib
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from ..errors import PipelineError
from ..models.detection import PartName
from .writing import Output

Progress = Callable[[int, int], None]  # called with the bytes written so far, and of all
OnTensor = Callable[[Output], None]

WEIGHTS_FILES: Mapping[PartName, str] = {
    "text_encoder": "model.safetensors",
    "unet": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
    "safety_checker": "model.safetensors",
}


def existing_parent(target: Path) -> Path:
    """Return the nearest place above a target that exists."""
    return next(parent for parent in target.absolute().parents if parent.exists())


def count_bytes(total: int, progress: Progress | None) -> OnTensor:
    """Return what a writer calls after each tensor, to tell `progress` the bytes."""
    done = 0

    def count(output: Output) -> None:
        nonlocal done
        done += output.nbytes
        if progress is not None:
            progress(done, total)

    return count


def check_space(target: Path, total: int) -> None:
    """Refuse a target that its disk has no room for.

    Raises:
        PipelineError: fewer than `total` bytes are free.
    """
    free = shutil.disk_usage(existing_parent(target)).free
    if free < total:
        raise PipelineError(
            f"the disk of {target} has {free / 1e9:.1f} GB free; {total / 1e9:.1f} GB are needed"
        )


@contextlib.contextmanager
def partial_folder(target: Path) -> Iterator[Path]:
    """Yield a new folder beside the target; it is gone afterwards, whatever happens.

    So are the parents that were made for it, unless the target lies in them by then.
    """
    folder = target.with_name(f".{target.name}.{secrets.token_hex(4)}.partial")
    new_parents = [parent for parent in target.parents if not parent.exists()]  # deepest first
    try:
        folder.mkdir(parents=True)
        yield folder
    except OSError as exc:
        raise PipelineError(
            f"{target} could not be written: {exc.strerror or exc}; nothing of it stays"
        ) from exc
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        for parent in new_parents:
            with contextlib.suppress(OSError):  # not empty: it holds the target
                parent.rmdir()


def move_in_place(folder: Path, target: Path, layout: str) -> None:
    """Give what was written its name: a folder, or ("single") the files of one checkpoint."""
    if layout == "folder":
        folder.rename(target)
        return
    # the weights last: when their name is there, all that belongs to them is
    for path in sorted(folder.iterdir(), key=lambda path: path.name == target.name):
        path.replace(target.with_name(path.name))
