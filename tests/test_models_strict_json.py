"""JSON from strangers: an object, or FileRefused; never a float that is not finite."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from multilingual_diffusion.pipeline_core.errors import FileRefused
from multilingual_diffusion.pipeline_core.models.strict_json import parse_json, read_json

REFUSED = {
    b"": "not valid JSON",
    b"[]": "must be an object, not list",
    b'"x"': "must be an object",
    b'{"a": NaN}': "NaN is not",
    b'{"a": -Infinity}': "-Infinity is not",
    b'{"a": 1e400}': "too large",
    b'{"a": -1e400}': "too large",
    b'{"a": ' + b"9" * 5000 + b"}": "9 is not a number",
    b'{"a": -0}': "-0 is not a number",
    b'{"a": 1, "a": 2}': "'a' is there twice",
    b'{"x": {"b": 1, "c": 1, "b": 1}}': "'b' is there twice",
    b"\xef\xbb\xbf{}": "not valid JSON",
    b'{"a": "\xff"}': "not valid JSON",
    b"{}{}": "not valid JSON",
    b'{"a":' + b"[" * 70 + b"]" * 70 + b"}": "nested more than 64",
    b'{"a":' + b"[" * 100_000: "nested too deeply",
    b'{"a":[' + b"1," * 200_001 + b"1]}": "more than 200000 values",
}


@pytest.mark.parametrize("text", REFUSED, ids=range(len(REFUSED)))
def test_refused(tmp_path, text):
    (tmp_path / "config.json").write_bytes(text)
    with pytest.raises(FileRefused, match=REFUSED[text]) as error:
        read_json(tmp_path / "config.json")
    assert str(tmp_path / "config.json") in str(error.value) and "\n" not in str(error.value)


def test_size_is_capped_before_reading(tmp_path):
    (tmp_path / "x.json").write_bytes(b'{"a": "' + b"x" * 5_000_000 + b'"}')
    with pytest.raises(FileRefused, match="larger than"):
        read_json(tmp_path / "x.json")
    assert len(read_json(tmp_path / "x.json", max_bytes=6_000_000)["a"]) == 5_000_000


def test_not_a_file(tmp_path):
    for path, words in ((tmp_path, "a folder"), (tmp_path / "none", "does not exist")):
        with pytest.raises(FileRefused, match=words):
            read_json(path)
    (tmp_path / "link").symlink_to(tmp_path / "none")
    with pytest.raises(FileRefused, match="link to nothing"):
        read_json(tmp_path / "link")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**64), 2**64) | st.text() | st.floats(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@settings(deadline=None, max_examples=50)
@given(value=st.dictionaries(st.text(), VALUES))
def test_round_trip_of_everything_finite(value):
    text = json.dumps(value)
    if "NaN" in text or "Infinity" in text:
        text = json.dumps(json.loads(text, parse_constant=lambda _: None))
    assert parse_json(text.encode(), "x") == json.loads(text)


@settings(deadline=None)
@given(text=st.binary())
def test_any_bytes_end_in_an_object_or_our_error(text):
    with contextlib.suppress(FileRefused):
        assert isinstance(parse_json(text, "x"), dict)
