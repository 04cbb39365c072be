"""Prompt syntax: what each form means, where its errors point, and that nothing makes it slow."""

from __future__ import annotations

import itertools
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from multilingual_diffusion.pipeline_core.errors import InvalidRequest, PromptSyntaxError
from multilingual_diffusion.pipeline_core.text.syntax import MAX_DEPTH, parse

LESS = 1 / 1.1


def weighed(prompt):
    parsed = parse(prompt)
    return [(parsed.text[s.start : s.end], pytest.approx(s.weight)) for s in parsed.spans]


@pytest.mark.parametrize(
    "prompt,spans",
    [
        ("", []),
        ("a red car", [("a red car", 1)]),
        ("a (red:1.2) car", [("a ", 1), ("red", 1.2), (" car", 1)]),
        ("a (red) car", [("a ", 1), ("red", 1.1), (" car", 1)]),
        ("((red))", [("red", 1.21)]),
        ("[red] car", [("red", LESS), (" car", 1)]),
        ("[[red]]", [("red", LESS * LESS)]),
        ("(a (b:1.5) c:2)", [("a ", 2), ("b", 3), (" c", 2)]),
        ("([a])", [("a", 1)]),
        ("(a)(b)", [("ab", 1.1)]),
        ("(a: b)", [("a: b", 1.1)]),
        ("(a:)", [("a:", 1.1)]),
        ("(a:b:1.3)", [("a:b", 1.3)]),
        ("(a : 1.3 )", [("a ", 1.3)]),
        ("(a:.5) (b:-1) (c:+2)", [("a", 0.5), (" ", 1), ("b", -1), (" ", 1), ("c", 2)]),
        ("(:1.3)x", [("x", 1)]),
        ("()", []),
        ("a:1.2", [("a:1.2", 1)]),
        ("(a:(1.2))", [("a:", 1.1), ("1.2", 1.21)]),
        (r"\(a\) \[b\] \\", [(r"(a) [b] " + "\\", 1)]),
        (r"(a\:1.2)", [("a:1.2", 1.1)]),
        (r"a\n \d", [(r"a\n \d", 1)]),
        ("a\\", [("a\\", 1)]),
    ],
)
def test_forms(prompt, spans):
    assert weighed(prompt) == spans


@pytest.mark.parametrize(
    "prompt,spans",
    [
        ("\uff08\u732b\uff1a\uff11\uff0e\uff12\uff09\u3001x", [("\u732b", 1.2), ("\u3001x", 1)]),
        ("\uff08\u732b:1.2)", [("\u732b", 1.2)]),
        ("\uff3b\u732b\uff3d", [("\u732b", LESS)]),
        ("\\\uff08\u732b\\\uff09", [("\uff08\u732b\uff09", 1)]),
        ("\u6ce8\uff1a\u732b\uff0c\u72ac", [("\u6ce8\uff1a\u732b\uff0c\u72ac", 1)]),
        ("\uff08\u6ce8\uff1a\u732b\uff09", [("\u6ce8\uff1a\u732b", 1.1)]),
        ("(\u0643\u0644\u0628:\u0661.\u0665)", [("\u0643\u0644\u0628", 1.5)]),
        ("(\u0e2b\u0e21\u0e32\uff1a\uff0d\uff11)", [("\u0e2b\u0e21\u0e32", -1)]),
    ],
    ids=range(8),
)
def test_full_width_and_other_digits(prompt, spans):
    assert weighed(prompt) == spans


@pytest.mark.parametrize(
    "prompt,text,breaks",
    [
        ("a BREAK b", "a  b", (2,)),
        ("BREAK", "", (0,)),
        ("a\nBREAK\nb", "a\n\nb", (2,)),
        ("(a BREAK b:1.2)", "a  b", (2,)),
        ("(a)BREAK(b)", "ab", (1,)),
        ("aBREAK BREAKb break", "aBREAK BREAKb break", ()),
    ],
)
def test_break_is_a_word_of_its_own(prompt, text, breaks):
    parsed = parse(prompt)
    assert (parsed.text, parsed.breaks) == (text, breaks)


