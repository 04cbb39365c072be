"""Prompts to conditioning: parse, tokenize, deal out to windows, encode, weigh.

Each window is start + tokens + end + pads, as in the original code, and is encoded on its own;
windows of one prompt stand side by side. Encoded windows are kept, so a prompt that comes again
costs nothing.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Sequence
from typing import get_args

import torch

from ..errors import InvalidRequest, PromptTooLong, UnknownName, WeightsMismatch
from ..models.specs import EncoderFamily
from ..values import Conditioning, LongPrompt, TokenBatch, Weighting
from .chunks import PromptTokens, split, tokenize_prompt
from .embeddings import EmbeddingSource, EmbeddingTable
from .encoders.tower import TextNetwork
from .languages import language_warning
from .report import TokenReport, describe_loss, lost_span
from .tokenizers import Tokenizer
from .weights import apply_weights, token_weights

MAX_CHUNKS = 64
_WINDOWS_AT_ONCE = 16
_WINDOWS_KEPT = 64


class TextEncoder:
    """A frozen network with its tokenizer; after changing its weights take `without_memory()`.

    `context_length` is the window, special tokens included; `single_pass_length` the longest single
    pass, None where the family has no such way; `languages` are the BCP-47 tags it speaks;
    `embeddings` is where textual inversions come from, None for none.
    """

    def __init__(
        self,
        network: TextNetwork,
        tokenizer: Tokenizer,
        *,
        family: EncoderFamily,
        context_length: int,
        single_pass_length: int | None = None,
        languages: Sequence[str] = (),
        embeddings: EmbeddingSource | None = None,
    ) -> None:
        self.network = network
        self.tokenizer = tokenizer
        self.family: EncoderFamily = family
        self.context_length = context_length
        self.single_pass_length = single_pass_length
        self.languages = tuple(languages)
        self.embeddings = embeddings
        self._table = EmbeddingTable(embeddings, network.word_width) if embeddings else None
        self._kept: OrderedDict[tuple[object, ...], torch.Tensor] = OrderedDict()

    def without_memory(self) -> TextEncoder:
        """Return an encoder of the same parts that remembers no windows of earlier weights."""
        other = copy.copy(self)
        other._kept = OrderedDict()
        return other

    def tokenize(self, prompts: Sequence[str], *, long_prompt: LongPrompt = "chunk") -> TokenBatch:
        """Return ids, mask and weights [B, T]; all prompts get the length of the longest.

        chunk: T is a multiple of `context_length`, shorter prompts get empty windows.
        single: one pass; T is the next such multiple, at most `single_pass_length`.
        truncate: T is `context_length`; what is cut is named in the warnings.

        Raises:
            PromptTooLong: more than 64 windows, or than one single pass takes.
            PromptSyntaxError: a prompt does not parse.
            InvalidRequest: no prompts, not a list of strings, or a way this encoder has not.
        """
        self._check_way(long_prompt)
        read = [self._read(prompt) for prompt in _check_prompts(prompts)]
        windows = [self._windows(prompt, long_prompt) for prompt in read]
        window = self.context_length
        if long_prompt == "single":
            window = self._single_length(max(len(ranges[0]) for ranges in windows))
        chunks = max(len(ranges) for ranges in windows)
        rows = [
            self._row(prompt, ranges, window, chunks)
            for prompt, ranges in zip(read, windows, strict=True)
        ]
        ids, mask, weights = (torch.tensor(column) for column in zip(*rows, strict=True))
        self._check_vocabulary(ids)
        warnings = [self._warn(prompt, long_prompt) for prompt in read]
        return TokenBatch(ids, mask, weights, window, tuple(w for some in warnings for w in some))

    def encode(
        self,
        prompts: Sequence[str],
        *,
        weighting: Weighting = "toward-empty",
        long_prompt: LongPrompt = "chunk",
        clip_skip: int | None = None,
    ) -> Conditioning:
        """Return the states [B, T, D] of prompts, on the network's device and in its dtype.

        Raises:
            InvalidRequest: `clip_skip` is given; and whatever `tokenize` raises.
        """
        if clip_skip is not None:
            raise InvalidRequest(
                f"clip_skip is {clip_skip!r}; {self.family} was trained on one fixed layer of its "
                "text encoder, another gives unrelated pictures; leave clip_skip out"
            )
        if weighting not in get_args(Weighting):
            raise UnknownName("weighting", weighting, get_args(Weighting))
        batch = self.tokenize(prompts, long_prompt=long_prompt)
        count, length = batch.ids.shape
        states = self._encode_windows(batch.ids.reshape(-1, batch.window))
        if weighting != "none" and bool((batch.weights != 1.0).any()):
            empty = self._encode_windows(self._empty_window(batch.window))[0]
            weights = batch.weights.reshape(-1, batch.window)
            states = apply_weights(states, weights, empty, weighting)
        return Conditioning(states.reshape(count, length, -1), batch.mask, batch.warnings)

    def encode_pair(
        self,
        prompts: Sequence[str],
        negatives: Sequence[str] = (),
        *,
        weighting: Weighting = "toward-empty",
        long_prompt: LongPrompt = "chunk",
        clip_skip: int | None = None,
    ) -> tuple[Conditioning, Conditioning]:
        """Encode both sides of guidance at equal length: the shorter gets encoded empty windows.

        `negatives` are none (the empty prompt), one for all, or one for each prompt. The warnings
        of both sides are on the first.
        """
        prompts, negatives = _check_prompts(prompts), list(negatives) or [""]
        if len(negatives) not in (1, len(prompts)):
            raise InvalidRequest(
                f"{len(negatives)} negative prompts for {len(prompts)} prompts; give none, one or "
                "as many"
            )
        both = self.encode(
            [*prompts, *negatives],
            weighting=weighting,
            long_prompt=long_prompt,
            clip_skip=clip_skip,
        )
        assert both.mask is not None
        count, repeats = len(prompts), len(prompts) // len(negatives)
        negative = both.embeddings[count:].repeat_interleave(repeats, dim=0)
        negative_mask = both.mask[count:].repeat_interleave(repeats, dim=0)
        return (
            Conditioning(both.embeddings[:count], both.mask[:count], both.warnings),
            Conditioning(negative, negative_mask),
        )

    def count_tokens(self, text: str, *, long_prompt: LongPrompt = "chunk") -> TokenReport:
        """Measure a prompt; one that does not fit is reported, not refused.

        Raises:
            PromptSyntaxError: the prompt does not parse.
        """
        self._check_way(long_prompt)
        prompt = self._read(text)
        limit = self._capacity(long_prompt)
        windows = split(prompt, limit) if long_prompt == "chunk" else [range(len(prompt))]
        in_one = prompt.cut_before(limit)
        kept = windows[:MAX_CHUNKS][-1].stop if long_prompt == "chunk" else in_one
        lost = lost_span(prompt, kept)
        source = prompt.parsed.source_position
        return TokenReport(
            used=len(prompt),
            limit=limit,
            chunks=len(windows),
            unknown_share=prompt.tokens.ids.count(self.tokenizer.unknown_id) / max(len(prompt), 1),
            lost=((source(lost[0]), len(text)),) if lost else (),
            embeddings=tuple((span.written, span.end - span.start) for span in prompt.embeddings),
        )

    def _read(self, prompt: str) -> PromptTokens:
        return tokenize_prompt(prompt, self.tokenizer, self._table)

    def _check_way(self, long_prompt: LongPrompt) -> None:
        if long_prompt not in get_args(LongPrompt):
            raise UnknownName("long_prompt", long_prompt, get_args(LongPrompt))
        if long_prompt == "single" and self.single_pass_length is None:
            raise InvalidRequest(
                f"long_prompt is 'single', which the {self.family} encoder has not; use 'chunk'"
            )

    def _capacity(self, long_prompt: LongPrompt) -> int:
        """Tokens of one window, without start and end."""
        single = self.single_pass_length if long_prompt == "single" else None
        return (single or self.context_length) - 2

    def _windows(self, prompt: PromptTokens, long_prompt: LongPrompt) -> list[range]:
        capacity = self._capacity(long_prompt)
        if long_prompt == "truncate":
            return [range(min(prompt.cut_before(capacity), len(prompt)))]
        if long_prompt == "single":
            if len(prompt) > capacity:
                raise PromptTooLong(describe_loss(prompt, capacity, "shorten it or use 'chunk'"))
            return [range(len(prompt))]
        windows = split(prompt, capacity)
        if len(windows) > MAX_CHUNKS:
            kept = windows[MAX_CHUNKS].start
            raise PromptTooLong(describe_loss(prompt, kept, "shorten it"))
        return windows

    def _warn(self, prompt: PromptTokens, long_prompt: LongPrompt) -> list[str]:
        warnings: list[str] = []
        if prompt.cuts and long_prompt != "chunk":
            warnings.append(f"BREAK has no effect where long_prompt is {long_prompt!r}")
        capacity = self._capacity(long_prompt)
        if long_prompt == "truncate" and len(prompt) > capacity:
            kept = prompt.cut_before(capacity)
            warnings.append(describe_loss(prompt, kept, "the rest was cut"))
        language = language_warning(prompt.words, self.languages)
        return [*warnings, language] if language else warnings

    def _single_length(self, longest: int) -> int:
        windows = -(-(longest + 2) // self.context_length)
        return min(windows * self.context_length, self._capacity("single") + 2)

    def _row(
        self, prompt: PromptTokens, windows: list[range], window: int, chunks: int
    ) -> tuple[list[int], list[bool], list[float]]:
        """Lay out one prompt: ids, mask and weights of `chunks` windows."""
        ids, mask, weights = list[int](), list[bool](), list[float]()
        all_weights = token_weights(prompt.parsed.spans, prompt.tokens.spans)
        for tokens in [*windows, *[range(0)] * (chunks - len(windows))]:
            chosen = slice(tokens.start, tokens.stop)
            pads = window - len(tokens) - 2
            ids += [self.tokenizer.start_id, *prompt.tokens.ids[chosen], self.tokenizer.end_id]
            ids += [self.tokenizer.pad_id] * pads
            mask += [True] * (len(tokens) + 2) + [False] * pads
            weights += [1.0, *all_weights[chosen], 1.0] + [1.0] * pads
        return ids, mask, weights

    def _empty_window(self, window: int) -> torch.Tensor:
        ids = [self.tokenizer.start_id, self.tokenizer.end_id]
        return torch.tensor([ids + [self.tokenizer.pad_id] * (window - 2)])

    def _check_vocabulary(self, ids: torch.Tensor) -> None:
        largest, rows = int(ids.max()), self.network.vocab_size
        if largest >= rows:
            raise WeightsMismatch(
                f"the tokenizer gives id {largest} and the text encoder knows {rows} words; the "
                "two do not belong together"
            )

    @torch.no_grad()
    def _encode_windows(self, ids: torch.Tensor) -> torch.Tensor:
        """Encode [N, W] to [N, W, D]; windows met before come from memory."""
        place = (self.network.device, self.network.dtype)
        keys = [(*place, *row) for row in ids.tolist()]
        known = {key: self._kept[key] for key in keys if key in self._kept}
        fresh = {key: row for key, row in zip(keys, ids, strict=True) if key not in known}
        rows = list(fresh.values())
        for first in range(0, len(rows), _WINDOWS_AT_ONCE):
            some = torch.stack(rows[first : first + _WINDOWS_AT_ONCE])
            learned = (self._table.vectors,) if self._table and len(self._table.vectors) else ()
            states = self.network(some, some != self.tokenizer.pad_id, *learned)
            for key, state in zip(list(fresh)[first : first + len(some)], states, strict=True):
                known[key] = state.clone()  # a view would keep the whole group alive
        for key in keys:
            self._kept[key] = known[key]
            self._kept.move_to_end(key)
        while len(self._kept) > _WINDOWS_KEPT:
            self._kept.popitem(last=False)
        return torch.stack([known[key] for key in keys])


def _check_prompts(prompts: Sequence[str]) -> list[str]:
    if isinstance(prompts, str) or not prompts:
        raise InvalidRequest(f"prompts is {prompts!r}; give a list of at least one string")
    return list(prompts)
