"""A text encoder that the caller wrote, as in the hand-written example of the m9 model card.

`XLMRobertaTokenizer` stands in for transformers' class of that name, which cannot read the
published folders without protobuf.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ..models.specs import ModelSpec
from ..text.encoder import TextEncoder
from ..text.encoders import TextNetwork
from ..text.tokenizers import Tokenizer, Tokens, open_tokenizer
from .places import find_folder


class XLMRobertaTokenizer:
    """The tokenizer of a folder, or of its `tokenizer` sub-folder."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.model_max_length = 77

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        subfolder: str = "",
        use_auth_token: bool | str | None = None,
        cache_dir: str | Path | None = None,
    ) -> XLMRobertaTokenizer:
        """Open the tokenizer of a folder of this machine; tokens and caches are of hubs.

        Raises:
            ModelNotFound: there is none.
        """
        folder = find_folder(name_or_path) / subfolder
        inner = folder / "tokenizer"
        return cls(open_tokenizer(inner if inner.is_dir() else folder))

    @property
    def bos_token_id(self) -> int:
        return self._tokenizer.start_id

    @property
    def eos_token_id(self) -> int:
        return self._tokenizer.end_id

    @property
    def pad_token_id(self) -> int:
        return self._tokenizer.pad_id

    @property
    def unk_token_id(self) -> int:
        return self._tokenizer.unknown_id

    def __call__(self, text: str | Sequence[str]) -> dict[str, torch.Tensor]:
        """Return `input_ids` and `attention_mask` [B, model_max_length], cut and padded."""
        texts = [text] if isinstance(text, str) else text
        rows = [self._row(one) for one in texts]
        ids = torch.tensor(rows)
        return {"input_ids": ids, "attention_mask": (ids != self.pad_token_id).long()}

    def _row(self, text: str) -> list[int]:
        pieces = self._tokenizer.tokenize(text).ids[: self.model_max_length - 2]
        row = [self.bos_token_id, *pieces, self.eos_token_id]
        return row + [self.pad_token_id] * (self.model_max_length - len(row))

    # The tokenizer protocol of our text room, so that prompt weights and windows work as ever.
    start_id = bos_token_id
    end_id = eos_token_id
    pad_id = pad_token_id
    unknown_id = unk_token_id

    def tokenize(self, text: str) -> Tokens:
        """Return the tokens of a text with their spans."""
        return self._tokenizer.tokenize(text)


class OwnNetwork(TextNetwork):
    """The caller's module as one of ours: its call takes ids only and returns the states first."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module

    @property
    def device(self) -> torch.device:
        return next(self.module.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.module.parameters()).dtype

    @property
    def vocab_size(self) -> int:
        embeddings: Any = self.module
        return embeddings.get_input_embeddings().weight.shape[0]

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return the states [B, T, D]; the module makes its own mask from the pads."""
        return self.module(ids.to(self.device))[0]


def own_text_encoder(
    tokenizer: XLMRobertaTokenizer, module: torch.nn.Module, spec: ModelSpec
) -> TextEncoder:
    """Return a text encoder around the caller's module."""
    return TextEncoder(
        OwnNetwork(module),
        tokenizer,
        family=spec.encoder,
        context_length=tokenizer.model_max_length,
        single_pass_length=spec.single_pass_length,
        languages=spec.languages,
    )
