"""Contrastive tuning: a text tower learns from pictures, the image tower frozen.

The second stage of AltCLIP (arXiv 2211.06679), after LiT (arXiv 2111.07991). The pictures are
embedded once, since neither they nor their tower change.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ..text.tokenizers import SentencePieceTokenizer
from .caches import to_pixels
from .contrastive import contrastive_loss, normalise
from .datasets import Record, read_dataset, weigh_languages
from .loop import LoopOptions, Position, run_stage
from .teacher_learning import load_student, make_windows, write_student
from .text_tower import AltClipText, trim_pads


@dataclass(frozen=True, kw_only=True)
class ContrastiveTuning:
    """One run of the stage."""

    vision: Path  # folder of a CLIP vision model with projection (transformers)
    student: Path  # text_encoder folder, such as teacher learning made
    tokenizer: Path  # the student's sentencepiece.bpe.model
    data: Path  # a folder or tar with captions.jsonl (datasets)
    folder: Path  # checkpoints, and the result in text_encoder/
    loop: LoopOptions
    languages: Mapping[str, float] | None = None  # weight of each language's captions; None: alike
    scale: float = 100.0  # the logits' factor: CLIP's at the end of its training


class Pairs(NamedTuple):
    """Pictures and captions of one batch."""

    images: torch.Tensor  # (B, D), the frozen tower's
    ids: torch.Tensor  # (B, T)


class ContrastiveTuningTask:
    """Draw pictures evenly, and for each a caption in a language drawn by weight."""

    def __init__(
        self,
        student: AltClipText,
        images: torch.Tensor,
        captions: Sequence[Mapping[str, str]],
        tokenizer: SentencePieceTokenizer,
        *,
        languages: Mapping[str, float] | None = None,
        scale: float = 100.0,
        seed: int = 0,
    ) -> None:
        """`images` [N, D] are those of the N pictures that `captions` describe.

        Raises:
            InvalidRequest: a picture has no caption in a language that has a weight.
        """
        self.network, self.images, self.captions = student, images, captions
        self.tokenizer, self.languages, self.scale, self.seed = tokenizer, languages, scale, seed
        for row in range(len(captions)):
            self._weights(row)  # refuses one of which no caption would ever be taken

    def _weights(self, row: int) -> list[float]:
        return weigh_languages(self.captions[row], self.languages, f"picture {row}")

    def batch(self, position: Position, size: int) -> Pairs:
        rng = position.rng(self.seed)
        rows = rng.sample(range(len(self.captions)), min(size, len(self.captions)))
        texts = [rng.choices([*self.captions[row].values()], self._weights(row))[0] for row in rows]
        return Pairs(self.images[rows], trim_pads(make_windows(self.tokenizer, texts)))

    def loss(self, network: torch.nn.Module, batch: Pairs) -> dict[str, torch.Tensor]:
        device = next(network.parameters()).device
        pooled = network(batch.ids.to(device)).pooled
        scale = torch.tensor(self.scale, device=device)
        return {"loss": contrastive_loss(batch.images.to(device), pooled, scale)}


@torch.no_grad()
def embed_pictures(vision: Any, records: Sequence[Record]) -> torch.Tensor:
    """Return the embeddings [N, D] of pictures, each cropped to the tower's square.

    Raises:
        FileRefused: a picture cannot be read.
    """
    side = vision.config.image_size
    rows: list[torch.Tensor] = []
    for record in records:
        pixels = to_pixels(record.open(), (side, side)) / 2 + 0.5
        rows.append(vision(normalise(pixels)).image_embeds[0])
    return torch.stack(rows)


def tune_by_contrast(recipe: ContrastiveTuning) -> Path:
    """Run the stage, continuing where it stopped; return the student's text_encoder folder.

    Raises:
        FileRefused, InvalidRequest: the data, the towers or a value cannot be used.
        MissingDependency: accelerate is not installed.
    """
    from transformers import CLIPVisionModelWithProjection

    records = read_dataset(recipe.data)
    vision: Any = CLIPVisionModelWithProjection.from_pretrained(
        recipe.vision, use_safetensors=True, local_files_only=True
    ).train(False)
    student = load_student(recipe.student, vision.config.projection_dim)
    task = ContrastiveTuningTask(
        student,
        embed_pictures(vision, records),
        [record.captions for record in records],
        SentencePieceTokenizer(recipe.tokenizer),
        languages=recipe.languages,
        scale=recipe.scale,
        seed=recipe.loop.seed,
    )
    average = run_stage(task, recipe.loop, recipe.folder)
    average.write_to(dict(student.named_parameters()))
    target = recipe.folder / "text_encoder"
    write_student(student, recipe.student, target)
    return target
