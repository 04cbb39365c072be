"""Text to token ids with the span of characters each token stands for; files open at first use.

Three readers, one protocol: sentencepiece on `sentencepiece.bpe.model` (no protobuf needed),
`tokenizer.json` through the tokenizers package, BERT WordPiece on `vocab.txt`.
"""

from __future__ import annotations

import functools
import itertools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ..errors import FileRefused, ModelNotFound

MAX_FILE_BYTES = 128 * 2**20  # the published files are 0.1, 5 and 17 MB

_LONE_SURROGATES = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Tokens:
    """The tokens of one text, special tokens left out.

    `spans[i]` is the half-open range of characters of the text that token i stands for, without
    the space before a word. Tokens made of one character share its span.
    """

    ids: list[int]
    spans: list[tuple[int, int]]


class Tokenizer(Protocol):
    """Ids of the special tokens, and `tokenize`; "<s>" typed in a prompt is plain text."""

    @property
    def start_id(self) -> int: ...

    @property
    def end_id(self) -> int: ...

    @property
    def pad_id(self) -> int: ...

    @property
    def unknown_id(self) -> int: ...

    def tokenize(self, text: str) -> Tokens:
        """Return the tokens of a text of any length; lone surrogates read as U+FFFD.

        Raises:
            FileRefused: the file is broken (it is opened by the first call).
        """
        ...


class SentencePieceTokenizer:
    """XLM-R's tokenizer: sentencepiece id + 1, unknown 0 -> 3, as fairseq numbers them.

    `<mask>`, the last row of the word table, is never produced.
    """

    start_id, pad_id, end_id, unknown_id = 0, 1, 2, 3

    def __init__(self, path: Path) -> None:
        self.path = path

    def tokenize(self, text: str) -> Tokens:
        text = replace_lone_surrogates(text)
        ids = [self.unknown_id if i == 0 else i + 1 for i in self._processor.encode(text)]
        pieces = self._processor.encode(text, out_type=str)
        normalized, starts = self._processor.normalize(text, with_offsets=True)
        return Tokens(ids, _piece_spans(text, pieces, starts[: len(normalized)]))

    @functools.cached_property
    def _processor(self) -> Any:
        import sentencepiece

        processor: Any = sentencepiece.SentencePieceProcessor()
        try:
            processor.LoadFromSerializedProto(_read(self.path))
        except (RuntimeError, ValueError) as exc:
            raise FileRefused(f"{self.path} is not a sentencepiece model: {exc}") from exc
        special = (processor.unk_id(), processor.bos_id(), processor.eos_id())
        if special != (0, 1, 2) or processor.PieceToId("<0x00>") != 0:
            raise FileRefused(
                f"{self.path} is no XLM-R tokenizer: <unk>, <s>, </s> have ids {special}, not "
                "(0, 1, 2), or it falls back to bytes"
            )
        return processor


