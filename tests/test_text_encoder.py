"""TextEncoder: windows, weights, pairs, reports, over the tiny networks and a tiny tokenizer."""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path

import pytest
import tiny
import torch
from multilingual_diffusion.pipeline_core.errors import (
    InvalidRequest,
    PromptSyntaxError,
    PromptTooLong,
    UnknownName,
    WeightsMismatch,
)
from multilingual_diffusion.pipeline_core.text.chunks import split, tokenize_prompt
from multilingual_diffusion.pipeline_core.text.encoder import MAX_CHUNKS, TextEncoder
from multilingual_diffusion.pipeline_core.text.encoders import ENCODERS
from multilingual_diffusion.pipeline_core.text.tokenizers import open_tokenizer

PROMPTS = [
    text
    for _, text in json.loads(
        (Path(__file__).parent / "data" / "text_prompts.json").read_text("utf-8")
    )
]
LONG = ", ".join(["a little dog with a hat", "a red circle", "sharp focus"] * 12)


@functools.cache
def reference():
    return tiny.roberta_series(m18=True)


def make_encoder(**changes):
    config = {**tiny.XLMR, "vocab_size": 300, "project_dim": tiny.WIDTH}
    network = ENCODERS["altdiffusion-m18"].build(config)
    network.load_state_dict({key: reference().state_dict()[key] for key in network.state_dict()})
    options = {
        "family": "altdiffusion-m18",
        "context_length": 77,
        "single_pass_length": 512,
        "languages": ("en", "zh"),
        **changes,
    }
    return TextEncoder(network, open_tokenizer(tiny.sentencepiece_file()), **options)


