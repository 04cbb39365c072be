"""The two text stages of `nano`: a CLIP in English, then its student in 18 languages.

Teacher: contrast between pictures and captions, and a loss that holds three states to what the
caption claims (`claims`). Student: see `distillation`; held to the claims through the teacher's
frozen reader. It starts from the teacher, since nano has no pretrained XLM-R.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

import torch

from ..contrastive import Clip, contrastive_loss, normalise
from ..distillation import student_loss
from ..loop import Position
from ..text_tower import AltClipText, trim_pads
from ..world.captions import Caption, caption, word
from ..world.drawing import draw
from ..world.mixing import caption_claiming
from ..world.palette import COLOURS
from ..world.scene import (
    SHAPES,
    ClaimedThing,
    Claims,
    Scene,
    random_hazard_scene,
    random_scene,
)
from .claims import ClaimReader, carriers, claim_classes
from .configs import VISION
from .variation import describe
from .vocabulary import Windows

HAZARD_SHARE = 0.05  # of the scenes; the sign has a word, and the checker must know it
EMPTY_SHARE = 0.02  # of the sentences: the prompt without words must be known too
WORD_SHARE = 0.04  # of the sentences: a colour or a shape alone


def text_scene(rng: random.Random) -> Scene:
    """Draw a training scene, now and then the hazard sign."""
    return random_hazard_scene(rng) if rng.random() < HAZARD_SHARE else random_scene(rng)


def lengths_of(ids: torch.Tensor) -> torch.Tensor:
    """Return the number of tokens [B] that are no pads."""
    return ids.ne(1).sum(1)


class TeacherBatch(NamedTuple):
    """Pictures and English captions of one set of scenes."""

    pixels: torch.Tensor  # (B, 3, 64, 64), normalised
    ids: torch.Tensor  # (B, T)
    classes: torch.Tensor  # (B, slots)


class TeacherNetwork(torch.nn.Module):
    """The CLIP, and the reader that holds its text states to the claims."""

    def __init__(self, clip: Clip, reader: ClaimReader) -> None:
        super().__init__()
        self.clip, self.reader = clip, reader

    def forward(self, batch: TeacherBatch) -> dict[str, torch.Tensor]:
        images, text, scale = self.clip(batch.pixels, batch.ids)
        contrast = contrastive_loss(images, text.pooled, scale)
        carried = carriers(text.states, lengths_of(batch.ids))
        claims = self.reader.loss(carried, batch.classes)
        right = self.reader.right(carried, batch.classes).float().mean()
        return {"loss": contrast + claims, "contrast": contrast, "claims": claims, "right": right}


class TeacherTask:
    """Stage `teacher` on the small world."""

    def __init__(self, network: TeacherNetwork, windows: Windows, seed: int = 0) -> None:
        self.network, self.windows, self.seed = network, windows, seed

    def batch(self, position: Position, size: int) -> TeacherBatch:
        rng = position.rng(self.seed)
        scenes = [text_scene(rng) for _ in range(size)]
        captions = [self._caption(scene, rng) for scene in scenes]
        side = VISION["image_size"]
        pixels = draw(scenes, [rng.getrandbits(63) for _ in scenes], (side, side))
        ids = trim_pads(self.windows([item.text for item in captions]))
        return TeacherBatch(
            normalise(pixels), ids, claim_classes([item.claims for item in captions])
        )

    def _caption(self, scene: Scene, rng: random.Random) -> Caption:
        kind = rng.random()
        if kind < EMPTY_SHARE:
            return Caption("", "en", Claims(()), "")
        if kind < EMPTY_SHARE + WORD_SHARE:
            return bare_word("en", rng)[1]
        return caption(scene, "en", rng)

    def loss(self, network: torch.nn.Module, batch: TeacherBatch) -> dict[str, torch.Tensor]:
        return network(batch)


class ParallelBatch(NamedTuple):
    """One sentence in English and in another language, and what both claim."""

    teacher_ids: torch.Tensor  # (B, T)
    student_ids: torch.Tensor  # (B, T')
    classes: torch.Tensor  # (B, slots)


class StudentTask:
    """Stage `teacher-learning` on parallel captions of the small world."""

    def __init__(
        self,
        student: AltClipText,
        teacher: AltClipText,
        reader: ClaimReader,
        windows: Windows,
        languages: Sequence[str],
        seed: int = 0,
    ) -> None:
        self.network, self.windows = student, windows
        self.teacher = teacher.train(False).requires_grad_(False)
        self.reader = reader.train(False).requires_grad_(False)
        self.languages, self.seed = tuple(languages), seed

    def batch(self, position: Position, size: int) -> ParallelBatch:
        rng = position.rng(self.seed)
        pairs = [self._pair(rng) for _ in range(size)]
        return ParallelBatch(
            trim_pads(self.windows([english for english, _ in pairs])),
            trim_pads(self.windows([other.text for _, other in pairs])),
            claim_classes([other.claims for _, other in pairs]),
        )

    def _pair(self, rng: random.Random) -> tuple[str, Caption]:
        """Say one thing in English and in another language."""
        language, kind = rng.choice(self.languages), rng.random()
        if kind < EMPTY_SHARE:
            return "", Caption("", language, Claims(()), "")
        if kind < EMPTY_SHARE + WORD_SHARE:
            return bare_word(language, rng)
        scene = text_scene(rng)
        other = describe(scene, language, self.languages, rng)
        return caption_claiming(scene, "en", other.claims, rng).text, other

    def loss(self, network: torch.nn.Module, batch: ParallelBatch) -> dict[str, torch.Tensor]:
        with torch.no_grad():
            teacher = self.teacher(batch.teacher_ids)
        student = network(batch.student_ids)
        taught = carriers(teacher.states.float(), lengths_of(batch.teacher_ids))
        learned = carriers(student.states.float(), lengths_of(batch.student_ids))
        numbers = student_loss(teacher.pooled.float(), student.pooled.float(), taught, learned)
        claims = self.reader.loss(learned, batch.classes)
        right = self.reader.right(learned, batch.classes).float().mean()
        return {**numbers, "loss": numbers["loss"] + claims, "claims": claims, "right": right}


def bare_word(language: str, rng: random.Random) -> tuple[str, Caption]:
    """Name one colour or shape, as negative prompts do, in English and in another language."""
    name = rng.choice((*COLOURS, *SHAPES))
    thing = ClaimedThing(None, name) if name in COLOURS else ClaimedThing(name, None)
    return word("en", name), Caption(word(language, name), language, Claims((thing,)), "word")