class TokenizerFile:
    """A `tokenizer.json`, for folders that hold nothing else; never truncates, never pads."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def start_id(self) -> int:
        return self._special("<s>", "[CLS]")

    @property
    def end_id(self) -> int:
        return self._special("</s>", "[SEP]")

    @property
    def pad_id(self) -> int:
        return self._special("<pad>", "[PAD]")

    @property
    def unknown_id(self) -> int:
        return self._special("<unk>", "[UNK]")

    def tokenize(self, text: str) -> Tokens:
        encoding = self._tokenizer.encode(replace_lone_surrogates(text), add_special_tokens=False)
        # A unigram file lists "<s>" among its pieces, so typing it would start a sequence anew.
        special = {self.start_id, self.end_id, self.pad_id}
        ids = [self.unknown_id if i in special else i for i in encoding.ids]
        return Tokens(ids, [_without_space(text, *span) for span in encoding.offsets])

    def _special(self, *names: str) -> int:
        for name in names:
            token_id = self._tokenizer.token_to_id(name)
            if token_id is not None:
                return token_id
        raise FileRefused(f"{self.path} has no token {' or '.join(names)}")

    @functools.cached_property
    def _tokenizer(self) -> Any:
        import tokenizers

        try:
            tokenizer = tokenizers.Tokenizer.from_buffer(_read(self.path))
        except Exception as exc:  # the package raises nothing narrower
            raise FileRefused(f"{self.path} is not a tokenizer.json: {exc}") from exc
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.encode_special_tokens = True  # "<s>" typed in a prompt is text
        return tokenizer


class WordPieceTokenizer(TokenizerFile):
    """BERT's tokenizer over `vocab.txt`: lower case, accents stripped, CJK characters apart."""

    @functools.cached_property
    def _tokenizer(self) -> Any:
        import tokenizers
        from tokenizers import models, normalizers, pre_tokenizers

        try:
            lines = _read(self.path).decode("utf-8").split("\n")
        except UnicodeDecodeError as exc:
            raise FileRefused(f"{self.path} is not a vocabulary in UTF-8: {exc}") from exc
        vocabulary = {line.rstrip("\r"): row for row, line in enumerate(lines) if line}
        absent = [name for name in ("[PAD]", "[UNK]", "[CLS]", "[SEP]") if name not in vocabulary]
        if absent:
            raise FileRefused(f"{self.path} is no BERT vocabulary: it lacks {', '.join(absent)}")
        tokenizer: Any = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        return tokenizer


_READERS: dict[str, type[SentencePieceTokenizer] | type[TokenizerFile]] = {
    "sentencepiece.bpe.model": SentencePieceTokenizer,
    "vocab.txt": WordPieceTokenizer,
    "tokenizer.json": TokenizerFile,
}


def open_tokenizer(path: Path) -> Tokenizer:
    """Choose the reader of a tokenizer file, or of a folder by the best file in it.

    Nothing is read yet. Files under other names go by their suffix: .model, .txt, .json.

    Raises:
        ModelNotFound: there is no such file.
        FileRefused: the name says nothing.
    """
    if path.is_dir():
        found = [name for name in _READERS if (path / name).is_file()]
        if not found:
            raise ModelNotFound(f"{path} holds no tokenizer; expected one of {', '.join(_READERS)}")
        return _READERS[found[0]](path / found[0])
    if not path.is_file():
        raise ModelNotFound(f"there is no tokenizer file {path}")
    for name, reader in _READERS.items():
        if path.suffix == Path(name).suffix:
            return reader(path)
    raise FileRefused(f"{path.name} is no tokenizer file; expected one of {', '.join(_READERS)}")


def replace_lone_surrogates(text: str) -> str:
    """Return the text in valid Unicode, of equal length: half a surrogate pair becomes U+FFFD."""
    return _LONE_SURROGATES.sub("\ufffd", text)


def _piece_spans(text: str, pieces: list[str], starts: list[int]) -> list[tuple[int, int]]:
    """Place pieces in the text; `starts` names the source of each normalised character.

    One character may give several normalised ones, so a piece ends where the next *other*
    character starts.
    """
    ends, following, end = [0] * len(starts), len(text), len(text)
    for index in range(len(starts) - 1, -1, -1):
        if starts[index] < following:
            following, end = starts[index], following
        ends[index] = end
    bounds = [0, *itertools.accumulate(len(piece) for piece in pieces)]
    return [
        _without_space(text, starts[first], ends[last - 1])
        for first, last in itertools.pairwise(bounds)
    ]


def _without_space(text: str, start: int, end: int) -> tuple[int, int]:
    """Leave out the spaces before a word, unless there is nothing else."""
    return end - len(text[start:end].lstrip()) if text[start:end].strip() else start, end


def _read(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as exc:
        raise FileRefused(f"{path} cannot be read: {exc}") from exc
    if len(content) > MAX_FILE_BYTES:
        raise FileRefused(f"{path} is larger than any tokenizer ({MAX_FILE_BYTES} bytes)")
    return content
