"""Textual inversion: files, words of prompts, windows, and states equal to a longer word table."""

from __future__ import annotations

import copy
import functools
import re
from pathlib import Path

import pytest
import tiny
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from multilingual_diffusion.pipeline_core.adapters.embedding_files import (
    EmbeddingFiles,
    read_embeddings,
)
from multilingual_diffusion.pipeline_core.adapters.folders import AdapterFolders
from multilingual_diffusion.pipeline_core.errors import (
    FileRefused,
    InvalidRequest,
    ModelNotFound,
    PipelineError,
    PromptTooLong,
    WeightsMismatch,
)
from multilingual_diffusion.pipeline_core.text.embeddings import find_mentions
from multilingual_diffusion.pipeline_core.text.encoder import TextEncoder
from multilingual_diffusion.pipeline_core.text.encoders import ENCODERS
from multilingual_diffusion.pipeline_core.text.tokenizers import open_tokenizer
from safetensors.torch import save_file

FAMILIES = ("altdiffusion", "altdiffusion-m18", "chinese-clip")
VOCABULARY = 300


def vectors(count: int, width: int = tiny.WIDTH, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_file({"emb_params": vectors(4)}, tmp_path / "cat.safetensors")
    save_file({"<dog-toy>": vectors(1, seed=1)[0]}, tmp_path / "learned_embeds.safetensors")
    save_file({"<a>": vectors(1, seed=2), "<b>": vectors(2, seed=3)}, tmp_path / "two.safetensors")
    save_file({"emb_params": vectors(2, 768)}, tmp_path / "clip.safetensors")
    save_file({"clip_l": vectors(1, 768), "clip_g": vectors(1, 1280)}, tmp_path / "xl.safetensors")
    (tmp_path / "styles").mkdir()
    save_file({"emb_params": vectors(30, seed=4)}, tmp_path / "styles" / "ink(v2).safetensors")
    save_file({"emb_params": vectors(76, seed=5)}, tmp_path / "huge.safetensors")
    return tmp_path


def files(folder: Path, **options) -> EmbeddingFiles:
    return EmbeddingFiles(AdapterFolders("embeddings", (folder,)), **options)


@functools.cache
def reference(family: str):
    if family == "chinese-clip":
        return tiny.chinese_clip(vocab_size=VOCABULARY)
    return tiny.roberta_series(m18=family == "altdiffusion-m18", vocab_size=VOCABULARY)


def make_network(family: str):
    sizes = tiny.CHINESE if family == "chinese-clip" else {**tiny.XLMR, "project_dim": 0}
    width = tiny.PROJECT if family == "altdiffusion" else tiny.WIDTH
    config = {**sizes, "vocab_size": VOCABULARY}
    if family != "chinese-clip":
        config["project_dim"] = width
    network = ENCODERS[family].build(config)
    state = reference(family).state_dict()
    network.load_state_dict({key: state[key] for key in network.state_dict()})
    return network


def make_encoder(source, family: str = "altdiffusion-m18", **changes) -> TextEncoder:
    options = {"context_length": 77, "single_pass_length": 512, "languages": ("en",), **changes}
    return TextEncoder(
        make_network(family), open_tokenizer(tiny.sentencepiece_file()), family=family,
        embeddings=source, **options,
    )  # fmt: skip


def states_with_longer_table(family: str, ids: torch.Tensor, learned: torch.Tensor):
    """Return what transformers gives where the vectors are words of their own, diffusers' way."""
    module = copy.deepcopy(reference(family))
    tower = module if family == "chinese-clip" else module.roberta
    table = tower.get_input_embeddings().weight
    longer = torch.nn.Embedding.from_pretrained(torch.cat([table, learned]).detach())
    tower.embeddings.word_embeddings = longer
    ids = torch.where(ids < 0, VOCABULARY - 1 - ids, ids)
    with torch.no_grad():
        mask = (ids != 1).long()
        if family == "chinese-clip":
            return module(ids, mask).last_hidden_state
        return module(ids, mask).projection_state


@pytest.mark.parametrize("family", FAMILIES)
def test_states_equal_transformers_with_a_longer_word_table(folder, family):
    encoder = make_encoder(files(folder), family)
    prompts = ["a photo of embedding:cat, red", "<dog-toy>", "a dog and a cat"]
    batch = encoder.tokenize(prompts)
    row = batch.ids[0].tolist()
    assert row.index(-1) > 2 and row[row.index(-1) :][:4] == [-1, -2, -3, -4]
    assert (batch.ids[1] == -5).sum() == 1 and bool((batch.ids[2] >= 0).all())
    found = encoder.encode(prompts).embeddings
    learned = torch.cat([vectors(4), vectors(1, seed=1)])
    wanted = states_with_longer_table(family, batch.ids, learned)
    assert (found - wanted).abs().max() <= 1e-5
    assert (found - states_with_longer_table(family, batch.ids, learned.flip(0))).abs().max() > 1e-2


def test_text_around_is_tokenized_on_its_own_and_counted(folder):
    encoder = make_encoder(files(folder))
    plain = encoder.tokenizer.tokenize
    batch = encoder.tokenize(["a dog embedding:cat , red"])
    ids = [0, *plain("a dog ").ids, -1, -2, -3, -4, *plain(", red").ids, 2]
    assert batch.ids[0].tolist() == ids + [1] * (77 - len(ids))
    assert batch.mask[0].sum() == len(ids)
    report = encoder.count_tokens("a dog embedding:cat , red")
    assert report.used == len(ids) - 2 and report.embeddings == (("embedding:cat", 4),)
    assert encoder.count_tokens("a dog").embeddings == ()


def test_weights_act_on_every_vector(folder):
    encoder = make_encoder(files(folder))
    for prompt in ("a (embedding:cat:1.3) dog", "a (<dog-toy> embedding:cat:1.3)"):
        batch = encoder.tokenize([prompt])
        assert bool((batch.weights[batch.ids < 0] == 1.3).all()) and batch.weights.min() == 1
    heavy, plain = (encoder.encode([text]).embeddings[0]
                    for text in ("a (embedding:cat:1.5)", "a embedding:cat"))  # fmt: skip
    empty = encoder.encode([""]).embeddings[0]
    row = int((encoder.tokenize(["a embedding:cat"]).ids[0] == -1).nonzero())
    wanted = empty[row] + 1.5 * (plain[row] - empty[row])
    assert torch.allclose(heavy[row], wanted, atol=1e-5)


@pytest.mark.parametrize(
    ("prompt", "written"),
    [
        ("embedding:cat", ["embedding:cat"]),
        ("embedding:cat.safetensors", ["embedding:cat.safetensors"]),
        ("a embedding:cat,embedding:cat. b", ["embedding:cat"] * 2),
        ("\u5c0f\u72d7embedding:cat\uff0c\u7ea2", ["embedding:cat"]),
        ("embedding\uff1acat\u3002", ["embedding\uff1acat"]),
        ("embedding:styles/ink(v2)!", ["embedding:styles/ink(v2)"]),
        ("<dog-toy> <a><b> <cat>", ["<dog-toy>", "<a>", "<b>", "<cat>"]),
        ("<unknown> <3 a<b", []),
        ("embedding: cat", []),
        ("myembedding:cat", []),
        ("cat dog-toy", []),
    ],
)
def test_what_stands_for_vectors(folder, prompt, written):
    assert [prompt[m.start : m.end] for m in find_mentions(prompt, files(folder))] == written
    assert find_mentions(prompt, None) == []


def test_escaped_brackets_are_part_of_a_name(folder):
    report = make_encoder(files(folder)).count_tokens("a \\(dog\\) embedding:styles/ink\\(v2\\)")
    assert report.embeddings == (("embedding:styles/ink(v2)", 30),)


def test_no_cut_takes_an_embedding_apart(folder):
    encoder = make_encoder(files(folder))
    prompt = ", ".join(["a dog", "embedding:styles/ink(v2)"] * 5).replace("(", "\\(")
    prompt = prompt.replace(")", "\\)")
    batch = encoder.tokenize([prompt])
    ids = [-1 - row for row in range(30)]
    runs = [re.findall(r"(?:-\d+ )+", " ".join(map(str, window)) + " ")
            for window in batch.ids.reshape(-1, 77).tolist()]  # fmt: skip
    found = [run for window in runs for run in window]
    assert found == [" ".join(map(str, ids)) + " "] * 5 and batch.chunks == 3
    long = encoder.tokenize([prompt], long_prompt="single")
    assert (long.ids < 0).sum() == 150 and long.chunks == 1


def test_truncation_leaves_whole_embeddings(folder):
    encoder = make_encoder(files(folder))
    one = "embedding:styles/ink\\(v2\\)"
    prompt = f"a {one} {one} {one} b"
    cut = encoder.tokenize([prompt], long_prompt="truncate")
    assert (cut.ids < 0).sum() == 60 and "the rest was cut" in cut.warnings[0]
    ((start, end),) = encoder.count_tokens(prompt, long_prompt="truncate").lost
    assert prompt[start:end] == f"{one} b"


def test_more_vectors_than_a_window_takes(folder):
    encoder = make_encoder(files(folder))
    with pytest.raises(PromptTooLong, match="embedding:huge has 76 vectors and a window takes 75"):
        encoder.tokenize(["a embedding:huge"])
    assert encoder.tokenize(["a embedding:huge"], long_prompt="single").ids.shape == (1, 154)


def test_another_encoders_vectors_are_refused_with_the_reason(folder):
    encoder = make_encoder(files(folder))
    with pytest.raises(WeightsMismatch, match=r"768 numbers a vector \(768: CLIP of .* takes 32"):
        encoder.encode(["embedding:clip"])
    with pytest.raises(FileRefused, match="two CLIPs of SDXL"):
        encoder.encode(["embedding:xl"])
    with pytest.raises(ModelNotFound, match=r"no embedding 'kat' .* did you mean 'cat'"):
        encoder.encode(["embedding:kat"])
    with pytest.raises(FileRefused, match="several embeddings; write one of <a>, <b>"):
        encoder.encode(["embedding:two"])
    for hostile in ("embedding:../secret", "embedding:/etc/passwd"):
        with pytest.raises((InvalidRequest, ModelNotFound)):
            encoder.encode([hostile])


def test_a_file_that_changes_is_read_anew(folder):
    encoder = make_encoder(files(folder))
    first = encoder.encode(["embedding:cat"]).embeddings
    save_file({"emb_params": vectors(4, seed=9)}, folder / "cat.safetensors")
    second = encoder.encode(["embedding:cat"]).embeddings
    save_file({"emb_params": vectors(4)}, folder / "cat.safetensors")
    assert not torch.allclose(first, second, atol=1e-3)
    assert torch.equal(encoder.encode(["embedding:cat"]).embeddings, first)


def test_words_that_were_added_by_hand(folder, tmp_path):
    source = files(folder / "styles")
    source.add(folder / "cat.safetensors")  # A1111's way: the file's name is the word
    source.add(folder / "learned_embeds.safetensors", word="sks")
    found = find_mentions("a cat, sks scat embedding:cat", source)
    assert [(m.start, m.end) for m in found] == [(2, 5), (7, 10), (16, 29)]
    assert torch.equal(found[1].vectors, vectors(1, seed=1))
    for word in ("two words", ""):
        with pytest.raises(InvalidRequest, match="give one word"):
            source.add(folder / "cat.safetensors", word=word)
    with pytest.raises(InvalidRequest, match="which holds <a>, <b>"):
        source.add(folder / "two.safetensors", word="x")


def test_pickles_only_where_allowed(folder):
    torch.save({"<old>": vectors(2)}, folder / "learned.bin")
    a1111 = {
        "string_to_token": {"*": 265},
        "string_to_param": {"*": torch.nn.Parameter(vectors(3))},
        "name": "old", "step": 500, "sd_checkpoint": None, "sd_checkpoint_name": None,
    }  # fmt: skip
    torch.save(a1111, folder / "a1111.pt")
    with pytest.raises(FileRefused, match="pickle, which can carry code"):
        files(folder).find("a1111")
    assert [m.end for m in find_mentions("<old>", files(folder))] == []
    allowed = files(folder, allow_pickle=True)
    assert torch.equal(allowed.find("a1111"), vectors(3))
    assert torch.equal(allowed.find("learned"), vectors(2))
    assert len(find_mentions("<old>", allowed)) == 1


def test_the_language_of_a_name_is_none(folder):
    encoder = make_encoder(files(folder), languages=("zh",))
    prompt = "\u4e00\u53ea\u5c0f\u72d7 embedding:learned_embeds \u5728\u8349\u5730\u4e0a"
    assert encoder.tokenize([prompt]).warnings == ()


def test_what_is_no_textual_inversion_is_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    for tensors, words in (
        ({"emb_params": torch.ones(2, 3, 4)}, r"F32 \[2, 3, 4\], no vectors"),
        ({"emb_params": torch.ones(2, 3, dtype=torch.int64)}, r"I64 \[2, 3\], no vectors"),
        ({"emb_params": torch.tensor(1.0)}, r"F32 \[\], no vectors"),
        ({"emb_params": torch.ones(511, 4)}, "511 vectors; 510 are allowed"),
        ({"emb_params": torch.full((1, 4), float("nan"))}, "NaN or infinity"),
        ({}, "holds no vectors"),
    ):
        save_file(tensors, path)
        with pytest.raises(FileRefused, match=words):
            read_embeddings(path)
    path.write_bytes(b"<html>")
    with pytest.raises(FileRefused, match="web page"):
        read_embeddings(path)


TEXT = st.lists(
    st.sampled_from([
        "embedding:cat", "<dog-toy>", "embedding:styles/ink\\(v2\\)", " BREAK ", ", ", " ", "a dog",
        "(", ")", ":1.2)", "\u72d7", "<", ">", "embedding:", ".", "embedding:absent",
    ]),
    max_size=40,
).map("".join)  # fmt: skip


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(TEXT)
def test_any_prompt_gives_windows_or_one_of_our_errors(folder, prompt):
    encoder = make_encoder_once(str(folder))
    try:
        batch = encoder.tokenize([prompt])
    except PipelineError as error:
        assert "\n" not in str(error)
        return
    report = encoder.count_tokens(prompt)
    assert batch.ids.shape == batch.weights.shape == (1, 77 * report.chunks)
    assert (batch.ids < 0).sum() == sum(count for _, count in report.embeddings)


@functools.cache
def make_encoder_once(folder: str) -> TextEncoder:
    return make_encoder(files(Path(folder)))