@pytest.mark.parametrize(
    "prompt,position,words",
    [
        ("a (b", 2, r"never closed; write \\\("),
        ("a) b", 1, r"closes nothing; write \\\)"),
        ("(a]", 2, "cannot close"),
        ("x [y", 2, "never closed"),
        ("(a (b:1.2)", 0, "never closed"),
        ("[a:0.5]", 2, r"write \(word:0.9\)"),
        ("(a:11)", 3, "weight is 11"),
        ("(a:" + "9" * 5000 + ")", 3, "weight is inf"),
        ("(" * 2000, 1000, "deeper than 1000"),
        ("(a:-10.5)", 3, "-10..10"),
        ("(" * 30 + "a" + ")" * 30, 24, "brackets around it included"),
        ("\uff08\u732b", 0, "never closed"),
    ],
)
def test_errors_name_the_position(prompt, position, words):
    with pytest.raises(PromptSyntaxError, match=words) as caught:
        parse(prompt)
    assert caught.value.position == position
    assert f"(character {position})" in str(caught.value)


def test_prompts_are_strings():
    with pytest.raises(InvalidRequest, match="None"):
        parse(None)


@given(st.text(alphabet="ab :1.2()[]\\\uff08\uff09\uff1a\u732bBREAK", max_size=40))
@settings(max_examples=150, deadline=None)
def test_any_text_parses_or_points_into_itself(prompt):
    try:
        parsed = parse(prompt)
    except PromptSyntaxError as error:
        assert 0 <= error.position < len(prompt)
        return
    ends = [0, *(span.end for span in parsed.spans)]
    assert [span.start for span in parsed.spans] == ends[:-1] and ends[-1] == len(parsed.text)
    weights = [span.weight for span in parsed.spans]
    assert all(left != right for left, right in itertools.pairwise(weights))
    assert all(0 <= position <= len(parsed.text) for position in parsed.breaks)
    for position, letter in enumerate(parsed.text):
        assert prompt[parsed.source_position(position)] == letter


@given(st.text(max_size=60))
@settings(max_examples=100, deadline=None)
def test_escaped_text_comes_back_as_it_was(text):
    escaped = "".join("\\" + c if c in "\\()[]:\uff08\uff09\uff3b\uff3d\uff1a" else c for c in text)
    parsed = parse(escaped.replace("BREAK", "break"))
    assert parsed.text == text.replace("BREAK", "break")
    assert all(span.weight == 1 for span in parsed.spans)


@given(st.lists(st.sampled_from([1.1, LESS, 0.5, 2.0]), max_size=3))
@settings(max_examples=50, deadline=None)
def test_nested_weights_multiply(factors):
    prompt, product = "x", 1.0
    for factor in factors:
        prompt = {1.1: "({})", LESS: "[{}]"}.get(factor, "({}:" + str(factor) + ")").format(prompt)
        product *= factor
    assert parse(prompt).spans[0].weight == pytest.approx(product)


MANY = 1_000_000
HARD = {
    "words": "a cat, " * (MANY // 7),
    "open": "(" * MANY,
    "pairs": "[]" * (MANY // 2),
    "spaces": " " * MANY,
    "backslashes": "\\" * MANY,
    "breaks": " BREAK" * (MANY // 6),
    "numbers": "(a:" + "1" * MANY + "x)",
    "deep": ("[" * 1000 + "]" * 1000) * (MANY // 10000),
    "weights": "(a:1.1) " * (MANY // 40),
    "colons": "(a" + ":1" * (MANY // 10) + ")",
    "nested colons": ("[a:" * 1000 + "x" + "]" * 1000) * (MANY // 20000),
}


@pytest.mark.parametrize("name", HARD)
def test_long_prompts_take_linear_time(name):
    started = time.process_time()
    try:
        parse(HARD[name])
    except PromptSyntaxError as error:
        assert name == "open" and error.position == MAX_DEPTH
    assert time.process_time() - started <= 2
