"""Recipes on whole models: tiny folders trained through the command, and read back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import layouts
import pytest
import tiny
import torch
from multilingual_diffusion.pipeline_core import load_pipeline
from multilingual_diffusion.pipeline_core.cli import main
from multilingual_diffusion.pipeline_core.errors import FileRefused, InvalidRequest
from multilingual_diffusion.pipeline_core.text.tokenizers import SentencePieceTokenizer
from multilingual_diffusion.pipeline_core.training.commands_tuning import read_weights
from multilingual_diffusion.pipeline_core.training.contrastive_tuning import (
    ContrastiveTuningTask,
    embed_pictures,
)
from multilingual_diffusion.pipeline_core.training.datasets import CAPTIONS, read_dataset
from multilingual_diffusion.pipeline_core.training.loop import Position
from multilingual_diffusion.pipeline_core.training.teacher_learning import (
    CONTEXT_LENGTH,
    ClipTeacher,
    load_student,
    make_windows,
    read_parallel,
)
from multilingual_diffusion.pipeline_core.training.text_tower import AltClipText
from PIL import Image


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny") / "altdiffusion-m18"
    layouts.write_diffusers_folder(path, model="m18", weights="safetensors")
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    lines = []
    for number in range(3):
        Image.new("RGB", (64, 64), (80 * number, 0, 0)).save(folder / f"{number}.png")
        lines.append({"image": f"{number}.png", "captions": {"en": "a", "de": "b"}})
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / CAPTIONS).write_text(text, encoding="utf-8")
    return folder


def train(recipe: str, model: Path, data: Path, folder: Path, *more: str) -> int:
    options = ["--steps", "2", "--batch-size", "2", "--warmup-steps", "1"]
    arguments = ["--model", str(model), "--data", str(data), "--folder", str(folder)]
    return main(["train", recipe, *arguments, *options, *more])


def changed_tensors(model: Path, result: Path) -> set[str]:
    before = load_pipeline(model, dtype="fp32", parts=("unet",)).parts.unet.network.state_dict()  # type: ignore[union-attr]
    from safetensors.torch import load_file

    after = load_file(result)
    assert after.keys() == before.keys()
    return {name for name in after if not torch.equal(after[name], before[name])}


def test_concept_alignment_of_a_folder_changes_keys_and_values_alone(
    model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("concept-alignment", model, data, tmp_path, "--languages", "en=2", "de") == 0
    result = Path(capsys.readouterr().out.strip())
    changed = changed_tensors(model, result)
    assert changed
    assert all(".attn2.to_k." in name or ".attn2.to_v." in name for name in changed)
    mixed = load_pipeline(model, parts={"unet": tmp_path / "unet", "text_encoder": model})
    assert mixed.parts.unet is not None


def test_dreambooth_and_lora_leave_their_files(
    model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    subject = ("--instance-prompt", "<sks> ring", "--class-data", str(data), "--class-prompt", "r")
    assert train("dreambooth", model, data, tmp_path / "dreambooth", *subject) == 0
    assert train("lora", model, data, tmp_path / "lora", "--rank", "2") == 0
    files = [Path(line) for line in capsys.readouterr().out.split()]
    assert [path.name for path in files] == [
        "diffusion_pytorch_model.safetensors",
        "lora.safetensors",
    ]
    assert all(path.is_file() for path in files)
    assert changed_tensors(model, files[0])


def test_wrong_values_are_one_line(
    model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("guidance", model, data, tmp_path, "--dropped", "1.5") == 2
    assert "dropped is 1.5" in capsys.readouterr().err
    assert train("quality", model, tmp_path, tmp_path) == 4
    assert "captions.jsonl" in capsys.readouterr().err


def test_language_weights_read_as_written() -> None:
    assert read_weights(["en", "zh=2.5"]) == {"en": 1.0, "zh": 2.5}
    assert read_weights(None) is None
    for wrong in ("en=x", "en=-1"):
        with pytest.raises(InvalidRequest, match="languages"):
            read_weights([wrong])


def clip_text() -> torch.nn.Module:
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    torch.manual_seed(0)
    config = CLIPTextConfig(
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        vocab_size=40,
        projection_dim=tiny.WIDTH,
        eos_token_id=2,
        bos_token_id=0,
        pad_token_id=1,
    )
    return CLIPTextModelWithProjection(config)


def test_the_teacher_gives_clips_pooled_vector_and_the_normed_penultimate_end() -> None:
    network = clip_text()
    teacher = ClipTeacher(network)
    ids = torch.tensor([[0, 5, 6, 2, 1, 1], [0, 7, 8, 9, 10, 2]])
    mask = ids.ne(1).long()
    pooled, states = teacher(ids, mask)
    output = network(ids, attention_mask=mask, output_hidden_states=True)
    assert torch.equal(pooled, output.text_embeds)
    tower = getattr(network, "text_model", network)
    expected = tower.final_layer_norm(output.hidden_states[-2])
    assert torch.equal(states["end"], torch.stack([expected[0, 3], expected[1, 5]]))
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


def test_a_student_starts_from_an_xlmr_on_disk(model: Path) -> None:
    student = load_student(model / "text_encoder", tiny.WIDTH)
    reference = tiny.roberta_series(m18=True)
    name = "roberta.encoder.layer.0.attention.self.query.weight"
    assert torch.equal(student.state_dict()[name], reference.state_dict()[name])


def test_windows_are_those_of_the_encoder() -> None:
    tokenizer = SentencePieceTokenizer(tiny.sentencepiece_file())
    rows = make_windows(tokenizer, ["", "a b", "a " * 200])
    assert rows.shape == (3, CONTEXT_LENGTH)
    assert rows[0].tolist() == [0, 2] + [1] * 75
    assert rows[2, -1] == 2
    assert rows[1].ne(1).sum() == 2 + len(tokenizer.tokenize("a b").ids)


def clip_vision() -> Any:
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    torch.manual_seed(0)
    side = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 4}
    return CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            **side, num_hidden_layers=1, image_size=16, patch_size=8, projection_dim=tiny.WIDTH
        )
    )


def test_contrastive_tuning_through_the_command(
    model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Captions tell the pictures apart by language alone, so the loss can only fall by learning."""
    clip_vision().save_pretrained(tmp_path / "vision")
    folder, student = tmp_path / "run", model / "text_encoder"
    places = ["--vision", str(tmp_path / "vision"), "--student", str(student)]
    places += ["--tokenizer", str(tiny.sentencepiece_file()), "--data", str(data)]
    options = ["--steps", "3", "--batch-size", "3", "--learning-rate", "1e-3", "--languages", "en"]
    assert main(["train", "contrastive-tuning", *places, "--folder", str(folder), *options]) == 0
    target = Path(capsys.readouterr().out.strip())
    before, after = (load_student(place, tiny.WIDTH).state_dict() for place in (student, target))
    assert not torch.equal(before["transformation.weight"], after["transformation.weight"])
    # the conditioning's own projection is no part of this loss: only what both read moves
    assert torch.equal(before["transformation_pre.weight"], after["transformation_pre.weight"])


