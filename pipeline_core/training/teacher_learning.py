"""Teacher learning for any CLIP: an XLM-R takes over its text space from parallel sentences.

The teacher reads English, the student another language (or English); pooled vectors and, for the
m18 kind, the sentence's own penultimate states are matched (`distillation`). Then, if wanted, see
`contrastive_tuning`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ..errors import FileRefused, InvalidRequest
from ..models.configs import ALT_M18_TEXT
from ..models.strict_json import read_json
from ..text.tokenizers import SentencePieceTokenizer
from .distillation import student_loss
from .loop import LoopOptions, Position, run_stage
from .text_tower import PAD_ID, AltClipText, trim_pads

CONTEXT_LENGTH = 77
ENGLISH = "en"


@dataclass(frozen=True, kw_only=True)
class TeacherLearning:
    """One run of the stage."""

    teacher: Path  # folder of a CLIP text model with projection, and its tokenizer (transformers)
    student: Path  # folder with config.json and model.safetensors: an XLM-R to start from
    tokenizer: Path  # the student's sentencepiece.bpe.model
    data: Path  # JSONL, a line {"en": "...", "zh": "...", ...}; English is needed in each
    folder: Path  # checkpoints, and the result in text_encoder/
    loop: LoopOptions


class ParallelTexts(NamedTuple):
    """Token ids of the same sentences for both sides."""

    teacher_ids: torch.Tensor  # (B, T)
    teacher_mask: torch.Tensor  # (B, T)
    student_ids: torch.Tensor  # (B, T')


class ClipTeacher(torch.nn.Module):
    """A frozen CLIP text tower: its pooled vectors, and the states SD2 conditions on."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network.train(False).requires_grad_(False)

    def forward(
        self, ids: torch.Tensor, mask: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return pooled [B, D] and the penultimate state of the end, normed as SD2 does."""
        output = self.network(ids, attention_mask=mask, output_hidden_states=True)
        tower = getattr(self.network, "text_model", self.network)
        states = tower.final_layer_norm(output.hidden_states[-2])
        rows = torch.arange(len(ids), device=ids.device)
        return output.text_embeds, {"end": states[rows, mask.sum(1) - 1]}


class TeacherLearningTask:
    """Sentences drawn evenly over the languages of each line."""

    def __init__(
        self,
        student: AltClipText,
        teacher: ClipTeacher,
        teacher_tokenizer: Any,
        tokenizer: SentencePieceTokenizer,
        lines: Sequence[dict[str, str]],
        seed: int = 0,
    ) -> None:
        self.network, self.teacher, self.seed = student, teacher, seed
        self.teacher_tokenizer, self.tokenizer, self.lines = teacher_tokenizer, tokenizer, lines

    def batch(self, position: Position, size: int) -> ParallelTexts:
        rng = position.rng(self.seed)
        chosen = [rng.choice(self.lines) for _ in range(size)]
        english = [line[ENGLISH] for line in chosen]
        others = [line[rng.choice(sorted(line))] for line in chosen]
        encoded = self.teacher_tokenizer(
            english,
            padding=True,
            truncation=True,
            max_length=CONTEXT_LENGTH,
            return_tensors="pt",
        )
        student_ids = trim_pads(make_windows(self.tokenizer, others))
        return ParallelTexts(encoded["input_ids"], encoded["attention_mask"], student_ids)

    def loss(self, network: torch.nn.Module, batch: ParallelTexts) -> dict[str, torch.Tensor]:
        device = next(network.parameters()).device
        self.teacher.to(device)
        with torch.no_grad():
            pooled, taught = self.teacher(
                batch.teacher_ids.to(device), batch.teacher_mask.to(device)
            )
        student_ids = batch.student_ids.to(device)
        output = network(student_ids)
        rows = torch.arange(len(student_ids), device=device)
        ends = output.states[rows, student_ids.ne(PAD_ID).sum(1) - 1]
        return student_loss(pooled.float(), output.pooled.float(), taught, {"end": ends.float()})


def make_windows(tokenizer: SentencePieceTokenizer, texts: Sequence[str]) -> torch.Tensor:
    """Return ids [B, 77]: start, pieces, end, pads; what does not fit is cut."""
    rows: list[list[int]] = []
    for text in texts:
        pieces = tokenizer.tokenize(text).ids[: CONTEXT_LENGTH - 2]
        ids = [tokenizer.start_id, *pieces, tokenizer.end_id]
        rows.append(ids + [tokenizer.pad_id] * (CONTEXT_LENGTH - len(ids)))
    return torch.tensor(rows)


def read_parallel(path: Path) -> list[dict[str, str]]:
    """Read sentences; each line holds one in English and in other languages.

    Raises:
        FileRefused: a line is not such an object.
    """
    lines: list[dict[str, str]] = []
    for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            line = json.loads(text)
            if ENGLISH not in line or not all(isinstance(value, str) for value in line.values()):
                raise ValueError(f"an object of sentences with {ENGLISH!r} is needed")
        except (ValueError, TypeError, AttributeError) as exc:
            raise FileRefused(f"{path}: line {number}: {exc}") from exc
        lines.append(line)
    return lines


def load_student(folder: Path, project_dim: int) -> AltClipText:
    """Build an m18-kind student from a text_encoder folder; what the file lacks starts anew.

    Raises:
        InvalidRequest: the file holds no XLM-R.
    """
    from safetensors.torch import load_file

    config = {**ALT_M18_TEXT, **read_json(folder / "config.json"), "project_dim": project_dim}
    student = AltClipText({key: config[key] for key in ALT_M18_TEXT})
    own = student.state_dict()
    found = {
        name: value
        for name, value in load_file(folder / "model.safetensors").items()
        if name in own and value.shape == own[name].shape
    }
    if not any(name.startswith("roberta.encoder.") for name in found):
        raise InvalidRequest(f"{folder} holds no XLM-R under roberta.*; convert the model first")
    student.load_state_dict({**own, **found})
    return student.float()


def write_student(student: AltClipText, source: Path, target: Path) -> None:
    """Write a text_encoder folder: the weights, and the config of the folder they came from."""
    from safetensors.torch import save_file

    target.mkdir(parents=True, exist_ok=True)
    state = {name: value.cpu().contiguous() for name, value in student.state_dict().items()}
    save_file(state, target / "model.safetensors", metadata={"format": "pt"})
    own = {"has_pre_transformation": True, "project_dim": student.transformation.out_features}
    config = {**read_json(source / "config.json"), **own}
    (target / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")


def learn_from_teacher(recipe: TeacherLearning) -> Path:
    """Run the stage, continuing where it stopped; return the student's text_encoder folder.

    Raises:
        FileRefused, InvalidRequest: the data or the student cannot be read.
        MissingDependency: accelerate is not installed.
    """
    from transformers import AutoTokenizer, CLIPTextModelWithProjection

    lines = read_parallel(recipe.data)
    network: Any = CLIPTextModelWithProjection.from_pretrained(
        recipe.teacher, use_safetensors=True, local_files_only=True
    )
    student = load_student(recipe.student, network.config.projection_dim)
    task = TeacherLearningTask(
        student,
        ClipTeacher(network),
        AutoTokenizer.from_pretrained(recipe.teacher, local_files_only=True),
        SentencePieceTokenizer(recipe.tokenizer),
        lines,
        recipe.loop.seed,
    )
    average = run_stage(task, recipe.loop, recipe.folder)
    average.write_to(dict(student.named_parameters()))
    target = recipe.folder / "text_encoder"
    write_student(student, recipe.student, target)
    return target
