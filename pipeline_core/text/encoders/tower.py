"""What the three encoder families share: a BERT-shaped tower from transformers, ids in, states out.

The word table (250 002 rows in XLM-R, 0.5-1 GB) stays on the CPU in the dtype of its file, so a
memory-mapped file is never copied as a whole; only the rows of a prompt travel to the accelerator.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch


class WordTable(torch.nn.Module):
    """A word embedding that `.to(device)`, `.to(dtype)` and their kin leave alone."""

    def __init__(self, weight: torch.nn.Parameter) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Gather the rows of `ids` [B, T] where the table lies: [B, T, D] in the table's dtype."""
        return torch.nn.functional.embedding(ids.to(self.weight.device), self.weight)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> WordTable:
        # Every move and cast of a torch module goes through here, including that of its parents.
        return self


class TextNetwork(torch.nn.Module):
    """Base of the families: `forward(ids, mask, learned=None) -> [B, T, D]` over one tower.

    A family sets `tower`'s parts under the published key names and overrides `forward`. Ids below
    0 are rows of `learned` [N, hidden size], vectors of textual inversions: -1 is row 0.
    """

    @property
    def tower(self) -> Any:
        """The module that holds `embeddings` and `encoder`."""
        raise NotImplementedError

    @property
    def width(self) -> int:
        """Numbers a token of what `forward` returns."""
        raise NotImplementedError

    @property
    def vocab_size(self) -> int:
        """Rows of the word table; every token id lies below."""
        return self.tower.embeddings.word_embeddings.weight.shape[0]

    @property
    def word_width(self) -> int:
        """Numbers a word of the word table."""
        return self.tower.embeddings.word_embeddings.weight.shape[1]

    @property
    def device(self) -> torch.device:
        """Where the network computes; the word table stays on the CPU."""
        return self.tower.embeddings.position_embeddings.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """What the network computes in; the word table keeps the dtype of its file."""
        return self.tower.embeddings.position_embeddings.weight.dtype

    def after_loading(self) -> None:
        """Make the buffers that no file holds; a module built on meta has them on meta still."""
        embeddings = self.tower.embeddings
        positions = embeddings.position_embeddings.weight.shape[0]
        embeddings.position_ids = torch.arange(positions, device=self.device).expand(1, -1)
        embeddings.token_type_ids = torch.zeros_like(embeddings.position_ids)

    def states(
        self,
        ids: torch.Tensor,
        mask: torch.Tensor,
        position_ids: torch.Tensor,
        learned: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Run the tower: ids, mask and positions [B, T] to the last layer's states [B, T, D].

        The tower's parts are called one by one: its own `forward` reads its dtype off the first
        parameter in older versions of transformers, and that is the word table.
        """
        embeddings = self.tower.embeddings
        hidden = embeddings(
            inputs_embeds=self._words(ids, learned),
            position_ids=position_ids.to(self.device),
            token_type_ids=torch.zeros_like(ids, device=self.device),
        )
        blocked = torch.zeros(mask.shape, dtype=self.dtype, device=self.device)
        blocked.masked_fill_(~mask.to(self.device, torch.bool), torch.finfo(self.dtype).min)
        encoder_output = self.tower.encoder(hidden, attention_mask=blocked[:, None, None, :])
        return encoder_output.last_hidden_state

    def _words(self, ids: torch.Tensor, learned: torch.Tensor | None) -> torch.Tensor:
        """Return the vectors of the words [B, T, hidden size], learned ones in their places."""
        table = self.tower.embeddings.word_embeddings
        is_learned = ids < 0
        if learned is None or not bool(is_learned.any()):
            return table(ids).to(self.device, self.dtype)
        words = table(ids.clamp(min=0)).to(self.device, self.dtype)
        rows = learned[-1 - ids[is_learned]].to(words)
        return words.masked_scatter(is_learned[..., None].to(words.device), rows)


def keep_words_on_cpu(embeddings: Any) -> None:
    """Replace the word embedding of a transformers embedding module by a `WordTable`."""
    embeddings.word_embeddings = WordTable(embeddings.word_embeddings.weight)


def known_config(config: Mapping[str, Any], published: Mapping[str, Any]) -> dict[str, Any]:
    """Return the published values, replaced by those of `config`; its unknown keys are dropped."""
    return {key: config.get(key, value) for key, value in published.items()}
