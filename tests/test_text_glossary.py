"""The glossary: longest term, folding, word edges, protected spans."""

from __future__ import annotations

import time
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multilingual_diffusion.pipeline_core.errors import InvalidRequest
from multilingual_diffusion.pipeline_core.text.glossary import MAX_TERMS, read_glossary

GLOSSARY = """
# our people
Anna = a woman with red hair
Anna Maria = two women
\u732b = (cat:1.2)
\u0e41\u0e21\u0e27 = cat
caf\u00e9 = coffee house
1.2 = never
lora = never
gone =
"""


@pytest.mark.parametrize(
    ("prompt", "wanted", "count"),
    [
        ("Anna in the rain", "a woman with red hair in the rain", 1),
        ("anna maria and ANNA", "two women and a woman with red hair", 2),
        ("Annabel, Joanna", "Annabel, Joanna", 0),  # parts of words
        ("\uff21\uff4e\uff4e\uff41!", "a woman with red hair!", 1),  # full width
        ("cafe\u0301 and CAF\u00c9", "coffee house and coffee house", 2),  # both compositions
        ("cafe", "cafe", 0),
        ("\u4e00\u53ea\u732b\u5728", "\u4e00\u53ea(cat:1.2)\u5728", 1),  # no spaces in Chinese
        ("\u0e23\u0e39\u0e1b\u0e41\u0e21\u0e27", "\u0e23\u0e39\u0e1bcat", 1),  # nor in Thai
        ("(Anna:1.2)", "(a woman with red hair:1.2)", 1),  # the weight stays
        ("\uff08Anna\uff1a1.2\uff09", "\uff08a woman with red hair\uff1a1.2\uff09", 1),
        ("<lora:anna:1> embedding:anna, anna", "<lora:anna:1> embedding:anna, "
         "a woman with red hair", 1),
        ("lora 1.2", "never never", 2),
        ("all gone now", "all  now", 1),
        ("", "", 0),
    ],
)  # fmt: skip
def test_terms(prompt: str, wanted: str, count: int) -> None:
    assert read_glossary(GLOSSARY).apply(prompt) == (wanted, count)


def test_a_replacement_is_not_read_again() -> None:
    assert read_glossary("a = b\nb = a").apply("a b") == ("b a", 2)


def test_break_and_escapes_are_no_terms() -> None:
    assert read_glossary("break = x\n( = y").apply(r"one BREAK two \(") == (r"one BREAK two \(", 0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cat", "line 1 of the glossary is 'cat'; write: term = replacement"),
        ("\n= dog", "line 2"),
        ("cat = a\nCAT = b", "line 2 of the glossary has 'CAT' again"),
        ("\n".join(f"t{n} = x" for n in range(MAX_TERMS + 1)), "at most 2000"),
    ],
)
def test_refusals(text: str, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        read_glossary(text)


@given(st.text(max_size=80))
def test_nothing_but_terms_changes(prompt: str) -> None:
    replaced, count = read_glossary("\u00df = ss\nx = y").apply(prompt)
    if not count:
        assert replaced == prompt
    assert read_glossary("qqqqqq = never").apply(prompt)[0] == prompt or "qqqqqq" in (
        unicodedata.normalize("NFKC", prompt).casefold()
    )


def test_a_full_glossary_is_fast() -> None:
    glossary = read_glossary("\n".join(f"term number {n} = x" for n in range(MAX_TERMS)))
    prompt = "term number 77, and other words. " * 100
    start = time.perf_counter()
    assert glossary.apply(prompt)[1] == 100
    assert time.perf_counter() - start < 2.0
