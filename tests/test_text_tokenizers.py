"""Tokenizers: golden ids, character spans, hostile text, broken files."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny
from multilingual_diffusion.pipeline_core.errors import FileRefused, ModelNotFound
from multilingual_diffusion.pipeline_core.text.tokenizers import open_tokenizer

XLMR = tiny.SHARED / "xlmr_tokenizer" / "sentencepiece.bpe.model"
CHINESE = tiny.SHARED / "chinese_bert_tokenizer" / "chinese_clip_vocab.txt"
PROMPTS = json.loads((Path(__file__).parent / "data" / "text_prompts.json").read_text("utf-8"))
needs_data = pytest.mark.skipif(not XLMR.exists(), reason="reference tokenizers are not here")

BERT_WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "cafe", "photo", "of", "a", "##s", ",", "!"]
BERT_WORDS += ["\u732b", "\u72ac"]


def vocabulary(tmp_path, words=BERT_WORDS):
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(words) + "\n", encoding="utf-8")
    return path


def tokenizer_json(tmp_path):
    """A tokenizer.json as published: adds <s> and </s>, truncates and pads."""
    import tokenizers
    from tokenizers import models, pre_tokenizers, processors

    pieces = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces += [("\u2581", -3.0), ("\u2581cat", -1.0), ("s", -2.0), ("<", -2.0), (">", -2.0)]
    tokenizer = tokenizers.Tokenizer(models.Unigram(pieces, unk_id=3, byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.add_special_tokens(["<s>", "</s>", "<pad>", "<unk>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=4)
    path = tmp_path / "tokenizer.json"
    tokenizer.save(str(path))
    return path


@needs_data
def test_xlmr_golden_ids():
    tokenizer = open_tokenizer(XLMR)
    rows = json.loads((tiny.SHARED / "golden" / "xlmr_golden_ids.json").read_text("utf-8"))
    assert len(rows) == 24
    for row in rows:
        ids = tokenizer.tokenize(row["text"]).ids[:75]
        assert [tokenizer.start_id, *ids, tokenizer.end_id] == row["input_ids"]


@needs_data
def test_chinese_golden_ids():
    tokenizer = open_tokenizer(CHINESE)
    rows = json.loads((tiny.SHARED / "golden" / "chinese_bert_golden_ids.json").read_text("utf-8"))
    assert len(rows) == 7
    for row in rows:
        ids = [tokenizer.start_id, *tokenizer.tokenize(row["text"]).ids[:50], tokenizer.end_id]
        assert ids + [tokenizer.pad_id] * (52 - len(ids)) == row["input_ids"]


@needs_data
def test_wordpiece_equals_transformers_on_hard_text():
    from transformers import BertTokenizer

    ours, theirs = open_tokenizer(CHINESE), BertTokenizer(str(CHINESE))
    texts = [text for _, text in PROMPTS]
    texts += [
        "\u00c9COLE  na\u00efve\u3000\uff21\uff22 \x00\x07ok",
        "\U00020000\u4e00 \u30ab\u30e9\u30fc",
        "x" * 150,
    ]
    for text in texts:
        assert ours.tokenize(text).ids == theirs(text, add_special_tokens=False)["input_ids"], text


@needs_data
def test_spans_are_characters_of_the_text_as_typed():
    # full width, a combining accent, one character that becomes three, wide spaces, a ligature
    text = "\uff28ello e\u0301 \u3351 x\uff0c  \u00a0z ab\ufb01 \u0e01\u0e33\u732b"
    tokens = open_tokenizer(XLMR).tokenize(text)
    found = [text[start:end] for start, end in tokens.spans]
    assert found[:2] == ["\uff28ello", "e\u0301"]
    assert [piece for piece in found if piece.strip()][2:5] == ["\u3351"] * 3
    assert "".join(found[6:]).replace(" ", "") == "x\uff0czab\ufb01\u0e01\u0e33\u732b"


def test_sentencepiece_spans_cover_every_letter():
    tokenizer = open_tokenizer(tiny.sentencepiece_file())
    text = "the little dog  with a hat, un c\u00edrculo"
    tokens = tokenizer.tokenize(text)
    covered = {i for start, end in tokens.spans for i in range(start, end)}
    assert {i for i, letter in enumerate(text) if not letter.isspace()} <= covered
    assert len(tokens.ids) == len(tokens.spans)
    assert not set(tokens.ids) & {0, 1, 2}


def test_unknown_characters_become_the_unknown_id():
    tokenizer = open_tokenizer(tiny.sentencepiece_file())
    assert tokenizer.unknown_id in tokenizer.tokenize("\u16a0").ids


def test_wordpiece_spans(tmp_path):
    text = "  Caf\u00c9s, \u732b\u72ac!"
    tokens = open_tokenizer(vocabulary(tmp_path)).tokenize(text)
    assert [BERT_WORDS[i] for i in tokens.ids] == ["cafe", "##s", ",", "\u732b", "\u72ac", "!"]
    assert [text[a:b] for a, b in tokens.spans] == ["Caf\u00c9", "s", ",", "\u732b", "\u72ac", "!"]


def test_tokenizer_json_gives_bare_pieces(tmp_path):
    tokenizer = open_tokenizer(tokenizer_json(tmp_path))
    tokens = tokenizer.tokenize("cats cat cats cat <s>")
    assert tokens.ids[:6] == [5, 6, 5, 5, 6, 5]  # longer than the file's own truncation
    assert tokenizer.start_id not in tokens.ids  # "<s>" in a prompt is text
    assert tokens.spans[:4] == [(0, 3), (3, 4), (5, 8), (9, 12)]
    special = (tokenizer.start_id, tokenizer.pad_id, tokenizer.end_id, tokenizer.unknown_id)
    assert special == (0, 1, 2, 3)


def readers(tmp_path):
    paths = [tiny.sentencepiece_file(), vocabulary(tmp_path), tokenizer_json(tmp_path)]
    return [open_tokenizer(path) for path in paths]


HOSTILE = [
    "a\ud800b",
    "\udfff",
    "a\x00b",
    "\u202e(abc)\u2066",
    "e" + "\u0301" * 5000,
    "\ufeff\u200b\u200d",
    " \n\t\u3000",
    "<s></s><pad><mask>[CLS][SEP]",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467" * 50,
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_text_gives_spans_inside_it(text, tmp_path):
    for tokenizer in readers(tmp_path):
        tokens = tokenizer.tokenize(text)
        assert len(tokens.ids) == len(tokens.spans)
        assert all(0 <= start <= end <= len(text) for start, end in tokens.spans)
        assert not {tokenizer.start_id, tokenizer.end_id, tokenizer.pad_id} & set(tokens.ids)


@pytest.mark.parametrize("text", ["cat dog " * 25000, "\u732b" * 200000, "a" * 200000])
def test_long_text_takes_linear_time(text, tmp_path):
    for tokenizer in readers(tmp_path)[:2]:
        tokenizer.tokenize("warm")
        started = time.process_time()
        tokenizer.tokenize(text)
        assert time.process_time() - started < 4


@pytest.mark.parametrize("name", ["sentencepiece.bpe.model", "tokenizer.json", "vocab.txt"])
@pytest.mark.parametrize("content", [b"", b"\xff\xfe garbage \x00" * 50, b"{}", b'{"model": 1'])
def test_broken_files_are_refused_at_first_use(name, content, tmp_path):
    path = tmp_path / name
    path.write_bytes(content)
    tokenizer = open_tokenizer(path)
    with pytest.raises(FileRefused, match=name):
        tokenizer.tokenize("a")


def test_truncated_sentencepiece_model_is_refused(tmp_path):
    path = tmp_path / "sentencepiece.bpe.model"
    path.write_bytes(tiny.sentencepiece_file().read_bytes()[:2000])
    with pytest.raises(FileRefused):
        open_tokenizer(path).tokenize("a")


def test_sentencepiece_model_with_other_special_ids_is_refused(tmp_path):
    import sentencepiece

    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a b c d"] * 4),
        model_prefix=str(tmp_path / "other"),
        vocab_size=12,
        hard_vocab_limit=False,
        pad_id=0,
        unk_id=1,
        bos_id=2,
        eos_id=3,
        minloglevel=2,
    )
    with pytest.raises(FileRefused, match="not \\(0, 1, 2\\)"):
        open_tokenizer(tmp_path / "other.model").tokenize("a")


def test_vocabulary_without_special_tokens_is_refused(tmp_path):
    with pytest.raises(FileRefused, match=r"\[SEP\]"):
        open_tokenizer(vocabulary(tmp_path, ["[PAD]", "[UNK]", "[CLS]"])).tokenize("a")


def test_folders_are_read_by_their_best_file(tmp_path):
    tokenizer_json(tmp_path)
    assert open_tokenizer(tmp_path).path.name == "tokenizer.json"
    vocabulary(tmp_path)
    assert open_tokenizer(tmp_path).path.name == "vocab.txt"
    (tmp_path / "sentencepiece.bpe.model").write_bytes(b"read later")
    assert open_tokenizer(tmp_path).path.name == "sentencepiece.bpe.model"


def test_absent_files_are_named(tmp_path):
    with pytest.raises(ModelNotFound, match="no tokenizer"):
        open_tokenizer(tmp_path)
    with pytest.raises(ModelNotFound, match=r"gone\.model"):
        open_tokenizer(tmp_path / "gone.model")
    (tmp_path / "merges.bin").write_bytes(b"x")
    with pytest.raises(FileRefused, match=r"merges\.bin"):
        open_tokenizer(tmp_path / "merges.bin")


def test_protobuf_is_not_needed():
    code = (
        "import sys; sys.modules['google.protobuf'] = None; from pathlib import Path\n"
        "from multilingual_diffusion.pipeline_core.text.tokenizers import open_tokenizer\n"
        "tokens = open_tokenizer(Path(sys.argv[1])).tokenize('a red circle')\n"
        "assert tokens.ids and tokens.spans[-1][1] == 12\n"
        "assert 'transformers' not in sys.modules\n"
    )
    command = [sys.executable, "-c", code, str(tiny.sentencepiece_file())]
    subprocess.run(command, check=True, timeout=60)
