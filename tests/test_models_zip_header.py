"""Torch zip files: real ones pass, bombs and disguises do not, and nothing in them is opened."""

from __future__ import annotations

import io
import struct
import time
import tracemalloc
import zipfile

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from multilingual_diffusion.pipeline_core.errors import FileRefused
from multilingual_diffusion.pipeline_core.models import zip_header
from multilingual_diffusion.pipeline_core.models.zip_header import read_zip_header


def write_zip(path, members, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


def sound(path):
    return write_zip(path, [("archive/data.pkl", b"\x80\x02}."), ("archive/data/0", b"\0" * 64)])


def test_real_checkpoints_pass(tmp_path):
    tensors = {f"layer.{n}.weight": torch.ones(3, 4) for n in range(50)}
    torch.save({"state_dict": tensors, "global_step": 1}, tmp_path / "x.ckpt")
    header = read_zip_header(tmp_path / "x.ckpt")
    assert f"{header.root}/data.pkl" in header.members
    assert header.members[f"{header.root}/data/49"] == 48


def test_many_members_are_read_fast(tmp_path):
    members = [("a/data.pkl", b"x"), *((f"a/data/{n}", b"1234") for n in range(2200))]
    path = write_zip(tmp_path / "x.pt", members)
    tracemalloc.start()
    start = time.process_time()
    assert len(read_zip_header(path).members) == 2201
    assert time.process_time() - start < 2.0  # 0.03 s on an idle machine
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ([("a/data.pkl", b""), ("a/../../etc/x", b"")], "member name"),
        ([("a/data.pkl", b""), ("/etc/x", b"")], "member name"),
        ([("a/data.pkl", b""), ("a\\b", b"")], "member name"),
        ([("a/data.pkl", b""), ("c:x", b"")], "member name"),
        ([("a/data.pkl", b""), ("a/b\nc", b"")], "member name"),
        ([("a/data.pkl", b""), ("a/sub/", b"")], "member name"),
        ([("a/data.pkl", b""), ("b/data.pkl", b"")], "no data.pkl in one common folder"),
        ([("a/other", b"")], "no data.pkl"),
        ([("a/data.pkl", b""), ("a/constants.pkl", b"")], "TorchScript"),
        ([], "members"),
    ],
)
def test_crafted_members(tmp_path, members, words):
    with pytest.raises(FileRefused, match=words):
        read_zip_header(write_zip(tmp_path / "x.pt", members))


def test_deflate_bomb(tmp_path):
    members = [("a/data.pkl", b""), ("a/data/0", b"\0" * 10_000_000)]
    path = write_zip(tmp_path / "x.pt", members, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 20_000
    with pytest.raises(FileRefused, match="compressed"):
        read_zip_header(path)


def test_duplicate_names(tmp_path):
    with pytest.warns(UserWarning, match="Duplicate"):
        path = write_zip(tmp_path / "x.pt", [("a/data.pkl", b"1"), ("a/data.pkl", b"2")])
    with pytest.raises(FileRefused, match="twice"):
        read_zip_header(path)


@pytest.mark.parametrize("offset", [6, None])  # flag bits of the local header, of the directory
def test_encryption_flags(tmp_path, offset):
    path = sound(tmp_path / "x.pt")
    data = bytearray(path.read_bytes())
    offset = data.index(b"PK\x01\x02") + 8 if offset is None else offset
    data[offset] |= 1
    path.write_bytes(data)
    with pytest.raises(FileRefused, match=r"flags|differs"):
        read_zip_header(path)


def test_another_name_in_the_local_header(tmp_path):
    path = sound(tmp_path / "x.pt")
    data = path.read_bytes().replace(b"archive/data.pkl", b"archive/evil.pkl", 1)
    path.write_bytes(data)
    with pytest.raises(FileRefused, match="differs"):
        read_zip_header(path)


def test_overlapping_members(tmp_path):
    path = sound(tmp_path / "x.pt")
    data = bytearray(path.read_bytes())
    second = data.index(b"PK\x01\x02", data.index(b"PK\x01\x02") + 4)
    data[second + 42 : second + 46] = struct.pack("<L", 0)  # both at the first header
    path.write_bytes(data)
    with pytest.raises(FileRefused, match=r"differs|overlaps"):
        read_zip_header(path)


def test_sizes_beyond_the_file(tmp_path):
    path = sound(tmp_path / "x.pt")
    data = bytearray(path.read_bytes())
    second = data.index(b"PK\x01\x02", data.index(b"PK\x01\x02") + 4)
    data[second + 20 : second + 28] = struct.pack("<LL", 10**9, 10**9)
    path.write_bytes(data)
    with pytest.raises(FileRefused, match="larger than the file"):
        read_zip_header(path)


def test_a_huge_directory_is_not_read(tmp_path, monkeypatch):
    path = write_zip(
        tmp_path / "x.pt", [("a/data.pkl", b""), *((f"a/{n}", b"") for n in range(99))]
    )
    monkeypatch.setattr(zip_header, "MAX_DIRECTORY", 1000)
    with pytest.raises(FileRefused, match="does not parse"):
        read_zip_header(path)


def test_too_large_a_pickle(tmp_path, monkeypatch):
    monkeypatch.setattr(zip_header, "MAX_PICKLE", 3)
    with pytest.raises(FileRefused, match=r"data\.pkl is larger"):
        read_zip_header(sound(tmp_path / "x.pt"))


@settings(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck))
@given(position=st.floats(0, 1, exclude_max=True), byte=st.integers(0, 255), cut=st.booleans())
def test_mutations_end_in_our_error_or_pass(tmp_path, position, byte, cut):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}.")
        archive.writestr("archive/data/0", b"\0" * 16)
    data = bytearray(buffer.getvalue())
    at = int(position * len(data))
    data[at] = byte
    path = tmp_path / "mutant.pt"
    path.write_bytes(data[: at if cut else None])
    try:
        header = read_zip_header(path)
    except FileRefused:
        return
    assert sum(header.members.values()) <= path.stat().st_size
