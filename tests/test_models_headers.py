"""safetensors headers: real files pass, the corpus of reliability.md is refused; fuzzing."""

from __future__ import annotations

import json
import time
import tracemalloc

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from multilingual_diffusion.pipeline_core.errors import FileRefused
from multilingual_diffusion.pipeline_core.models.headers import (
    ITEM_SIZES,
    TensorInfo,
    read_safetensors_header,
    sniff,
)
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def write(path, header, data=b"\0" * 8, length=None):
    """Write a safetensors file byte by byte; `header` is bytes or a JSON value."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    length = len(text) if length is None else length
    path.write_bytes(length.to_bytes(8, "little") + text + data)
    return path


def tensor(dtype="F32", shape=(2,), start=0, end=8):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}


@pytest.mark.parametrize("name", sorted(ITEM_SIZES))
def test_every_dtype_of_the_library_is_known(tmp_path, name):
    dtypes = {
        "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "F8_E4M3": torch.float8_e4m3fn,
        "F8_E5M2": torch.float8_e5m2, "U16": torch.uint16, "I16": torch.int16,
        "F16": torch.float16, "BF16": torch.bfloat16, "U32": torch.uint32, "I32": torch.int32,
        "F32": torch.float32, "U64": torch.uint64, "I64": torch.int64, "F64": torch.float64,
    }  # fmt: skip
    save_file({"a.b": torch.zeros(3, 5, dtype=dtypes[name])}, tmp_path / "x")
    assert read_safetensors_header(tmp_path / "x").tensors == {"a.b": TensorInfo(name, (3, 5))}


def test_equal_to_the_library(tmp_path):
    tensors = {f"block.{n}.weight": torch.ones(n + 1, 3) for n in range(30)}
    tensors["scalar"] = torch.tensor(1.0)
    save_file(tensors, tmp_path / "x", metadata={"format": "pt"})
    header = read_safetensors_header(tmp_path / "x")
    with safe_open(tmp_path / "x", "pt") as oracle:
        shapes = {name: tuple(oracle.get_slice(name).get_shape()) for name in oracle.keys()}  # noqa: SIM118
        assert dict(header.metadata) == oracle.metadata()
    assert {name: info.shape for name, info in header.tensors.items()} == shapes
    assert header.tensors["scalar"].nbytes == 4


@pytest.mark.parametrize("length", [0x280, 0x380, 0x480, 0x580])
def test_a_length_that_looks_like_a_pickle_is_none(tmp_path, length):
    text = json.dumps({"a": F32}).encode().ljust(length)
    path = write(tmp_path / "x", text)
    assert sniff(path) == "safetensors" and read_safetensors_header(path).tensors


CRAFTED = {
    "overlap": ({"a": tensor(), "b": tensor(start=4, end=12)}, 12, "overlaps"),
    "same bytes twice": ({"a": tensor(), "b": tensor()}, 8, "overlaps"),
    "hole": ({"a": tensor(), "b": tensor(start=12, end=20)}, 20, "hole"),
    "trailing bytes": ({"a": tensor()}, 9, "the file holds 9"),
    "too little data": ({"a": tensor()}, 7, "the file holds 7"),
    "negative offset": ({"a": tensor(start=-8, end=0)}, 8, "data_offsets"),
    "overflow": ({"a": tensor(shape=(2**40, 2**40))}, 8, "by shape"),
    "huge side": ({"a": tensor(shape=(2**63,))}, 8, "shape"),
    "wrong shape": ({"a": tensor(shape=(3,))}, 8, "12 bytes by shape"),
    "float shape": ({"a": tensor(shape=(2.0,))}, 8, "shape"),
    "bool shape": ({"a": tensor("F64", shape=(True,))}, 8, "shape"),
    "nine dimensions": ({"a": tensor(shape=(1,) * 8 + (2,))}, 8, "shape"),
    "empty tensors share": ({"a": tensor(), "b": tensor(shape=(0,), start=8)}, 8, "shape"),
    "unknown dtype": ({"a": tensor("F4")}, 8, "dtype"),
    "dtype is a list": ({"a": tensor(["F32"])}, 8, "dtype"),
    "dunder name": ({"a.__class__.__init__": tensor()}, 8, "reserved"),
    "empty name": ({"": tensor()}, 8, "name"),
    "hidden name": ({"a\u202eb": tensor()}, 8, "name"),
    "line break in a name": ({"a\nb": tensor()}, 8, "name"),
    "long name": ({"a" * 501: tensor()}, 8, "name"),
    "extra field": ({"a": {**F32, "x": 1}}, 8, "exactly"),
    "entry is a list": ({"a": [1]}, 8, "exactly"),
    "metadata of numbers": ({"__metadata__": {"a": 1}, "b": F32}, 8, "__metadata__"),
    "metadata is a list": ({"__metadata__": [], "b": F32}, 8, "__metadata__"),
    "a list on top": ([1], 0, "the top must be an object"),
}


@pytest.mark.parametrize("name", CRAFTED)
def test_crafted_headers(tmp_path, name):
    header, size, words = CRAFTED[name]
    path = write(tmp_path / "x", header, b"\0" * size)
    with pytest.raises(FileRefused, match=words) as error:
        read_safetensors_header(path)
    assert "\n" not in str(error.value) and str(path) in str(error.value)


RAW = {
    "duplicate name": b'{"a":%s,"a":%s}',
    "duplicate field": b'{"a":{"dtype":"F32","dtype":"I32","shape":[2],"data_offsets":[0,8]}}',
    "NaN": b'{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,8]}}',
    "infinity": b'{"a":{"dtype":"F32","shape":[1e400],"data_offsets":[0,8]}}',
    "endless number": b'{"a":{"dtype":"F32","shape":[%s],"data_offsets":[0,8]}}' % (b"9" * 5000),
    "deep": b'{"a":' + b"[" * 100_000,
    "byte order mark": b"\xef\xbb\xbf{}",
    "not UTF-8": b'{"\xff":1}',
    "cut off": b'{"a":{"dtype"',
    "empty": b"",
}


@pytest.mark.parametrize("name", RAW)
def test_crafted_text(tmp_path, name):
    text = RAW[name].replace(b"%s", json.dumps(F32).encode())
    with pytest.raises(FileRefused):
        read_safetensors_header(write(tmp_path / "x", text))


def test_the_library_accepts_what_we_refuse(tmp_path):
    """The reason for a parser of our own; when this fails, the library became stricter."""
    path = write(tmp_path / "x", {"a.__class__.__init__": tensor()})
    with safe_open(path, "pt") as found:
        assert list(found.keys()) == ["a.__class__.__init__"]
    with pytest.raises(SafetensorError):
        safe_open(write(tmp_path / "y", {"a": tensor(shape=(3,))}), "pt")


@pytest.mark.parametrize("length", [9, 2**31, 2**63, 2**64 - 1])
def test_lengths_beyond_the_file(tmp_path, length):
    with pytest.raises(FileRefused, match="the header says"):
        read_safetensors_header(write(tmp_path / "x", b"{}", b"", length))


LARGE = {
    "99 MB of metadata": lambda: b'{"__metadata__":{"a":"' + b"x" * 99_000_000 + b'"}}',
    "200,000 tensors": lambda: json.dumps({f"t{n}": F32 for n in range(200_000)}).encode(),
    "60,000 tensors": lambda: json.dumps({f"t{n}": F32 for n in range(60_000)}).encode(),
    "a shape of 4 million": lambda: b'{"a":{"shape":[' + b"1," * 4_000_000 + b"1]}}",
    "8 MB of brackets": lambda: b'{"a":' + b"[" * 8_000_000 + b"}",
    "8 MB of objects": lambda: b'{"a":' * 1_500_000,
}


@pytest.mark.parametrize("name", LARGE)
def test_large_headers_cost_little(tmp_path, name):
    path = write(tmp_path / "x", LARGE[name]())
    tracemalloc.start()
    start = time.process_time()
    with pytest.raises(FileRefused):
        read_safetensors_header(path)
    seconds = time.process_time() - start
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert seconds < 0.5 and peak < 50e6  # 0.05 s on an idle machine, without tracing


def test_five_thousand_tensors_pass_and_one_more_does_not(tmp_path):
    for count in (5000, 5001):
        entries = {f"t{n}": tensor(start=8 * n, end=8 * n + 8) for n in range(count)}
        write(tmp_path / str(count), entries, b"\0" * 8 * count)
    assert len(read_safetensors_header(tmp_path / "5000").tensors) == 5000
    with pytest.raises(FileRefused, match="5001 tensors"):
        read_safetensors_header(tmp_path / "5001")


def mutate(data: bytes, edits: list[tuple[float, int, int]]) -> bytes:
    """Overwrite, insert or delete bytes at relative positions."""
    result = bytearray(data)
    for where, kind, byte in edits:
        at = int(where * max(1, len(result) - 1))
        result[at : at + (kind != 1)] = b"" if kind == 2 else bytes([byte])
    return bytes(result)


EDITS = st.lists(
    st.tuples(
        st.floats(0, 1), st.integers(0, 2), st.sampled_from([*b'0123456789[]{},:"-+.eE \x00'])
    ),
    min_size=1,
    max_size=6,
)
SOUND = json.dumps(
    {
        "__metadata__": {"format": "pt"},
        "a.weight": tensor("F16", (2, 2)),
        "b": tensor("I32", (1,), 8, 12),
    }
).encode()


def check_mutation(path, edits) -> bool:
    """Refused with our error, or a file that the library reads the same way; quickly."""
    write(path, mutate(SOUND, edits), b"\0" * 12)
    start = time.process_time()
    try:
        header = read_safetensors_header(path)
    except FileRefused:
        return False
    finally:
        assert time.process_time() - start < 0.5
    with safe_open(path, "pt") as oracle:
        names = {name: tuple(oracle.get_slice(name).get_shape()) for name in oracle.keys()}  # noqa: SIM118
    assert {name: info.shape for name, info in header.tensors.items()} == names
    return True


FUZZ = {"deadline": None, "suppress_health_check": list(HealthCheck)}


@settings(max_examples=2000, **FUZZ)
@given(edits=EDITS)
@example(edits=[(0.0, 0, ord("{"))])
@example(edits=[(0.5947939588258162, 1, ord("-")), (0.14967014905682807, 0, ord("1"))])  # -0
def test_mutated_headers(tmp_path, edits):
    check_mutation(tmp_path / "x", edits)


@pytest.mark.slow
@settings(max_examples=20_000, **FUZZ)
@given(edits=EDITS)
def test_mutated_headers_at_length(tmp_path, edits):
    check_mutation(tmp_path / "x", edits)


def test_the_fuzz_reaches_both_ends(tmp_path):
    assert check_mutation(tmp_path / "x", [(0.0, 0, ord("{"))])
    assert not check_mutation(tmp_path / "x", [(0.0, 0, ord("["))])


def test_sniff_looks_at_bytes_only(tmp_path):
    save_file({"a": torch.ones(1)}, tmp_path / "a.ckpt")
    torch.save({}, tmp_path / "b.safetensors")
    torch.save({}, tmp_path / "c.safetensors", _use_new_zipfile_serialization=False)
    kinds = [sniff(tmp_path / name) for name in ("a.ckpt", "b.safetensors", "c.safetensors")]
    assert kinds == ["safetensors", "torch-zip", "torch-legacy-pickle"]
    (tmp_path / "d").write_bytes(b'{"some": {"json": 1}}')
    assert sniff(tmp_path / "d") == "unknown"
