"""Pictures with captions in several languages, from folders and tar shards.

A line of `captions.jsonl` is {"image": "a/b.jpg", "captions": {"en": "...", "zh": "..."}}; images
lie beside it, in the folder or in the same tar file.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from ..errors import FileRefused, InvalidRequest, ModelNotFound

if TYPE_CHECKING:
    from PIL import Image

CAPTIONS = "captions.jsonl"


@dataclass(frozen=True)
class Record:
    """One picture: `name` inside the folder or tar `place`, and its captions by language."""

    place: Path
    name: str
    captions: Mapping[str, str]

    def open(self) -> Image.Image:
        """Read the picture as RGB.

        Raises:
            FileRefused: it is not there, or no picture.
        """
        from PIL import Image, ImageOps, UnidentifiedImageError

        try:
            if self.place.is_dir():
                picture = Image.open(self.place / self.name)
            else:
                with tarfile.open(self.place) as shard:
                    member = shard.extractfile(self.name)
                    if member is None:
                        raise KeyError(self.name)
                    picture = Image.open(io.BytesIO(member.read()))
            return ImageOps.exif_transpose(picture).convert("RGB")
        except (OSError, KeyError, tarfile.TarError, UnidentifiedImageError) as exc:
            raise FileRefused(f"{self.place}: {self.name} is no readable picture: {exc}") from exc


def weigh_languages(
    languages: Collection[str], weights: Mapping[str, float] | None, picture: str
) -> list[float]:
    """Return how often each caption of a picture is taken, by its language; None: all alike.

    Raises:
        InvalidRequest: none of its languages has a weight.
    """
    found = [1.0 if weights is None else weights.get(tag, 0.0) for tag in languages]
    if not any(found):
        raise InvalidRequest(
            f"{picture} has captions in {', '.join(languages)} only, and none of them has a "
            f"weight: {dict(weights or {})}"
        )
    return found


def read_dataset(path: Path) -> list[Record]:
    """List the records of a folder with `captions.jsonl`, of a tar shard, or a folder of shards.

    Raises:
        ModelNotFound: there is no `captions.jsonl`.
        FileRefused: a line is no record, or names a file outside.
    """
    if path.is_file():
        return list(_shard_records(path))
    if (path / CAPTIONS).is_file():
        text = (path / CAPTIONS).read_text(encoding="utf-8")
        return list(_records(path, text))
    shards = sorted(path.glob("*.tar")) if path.is_dir() else []
    if not shards:
        raise ModelNotFound(f"{path} has neither {CAPTIONS} nor tar shards that hold one")
    return [record for shard in shards for record in _shard_records(shard)]


def _shard_records(path: Path) -> Iterator[Record]:
    try:
        with tarfile.open(path) as shard:
            member = shard.extractfile(CAPTIONS)
            text = member.read().decode("utf-8") if member else ""
    except (KeyError, tarfile.TarError, UnicodeDecodeError) as exc:
        raise FileRefused(f"{path} is no tar shard with {CAPTIONS}: {exc}") from exc
    yield from _records(path, text)


def _records(place: Path, text: str) -> Iterator[Record]:
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
            name, captions = values["image"], values["captions"]
            outside = PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts
            if outside or not captions or not all(isinstance(v, str) for v in captions.values()):
                raise ValueError("a relative path and at least one caption are needed")
        except (ValueError, KeyError, TypeError, AttributeError) as exc:
            raise FileRefused(f"{place}: line {number} of {CAPTIONS}: {exc}") from exc
        yield Record(place, name, captions)