def make_chinese_encoder(tmp_path):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *dict.fromkeys("".join(PROMPTS).lower())]
    (tmp_path / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    config = {**tiny.CHINESE, "vocab_size": len(words)}
    network = ENCODERS["chinese-clip"].build(config)
    network.load_state_dict(tiny.chinese_clip(vocab_size=len(words)).state_dict())
    tokenizer = open_tokenizer(tmp_path)
    return TextEncoder(network, tokenizer, family="chinese-clip", context_length=52)


@torch.no_grad()
def original_states(prompt):
    """The original code: 75 pieces at most, padded to 77, through diffusers' class."""
    ids = [0, *open_tokenizer(tiny.sentencepiece_file()).tokenize(prompt).ids[:75], 2]
    ids = torch.tensor([ids + [1] * (77 - len(ids))])
    return reference()(ids, ids != 1).projection_state


def test_short_prompts_equal_the_original_code():
    encoder = make_encoder()
    short = [prompt for prompt in PROMPTS if encoder.count_tokens(prompt).chunks == 1]
    assert len(short) >= 10
    found = encoder.encode(short).embeddings
    for prompt, states in zip(short, found, strict=True):
        assert (states - original_states(prompt)[0]).abs().max() <= 1e-5


def test_truncated_long_prompts_equal_the_original_code():
    found = make_encoder().encode([LONG], long_prompt="truncate")
    assert (found.embeddings - original_states(LONG)).abs().max() <= 1e-5


def test_ids_are_start_pieces_end_pads():
    encoder = make_encoder()
    batch = encoder.tokenize(["a red circle", ""])
    pieces = encoder.tokenizer.tokenize("a red circle").ids
    row = [0, *pieces, 2]
    assert batch.ids[0].tolist() == row + [1] * (77 - len(row))
    assert batch.ids[1].tolist() == [0, 2] + [1] * 75
    assert torch.equal(batch.mask, batch.ids != 1)
    assert (batch.ids.dtype, batch.mask.dtype) == (torch.int64, torch.bool)
    assert batch.window == 77 and batch.chunks == 1 and not batch.warnings


def test_chunks_have_their_own_start_and_end_and_lose_nothing():
    encoder = make_encoder()
    batch = encoder.tokenize([LONG])
    assert batch.chunks >= 3
    windows = batch.ids.reshape(-1, 77)
    assert (windows[:, 0] == 0).all() and ((windows == 2).sum(1) == 1).all()
    contents = [i for window in windows.tolist() for i in window if i not in (0, 1, 2)]
    assert contents == encoder.tokenizer.tokenize(LONG).ids


def test_chunks_end_after_a_comma_where_one_is_near():
    encoder = make_encoder()
    batch = encoder.tokenize([LONG])
    comma = encoder.tokenizer.tokenize("a,").ids[-1]
    for window in batch.ids.reshape(-1, 77)[:-1].tolist():
        assert window[window.index(2) - 1] == comma


def test_chunks_do_not_cut_words_without_commas():
    encoder = make_encoder()
    words = "circle background princess detailed painting " * 10
    prompt = tokenize_prompt(words, encoder.tokenizer)
    windows = split(prompt, 75)
    assert len(windows) > 2
    for window in windows[1:]:
        assert words[prompt.tokens.spans[window.start][0] - 1] == " "


def test_chunks_of_a_prompt_without_spaces():
    encoder = make_encoder()
    batch = encoder.tokenize(["\u5c0f\u72d7" * 150])
    lengths = (batch.mask.reshape(-1, 77).sum(1) - 2).tolist()
    assert sum(lengths) == len(encoder.tokenizer.tokenize("\u5c0f\u72d7" * 150).ids)
    assert lengths[0] == 75


def test_break_starts_a_window():
    encoder = make_encoder()
    batch = encoder.tokenize(["a red circle BREAK a little dog"])
    assert batch.chunks == 2
    alone = encoder.tokenize(["a red circle", "a little dog"])
    assert torch.equal(batch.ids.reshape(2, 77), alone.ids)
    assert encoder.tokenize(["BREAK a BREAK BREAK"]).chunks == 1  # empty windows are dropped


@pytest.mark.parametrize("way", ["single", "truncate"])
def test_break_is_reported_where_it_has_no_effect(way):
    batch = make_encoder().tokenize(["a BREAK b"], long_prompt=way)
    assert batch.chunks == 1 and "BREAK" in batch.warnings[0]


def test_batches_end_at_equal_length_with_encoded_empty_windows():
    encoder = make_encoder()
    found = encoder.encode(["a red circle", LONG]).embeddings
    empty = encoder.encode([""]).embeddings[0]
    for window in range(1, found.shape[1] // 77):
        assert torch.equal(found[0, window * 77 : (window + 1) * 77], empty)
    assert empty.abs().min() > 0


def test_image_of_a_batch_equals_alone():
    prompts = PROMPTS[:8]
    together = make_encoder().encode(prompts).embeddings
    for index, prompt in enumerate(prompts):
        alone = make_encoder().encode([prompt]).embeddings[0]
        assert (together[index, : len(alone)] - alone).abs().max() <= 1e-5


@pytest.mark.parametrize("way", ["chunk", "single"])
@pytest.mark.parametrize("prompts", [["a red circle"], [LONG]])
@pytest.mark.parametrize("negatives", [[], ["blurry"], [LONG]])
def test_pairs_are_of_equal_length(way, prompts, negatives):
    encoder = make_encoder()
    positive, negative = encoder.encode_pair(prompts, negatives, long_prompt=way)
    assert positive.embeddings.shape == negative.embeddings.shape == (*negative.mask.shape, 32)
    alone = encoder.encode(negatives or [""], long_prompt=way).embeddings
    assert torch.equal(negative.embeddings[:, :77], alone[:, :77]) or way == "single"
    if way == "chunk" and prompts == [LONG] and not negatives:
        assert torch.equal(negative.embeddings[:, 77:154], alone)


def test_single_pairs_are_encoded_at_the_common_length():
    encoder = make_encoder()
    positive, negative = encoder.encode_pair([LONG], ["blurry"], long_prompt="single")
    length = positive.embeddings.shape[1]
    pieces = encoder.tokenizer.tokenize("blurry").ids
    ids = [0, *pieces, 2]
    ids = torch.tensor([ids + [1] * (length - len(ids))])
    with torch.no_grad():
        wanted = reference()(ids, ids != 1).projection_state
    assert length > 77 and (negative.embeddings - wanted).abs().max() <= 1e-5


def test_negatives_are_one_for_all_or_one_for_each():
    encoder = make_encoder()
    positive, negative = encoder.encode_pair(["a", "b", "c"], ["blurry"])
    assert positive.embeddings.shape == negative.embeddings.shape
    assert torch.equal(negative.embeddings[0], negative.embeddings[2])
    _, each = encoder.encode_pair(["a", "b"], ["blurry", "dog"])
    assert torch.equal(each.embeddings[1], encoder.encode(["dog"]).embeddings[0])
    with pytest.raises(InvalidRequest, match="2 negative prompts for 3"):
        encoder.encode_pair(["a", "b", "c"], ["x", "y"])


def test_single_pass_takes_512_tokens_and_not_one_more():
    encoder = make_encoder()
    per_word = len(encoder.tokenizer.tokenize("dog dog").ids) // 2
    fits = "dog " * (510 // per_word)
    batch = encoder.tokenize([fits], long_prompt="single")
    assert batch.ids.shape == (1, 512) and batch.window == 512 and batch.chunks == 1
    with pytest.raises(PromptTooLong, match="510 fit"):
        encoder.tokenize([fits + "dog"], long_prompt="single")
    assert encoder.tokenize(["dog"], long_prompt="single").ids.shape == (1, 77)


def test_families_without_a_single_pass_refuse_it(tmp_path):
    with pytest.raises(InvalidRequest, match="use 'chunk'"):
        make_chinese_encoder(tmp_path).encode(["\u732b"], long_prompt="single")


def test_chinese_windows_are_52_long(tmp_path):
    encoder = make_chinese_encoder(tmp_path)
    found = encoder.encode([PROMPTS[3] * 2])
    assert found.embeddings.shape == (1, 104, tiny.WIDTH)
    report = encoder.count_tokens(PROMPTS[3] * 2)
    assert (report.limit, report.chunks, report.unknown_share) == (50, 2, 0.0)
    assert report.used == len(PROMPTS[3]) * 2


def test_a_language_the_model_does_not_know_is_a_warning():
    found = make_encoder().encode(["ein kleiner Hund mit Hut", "a little dog with a hat"])
    assert len(found.warnings) == 1 and "German" in found.warnings[0]
    assert not make_encoder(languages=()).encode(["ein kleiner Hund mit Hut"]).warnings


def test_truncation_names_the_lost_words():
    text = "a red circle, " * 12 + "BLURRED"
    batch = make_encoder().tokenize([text], long_prompt="truncate")
    assert batch.ids.shape == (1, 77)
    assert "BLURRED" in batch.warnings[0] and "75 fit" in batch.warnings[0]


def test_prompts_beyond_the_last_window_are_refused():
    encoder = make_encoder()
    with pytest.raises(PromptTooLong, match="shorten it"):
        encoder.encode(["dog " * 76 * MAX_CHUNKS])
    report = encoder.count_tokens("dog " * 76 * MAX_CHUNKS)
    assert report.chunks > MAX_CHUNKS and not report.fits


def test_reports():
    encoder = make_encoder()
    report = encoder.count_tokens("a (red:1.3) circle")
    used = len(encoder.tokenizer.tokenize("a red circle").ids)
    assert (report.used, report.limit, report.chunks) == (used, 75, 1)
    assert (report.unknown_share, report.lost, report.fits) == (0.0, (), True)
    assert encoder.count_tokens("").used == 0 and encoder.count_tokens("").chunks == 1
    assert encoder.count_tokens("\u16a0 \u16a1").unknown_share > 0.4
    assert encoder.count_tokens(LONG, long_prompt="single").limit == 510


def test_reports_say_which_characters_of_the_typed_prompt_fall_off():
    encoder = make_encoder()
    typed = "(a red circle, :1.2)" * 20
    report = encoder.count_tokens(typed, long_prompt="truncate")
    (start, end) = report.lost[0]
    kept = encoder.count_tokens(re.sub(r":?1?\.?2?\)|\(", "", typed[:start]))
    assert end == len(typed) and kept.used == 75 and not report.fits
    assert encoder.count_tokens(typed).fits


@pytest.mark.parametrize("weighting", ["toward-empty", "mean-restored", "none"])
def test_weight_one_changes_no_bit(weighting):
    encoder = make_encoder()
    plain = encoder.encode(["a red circle"], weighting="none").embeddings
    for text in ("a red circle", "a (red:1.0) circle"):
        assert torch.equal(encoder.encode([text], weighting=weighting).embeddings, plain)


def test_toward_empty_is_comfyuis_rule():
    encoder = make_encoder()
    plain = encoder.encode(["a red circle"]).embeddings[0]
    empty = encoder.encode([""]).embeddings[0]
    found = encoder.encode(["a (red circle:1.5)"]).embeddings[0]
    rows = (encoder.tokenize(["a (red circle:1.5)"]).weights[0] == 1.5).nonzero().flatten()
    wanted = plain.clone()
    wanted[rows] = empty[rows] + (plain[rows] - empty[rows]) * 1.5
    assert len(rows) >= 2 and torch.allclose(found, wanted, atol=1e-6)
    others = torch.ones(77, dtype=torch.bool)
    others[rows] = False
    assert torch.equal(found[others], plain[others])
    zero = encoder.encode(["a (red circle:0)"]).embeddings[0]
    assert torch.allclose(zero[rows], empty[rows], atol=1e-6)


def test_mean_restored_is_a1111s_rule():
    encoder = make_encoder()
    text = "a (red circle:1.5) BREAK a dog"
    plain = encoder.encode([text], weighting="none").embeddings[0]
    weights = encoder.tokenize([text]).weights[0]
    found = encoder.encode([text], weighting="mean-restored").embeddings[0]
    scaled = plain[:77] * weights[:77, None]
    assert torch.allclose(found[:77], scaled * (plain[:77].mean() / scaled.mean()), atol=1e-5)
    assert torch.equal(found[77:], plain[77:])  # the other window keeps its own mean


SPANS = [
    ("\u4e00\u53ea(\u5c0f\u72d7:1.4)\uff0c\u5e3d\u5b50", "\u5c0f\u72d7"),
    ("\u9752\u3044\uff08\u80cc\u666f\uff1a\uff11\uff0e\uff14\uff09\u306b\u5186", "\u80cc\u666f"),
    (
        "\u0e27\u0e07\u0e01\u0e25\u0e21(\u0e2a\u0e35\u0e41\u0e14\u0e07:1.4)",
        "\u0e2a\u0e35\u0e41\u0e14\u0e07",
    ),
    ("the little (dog:1.4) with a hat", "dog"),
    ("un c\u00edrculo (rojo :1.4)sobre", "rojo "),
]


@pytest.mark.parametrize("text,word", SPANS, ids=["zh", "ja-full-width", "th", "en", "es"])
def test_weights_fall_on_the_tokens_of_the_word(text, word):
    encoder = make_encoder()
    batch = encoder.tokenize([text])
    plain = re.sub(r"[(\uff08]|[:\uff1a][\d.\uff0e]+[)\uff09]", "", text)
    tokens = encoder.tokenizer.tokenize(plain)
    start = plain.index(word)
    for row, (first, last) in enumerate(tokens.spans, start=1):
        inside = len(range(max(first, start), min(last, start + len(word))))
        outside = last - first - inside
        assert batch.ids[0, row] == tokens.ids[row - 1]
        wanted = 1.4 if inside and inside >= outside else 1.0
        assert batch.weights[0, row] == pytest.approx(wanted)
    assert (batch.weights[0] != 1).sum() >= 1
    assert (batch.weights[0, len(tokens.ids) + 1 :] == 1).all()


class CountingNetwork(torch.nn.Module):
    """The real network, counting windows."""

    def __init__(self, network):
        super().__init__()
        self.network, self.windows = network, 0
        self.vocab_size, self.device, self.dtype = network.vocab_size, network.device, network.dtype

    def forward(self, ids, mask):
        self.windows += len(ids)
        return self.network(ids, mask)


def test_prompts_met_before_are_not_encoded_again():
    encoder = make_encoder()
    encoder.network = CountingNetwork(encoder.network)
    first = encoder.encode_pair(["a (red:1.2) circle", "a dog"], ["a dog"])
    assert encoder.network.windows == 3  # circle, dog once, and the empty prompt for the weight
    again = encoder.encode_pair(["a (red:1.2) circle", "a dog"], ["a dog"])
    assert encoder.network.windows == 3
    assert torch.equal(first[0].embeddings, again[0].embeddings)
    encoder.encode([f"dog {number}" for number in range(100)])
    assert len(encoder._kept) <= 64


def test_an_encoder_without_memory_sees_weights_that_changed():
    encoder = make_encoder()
    before = encoder.encode(["a dog"]).embeddings
    with torch.no_grad():
        encoder.network.transformation_pre.weight.mul_(2)
    assert torch.equal(encoder.encode(["a dog"]).embeddings, before)  # from memory
    after = encoder.without_memory().encode(["a dog"]).embeddings
    assert not torch.equal(after, before)
    assert torch.equal(encoder.encode(["a dog"]).embeddings, before)  # which is its own still


def test_half_networks_give_half_states():
    encoder = make_encoder()
    encoder.network.to(torch.bfloat16)
    found = encoder.encode(["a (red:1.2) circle"])
    assert found.embeddings.dtype == torch.bfloat16
    full = make_encoder().encode(["a (red:1.2) circle"]).embeddings
    assert (found.embeddings.float() - full).abs().max() < 0.1


def test_clip_skip_is_refused_with_the_reason():
    encoder = make_encoder()
    with pytest.raises(InvalidRequest, match="one fixed layer"):
        encoder.encode(["a"], clip_skip=2)
    with pytest.raises(InvalidRequest, match="clip_skip is 1"):
        encoder.encode_pair(["a"], clip_skip=1)


def test_bad_requests_name_the_value():
    encoder = make_encoder()
    with pytest.raises(InvalidRequest, match="'a dog'"):
        encoder.encode("a dog")
    with pytest.raises(InvalidRequest, match="at least one"):
        encoder.tokenize([])
    with pytest.raises(InvalidRequest, match="None"):
        encoder.tokenize([None])
    with pytest.raises(UnknownName, match="did you mean 'chunk'"):
        encoder.tokenize(["a"], long_prompt="chunks")
    with pytest.raises(UnknownName, match="toward-empty"):
        encoder.encode(["a"], weighting="comfy")
    with pytest.raises(PromptSyntaxError):
        encoder.encode(["(a"])


def test_a_foreign_tokenizer_is_noticed():
    encoder = make_encoder()
    encoder.network = ENCODERS["altdiffusion-m18"].build({**tiny.XLMR, "vocab_size": 20})
    with pytest.raises(WeightsMismatch, match="knows 20 words"):
        encoder.encode(["a red circle"])


@pytest.mark.parametrize(
    "text", ["a\ud800b", "\x00", "\u202ea\u2066", "e" + "\u0301" * 3000, "\ufeff"]
)
def test_hostile_text_is_encoded(text):
    found = make_encoder().encode([text])
    assert torch.isfinite(found.embeddings).all()


def test_a_million_characters_are_measured_and_refused():
    encoder = make_encoder()
    text = "a red circle, " * 71429
    with pytest.raises(PromptTooLong, match="tokens and"):
        encoder.encode([text])
    assert encoder.count_tokens(text[:100_000]).chunks > MAX_CHUNKS
