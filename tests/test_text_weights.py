"""Weights of tokens from weights of characters, and the edges of the two ways."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from multilingual_diffusion.pipeline_core.text.syntax import WeightSpan, parse
from multilingual_diffusion.pipeline_core.text.weights import apply_weights, token_weights


@pytest.mark.parametrize(
    "spans,token,weight",
    [
        ([(0, 4, 1.0)], (0, 4), 1.0),
        ([(0, 3, 1.0), (3, 4, 1.5)], (0, 4), 1.0),  # most characters
        ([(0, 1, 1.0), (1, 4, 1.5)], (0, 4), 1.5),
        ([(0, 2, 1.0), (2, 4, 0.5)], (0, 4), 0.5),  # a tie goes to the weight that was typed
        ([(0, 2, 0.8), (2, 4, 1.4)], (0, 4), 1.4),  # or to the stronger of two
        ([(0, 2, 1.5), (2, 3, 1.0), (3, 5, 1.5)], (0, 5), 1.5),  # shares add up
        ([(0, 2, 1.5), (2, 9, 1.0)], (4, 6), 1.0),
        ([(0, 4, 1.5)], (2, 2), 1.0),  # no character, no weight
        ([], (0, 0), 1.0),
    ],
)
def test_a_token_takes_the_weight_of_most_of_its_characters(spans, token, weight):
    assert token_weights([WeightSpan(*span) for span in spans], [token]) == [weight]


@given(st.text(alphabet="ab (:1.5)", max_size=30))
@settings(max_examples=100, deadline=None)
def test_single_characters_have_the_weight_of_their_span(prompt):
    try:
        parsed = parse(prompt)
    except ValueError:
        return
    letters = [(i, i + 1) for i in range(len(parsed.text))]
    found = token_weights(parsed.spans, letters)
    wanted = [s.weight for s in parsed.spans for _ in range(s.start, s.end)]
    assert found == wanted


def test_many_tokens_in_one_span_and_many_spans_in_one_token():
    spans = [WeightSpan(i, i + 1, float(i % 3)) for i in range(3000)]
    assert token_weights(spans, [(0, 3000)]) == [0.0]
    assert len(token_weights([WeightSpan(0, 3000, 1.2)], [(i, i + 1) for i in range(3000)])) == 3000


def test_windows_without_weights_are_the_same_object():
    states = torch.randn(2, 5, 3)
    assert apply_weights(states, torch.ones(2, 5), states[0], "toward-empty") is states


def test_a_window_whose_mean_vanishes_stays_finite():
    states = torch.ones(1, 4, 2)
    weights = torch.tensor([[1.0, -1.0, 1.0, -1.0]])
    found = apply_weights(states, weights, states[0], "mean-restored")
    assert torch.isfinite(found).all()


def test_states_are_not_changed_in_place():
    states = torch.randn(1, 5, 3)
    before = states.clone()
    weights = torch.tensor([[1.0, 1.5, 0.5, 1.0, 1.0]])
    for weighting in ("toward-empty", "mean-restored"):
        assert not torch.equal(apply_weights(states, weights, states[0] * 0, weighting), before)
        assert torch.equal(states, before)
