"""Download a published model: the only code here that opens a connection, and only when called.

Everything lands in a temporary folder beside the target, is proven by size and checksum, and gets
its final name in one rename. A killed run leaves that folder; the next run goes on with it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..errors import DownloadError, InvalidRequest, MissingDependency
from .folders import safe_join
from .hub import Repository, fetch_file, open_repository, select_files, stopped
from .licences import write_licence
from .specs import ModelSpec, find_spec
from .strict_json import read_json

RECORD = "download.json"  # what was downloaded: repository, commit, files
_SPARE_BYTES = 64 * 2**20  # room that is left on the disk

# Called with the bytes that are there and the bytes of all files; raise `Cancelled` to stop.
Progress = Callable[[int, int], None]


def download(
    name: str,
    folder: Path | str,
    *,
    revision: str | None = None,
    progress: Progress | None = None,
    endpoint: str | None = None,
) -> Path:
    """Download a model of `MODELS` into `folder/name` and return that path.

    `revision` is a branch, tag or commit of the hub (`fp16` has half-precision weights where the
    model's entry says so). A model that is already there at that commit is left as it is.
    `endpoint` is the address of a mirror of the Hugging Face hub.

    Raises:
        UnknownName: no such model.
        MissingDependency: the model's hub needs a client that is not installed.
        DownloadError: gated, not found, no room, broken off, or not what the hub promised.
    """
    spec = find_spec(name)
    if not (spec.huggingface_id or spec.modelscope_id):
        raise InvalidRequest(f"{name} is embedded in this package; there is nothing to download")
    folder = Path(folder)
    target, temporary = folder / spec.name, folder / f".{spec.name}.incomplete"
    with _alone(folder, spec):
        if spec.huggingface_id:
            record = _from_huggingface(spec, target, temporary, revision, progress, endpoint)
        else:
            record = _from_modelscope(spec, target, temporary, revision)
        if record is not None:
            _finish(spec, temporary, target, record)
    return target


@contextlib.contextmanager
def _alone(folder: Path, spec: ModelSpec) -> Iterator[None]:
    """Hold the lock of one model in one folder; the empty lock file stays, as removing it races."""
    from filelock import FileLock, Timeout

    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f".{spec.name}.lock", timeout=0):
            yield
    except Timeout as exc:
        raise DownloadError(f"another process is downloading {spec.name} into {folder}") from exc
    except OSError as exc:
        raise DownloadError(f"cannot write to {folder}: {exc}") from exc


def _from_huggingface(
    spec: ModelSpec,
    target: Path,
    temporary: Path,
    revision: str | None,
    progress: Progress | None,
    endpoint: str | None,
) -> dict[str, Any] | None:
    """Fill the temporary folder and return its record; None where the target is this commit."""
    repository = open_repository(spec, revision, endpoint)
    if _is_there(target, {"repository": repository.name, "commit": repository.commit}):
        return None
    files = select_files(repository)
    paths = {file.name: safe_join(temporary, file.name) for file in files}
    _remove_others(temporary, set(paths.values()))
    total = sum(file.size for file in files)
    _check_room(temporary, total)
    done = 0

    def on_bytes(count: int) -> None:
        nonlocal done
        done += count
        if progress:
            progress(min(done, total), total)

    for file in files:
        fetch_file(repository, file, paths[file.name], on_bytes)
    return _record(repository, revision, files=[file.name for file in files])


def _record(repository: Repository, revision: str | None, files: list[str]) -> dict[str, Any]:
    return {
        "repository": repository.name,
        "commit": repository.commit,
        "revision": revision,
        "files": {
            name: {"size": repository.files[name].size, "sha256": repository.files[name].sha256}
            for name in files
        },
    }


def _from_modelscope(
    spec: ModelSpec, target: Path, temporary: Path, revision: str | None
) -> dict[str, Any] | None:
    """As `_from_huggingface`, by ModelScope's client.

    It resumes, and checks the sha256 that its hub lists for each file (its FileIntegrityError).
    """
    record = {"repository": spec.modelscope_id, "revision": revision}
    if _is_there(target, record):
        return None
    try:
        from modelscope.hub import errors  # pyright: ignore[reportMissingImports]
        from modelscope.hub.snapshot_download import (  # pyright: ignore[reportMissingImports]
            snapshot_download,
        )
    except ImportError as exc:
        raise MissingDependency(
            f"{spec.name} lies on ModelScope and needs its client: "
            'pip install "comfyui-multilingual-diffusion[modelscope]"'
        ) from exc
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    failures = tuple(kind for kind in kinds if issubclass(kind, Exception))
    try:
        snapshot_download(spec.modelscope_id, revision=revision, local_dir=str(temporary))
    except (*failures, OSError) as exc:  # requests' errors are OSErrors; so is a full disk
        raise stopped(spec, exc) from exc
    return record


def _is_there(target: Path, wanted: dict[str, Any]) -> bool:
    """Tell whether the target is what is wanted; something else there is an error."""
    if not os.path.lexists(target):
        return False
    record = read_json(target / RECORD) if (target / RECORD).is_file() else {}
    if record.items() >= wanted.items():
        return True
    what = f"holds {record}" if record else "was not made by this command"
    raise DownloadError(f"{target} exists and {what[:200]}; move it away and run the command again")


def _remove_others(temporary: Path, wanted: set[Path]) -> None:
    """Remove what a run for another revision left."""
    for path in temporary.rglob("*"):
        if path.is_file() and path not in wanted and path.with_suffix("") not in wanted:
            path.unlink()


def _check_room(temporary: Path, total: int) -> None:
    there = sum(path.stat().st_size for path in temporary.rglob("*") if path.is_file())
    free = shutil.disk_usage(temporary.parent).free
    needed = total - there + _SPARE_BYTES
    if needed > free:
        raise DownloadError(
            f"{needed / 1e9:.2f} GB are needed in {temporary.parent}, {free / 1e9:.2f} GB are free"
        )


def _finish(spec: ModelSpec, temporary: Path, target: Path, record: dict[str, Any]) -> None:
    """Add licence and record, and give the folder its name."""
    write_licence(spec, temporary)
    text = json.dumps(record, indent=2, allow_nan=False)
    (temporary / RECORD).write_text(text, encoding="utf-8")
    os.replace(temporary, target)
