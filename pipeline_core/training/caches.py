"""Latents and text states of a dataset, computed once: one file a picture, resumed if stopped.

Holds the posterior's mean and deviation (a sample is drawn each time, as in the original training)
and the states of each caption. `CachedSource` makes batches of them.
"""

from __future__ import annotations

import functools
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from .buckets import Size, crop_to, nearest_bucket
from .datasets import Record, weigh_languages
from .denoising import DenoisingBatch
from .loop import Position

INDEX, EMPTY = "index.json", "empty.safetensors"

# pixels [1, 3, H, W] in -1..1 to mean and deviation [1, 4, h, w], times the scaling factor
EncodePixels = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
EncodeText = Callable[[str], torch.Tensor]  # a caption to states [T, D]


def cache_dataset(
    records: Sequence[Record],
    folder: Path,
    buckets: Sequence[Size],
    encode_pixels: EncodePixels,
    encode_text: EncodeText,
) -> None:
    """Encode every record into `folder`; those already there are left alone.

    Raises:
        FileRefused: a picture cannot be read.
    """
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    index: list[dict[str, object]] = []
    for number, record in enumerate(records):
        name = f"{number:08d}.safetensors"
        picture = record.open()
        size = nearest_bucket(picture.width, picture.height, buckets)
        index.append({"file": name, "size": size, "languages": sorted(record.captions)})
        if not (folder / name).is_file():
            mean, deviation = encode_pixels(to_pixels(picture, size))
            states = {f"states.{tag}": encode_text(text) for tag, text in record.captions.items()}
            tensors = {"mean": mean[0], "deviation": deviation[0], **states}
            halves = {key: value.half().contiguous() for key, value in tensors.items()}
            save_file(halves, folder / "new.incomplete")
            (folder / "new.incomplete").rename(folder / name)
    save_file({"states": encode_text("").half().contiguous()}, folder / EMPTY)
    (folder / INDEX).write_text(json.dumps(index), encoding="utf-8")


def to_pixels(picture: object, size: Size) -> torch.Tensor:
    """Crop a PIL picture to a bucket: [1, 3, H, W] in -1..1."""
    import numpy as np

    array = np.array(crop_to(picture, size), dtype=np.float32)  # type: ignore[arg-type]
    return torch.from_numpy(array).permute(2, 0, 1)[None] / 127.5 - 1


@dataclass(frozen=True)
class _Entry:
    file: str
    size: Size
    languages: tuple[str, ...]


class CachedSource:
    """Batches of one bucket each; every picture comes once an epoch (but for uneven remainders)."""

    def __init__(
        self,
        folder: Path,
        *,
        languages: Mapping[str, float] | None = None,
        dropped: float = 0.0,
        seed: int = 0,
    ) -> None:
        """`languages` weighs which caption of a picture is taken; None: all alike.

        Raises:
            InvalidRequest: a picture has no caption in a language that has a weight.
        """
        from safetensors.torch import load_file

        items = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        self.entries = [
            _Entry(i["file"], (i["size"][0], i["size"][1]), tuple(i["languages"])) for i in items
        ]
        self.folder, self.languages, self.dropped, self.seed = folder, languages, dropped, seed
        self.empty = load_file(folder / EMPTY)["states"].float()
        for entry in self.entries:
            self._weights(entry)  # refuses one of which no caption would ever be taken

    def _weights(self, entry: _Entry) -> list[float]:
        return weigh_languages(entry.languages, self.languages, entry.file)

    def batch(self, position: Position, size: int) -> DenoisingBatch:
        """Return the batch at a position; its size is smaller where a bucket runs out."""
        per_epoch = len(self._epoch(0, size))
        index = position.step * position.processes + position.process
        rows = self._epoch(index // per_epoch, size)[index % per_epoch]
        rng = position.rng(self.seed)
        latents, states = zip(*(self._read(self.entries[row], rng) for row in rows), strict=True)
        return DenoisingBatch(torch.stack(latents), torch.stack(states))

    @functools.lru_cache(maxsize=2)  # noqa: B019  (a source lives as long as its run)
    def _epoch(self, epoch: int, size: int) -> list[list[int]]:
        """Shuffle within buckets, cut into batches, shuffle these."""
        rng = random.Random(f"{self.seed} epoch {epoch}")
        by_size: dict[Size, list[int]] = {}
        for row, entry in enumerate(self.entries):
            by_size.setdefault(entry.size, []).append(row)
        batches: list[list[int]] = []
        for rows in by_size.values():
            rng.shuffle(rows)
            batches += [rows[start : start + size] for start in range(0, len(rows), size)]
        rng.shuffle(batches)
        return batches

    def _read(self, entry: _Entry, rng: random.Random) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a sample of the latents [4, h, w] and the states [T, D] of one caption."""
        from safetensors import safe_open

        with safe_open(self.folder / entry.file, "pt") as file:
            mean, deviation = file.get_tensor("mean"), file.get_tensor("deviation")
            latents = mean.float() + deviation.float() * torch.randn(mean.shape)
            language = rng.choices(entry.languages, self._weights(entry))[0]
            if rng.random() < self.dropped:
                return latents, self.empty
            return latents, file.get_tensor(f"states.{language}").float()