def test_contrastive_tuning_learns_which_caption_is_whose(data: Path) -> None:
    student = AltClipText({**tiny.XLMR, "project_dim": tiny.WIDTH})
    tokenizer = SentencePieceTokenizer(tiny.sentencepiece_file())
    captions = [{"en": text} for text in ("a", "b", "c")]
    images = embed_pictures(clip_vision(), read_dataset(data))
    assert images.shape == (3, tiny.WIDTH)
    task = ContrastiveTuningTask(student, images, captions, tokenizer, scale=10.0)
    optimizer = torch.optim.Adam(student.parameters(), 3e-3)
    losses = []
    for step in range(40):
        loss = task.loss(student, task.batch(Position(step), 3))["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
    with pytest.raises(InvalidRequest, match="picture 0 has captions in en only"):
        ContrastiveTuningTask(student, images, captions, tokenizer, languages={"fr": 1.0})


@pytest.mark.parametrize("line", ['{"de": "x"}', '{"en": 1}', "[]", "no"])
def test_bad_parallel_lines_are_refused(tmp_path: Path, line: str) -> None:
    path = tmp_path / "parallel.jsonl"
    path.write_text('{"en": "a", "de": "b"}\n' + line, encoding="utf-8")
    with pytest.raises(FileRefused, match="line 2"):
        read_parallel(path)
