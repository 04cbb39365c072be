"""Files of a Hugging Face repository: list them, fetch one, prove it is the right one.

`huggingface_hub` does the talking (tokens, redirects, retries, its progress bar). Fetching goes
through its `http_get`, because `hf_hub_download` starts again from zero after a killed run.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from ..errors import DownloadError
from .digests import file_digest
from .specs import ModelSpec

# The tokenizer reads its model file alone; nobody misses these two.
_OPTIONAL = ("tokenizer/special_tokens_map.json", "tokenizer/tokenizer_config.json")
_SAFE_TWINS = {
    "pytorch_model.bin": "model.safetensors",
    "diffusion_pytorch_model.bin": "diffusion_pytorch_model.safetensors",
}


@dataclass(frozen=True)
class HubFile:
    """One file as the hub describes it: LFS files by sha256, small ones by git's blob id."""

    name: str
    size: int
    sha256: str | None
    blob_id: str | None


@dataclass(frozen=True)
class Repository:
    """A repository at one commit; `endpoint` None is the public hub."""

    spec: ModelSpec
    name: str
    commit: str
    endpoint: str | None
    files: Mapping[str, HubFile]


def open_repository(spec: ModelSpec, revision: str | None, endpoint: str | None) -> Repository:
    """List the files of a model's repository at a branch, tag or commit.

    Raises:
        DownloadError: it is gated, not there, or the hub does not answer.
    """
    from huggingface_hub import HfApi

    assert spec.huggingface_id is not None
    with hub_errors(spec, revision):
        info = HfApi(endpoint=endpoint).model_info(
            spec.huggingface_id, revision=revision, files_metadata=True
        )
    files = {
        file.rfilename: HubFile(
            file.rfilename, file.size or 0, file.lfs.sha256 if file.lfs else None, file.blob_id
        )
        for file in info.siblings or ()
    }
    return Repository(spec, spec.huggingface_id, str(info.sha), endpoint, files)


def select_files(repository: Repository) -> list[HubFile]:
    """Return the files to download: the model's list, safetensors where a .bin has a twin.

    Raises:
        DownloadError: the repository lacks a file that the model needs.
    """
    offered = repository.files
    selected: list[HubFile] = []
    for name in repository.spec.files or offered:
        folder, _, file = name.rpartition("/")
        twin = f"{folder}/{_SAFE_TWINS.get(file, file)}" if folder else name
        if twin in offered or name in offered:
            selected.append(offered.get(twin) or offered[name])
        elif name not in _OPTIONAL:
            raise DownloadError(
                f"{repository.name} at {repository.commit[:12]} has no {name}; "
                "try another --revision"
            )
    return selected


def fetch_file(
    repository: Repository, file: HubFile, path: Path, on_bytes: Callable[[int], None]
) -> None:
    """Put a file at `path`, going on where a `.part` beside it ends; it appears only when proven.

    Raises:
        DownloadError: the transfer failed (the part stays, for the next run), or what came is not
            what the hub promised (the part is removed).
    """
    part = path.with_name(path.name + ".part")
    for there in (path, part):
        if there.exists() and is_intact(there, file):
            os.replace(there, path)
            on_bytes(file.size)
            return
    path.parent.mkdir(parents=True, exist_ok=True)
    resumed = _transfer(repository, file, part, on_bytes)
    intact = is_intact(part, file)
    if resumed and not intact:  # the part was the beginning of another version
        part.unlink()
        on_bytes(-file.size)
        _transfer(repository, file, part, on_bytes)
        intact = is_intact(part, file)
    if not intact:
        part.unlink()
        raise DownloadError(
            f"{file.name} of {repository.name} arrived with another checksum than the hub promises;"
            " nothing was kept of it: run the command again"
        )
    os.replace(part, path)


def is_intact(path: Path, file: HubFile) -> bool:
    """Tell whether a local file has the size and the checksum that the hub gave."""
    if path.stat().st_size != file.size:
        return False
    if file.sha256:
        return file_digest(path) == file.sha256
    if file.blob_id:
        return file_digest(path, "sha1", b"blob %d\0" % file.size) == file.blob_id
    return False


def _transfer(
    repository: Repository, file: HubFile, part: Path, on_bytes: Callable[[int], None]
) -> int:
    """Download into `part`, appending; return how many bytes it already had."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    url = hf_hub_url(
        repository.name, file.name, revision=repository.commit, endpoint=repository.endpoint
    )
    with hub_errors(repository.spec, repository.commit), _CountingFile(part, on_bytes) as stream:
        resumed = stream.seek(0, os.SEEK_END)
        if resumed >= file.size:  # finished but wrong, or of another version
            resumed = stream.seek(0)
            stream.truncate()
        on_bytes(resumed)
        http_get(
            url,
            stream,
            resume_size=resumed,
            headers=build_hf_headers(),
            expected_size=file.size,
            displayed_filename=file.name,
        )
    return resumed


class _CountingFile(io.BufferedWriter):
    """A file opened for going on writing, which tells of every block written."""

    def __init__(self, path: Path, on_bytes: Callable[[int], None]) -> None:
        super().__init__(io.FileIO(path, "r+" if path.exists() else "w"))
        self._on_bytes = on_bytes

    def write(self, buffer: bytes, /) -> int:  # type: ignore[override]
        count = super().write(buffer)
        self._on_bytes(count)
        return count


@contextlib.contextmanager
def hub_errors(spec: ModelSpec, revision: str | None) -> Iterator[None]:
    """Turn what the hub, the network and the disk raise into one line that says what to do."""
    from huggingface_hub import errors

    name = spec.huggingface_id
    # requests' or httpx's base class, by the version of huggingface_hub
    transport = cast("type[Exception]", errors.HfHubHTTPError.__mro__[1])
    try:
        yield
    except errors.GatedRepoError as exc:
        raise DownloadError(
            f"{name} is gated: accept its terms at https://huggingface.co/{name}, then log in with "
            "`hf auth login` and run the command again"
        ) from exc
    except errors.RepositoryNotFoundError as exc:
        raise DownloadError(f"the hub has no repository {name}, or it needs a login") from exc
    except errors.RevisionNotFoundError as exc:
        known = f"main, {spec.fp16_revision}" if spec.fp16_revision else "main"
        raise DownloadError(f"{name} has no revision {revision!r}; known: {known}") from exc
    except (transport, OSError) as exc:
        raise stopped(spec, exc) from exc


def stopped(spec: ModelSpec, exc: Exception) -> DownloadError:
    """Return the error of a transfer that can go on; clients' messages may have many lines."""
    name = spec.huggingface_id or spec.modelscope_id
    reason = (str(exc).strip() or type(exc).__name__).splitlines()[0]
    return DownloadError(
        f"the download of {name} stopped: {reason}; run the command again to go on"
    )
