"""PNG files: only checked images, strict metadata, names that stay inside, nothing half-written."""

from __future__ import annotations

import contextlib
import json
import math
import multiprocessing
import os
import random
import struct
import tempfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from multilingual_diffusion.pipeline_core.errors import (
    FileRefused,
    InvalidRequest,
    PipelineError,
)
from multilingual_diffusion.pipeline_core.images import folders
from multilingual_diffusion.pipeline_core.images.folders import open_folder, safe_parts
from multilingual_diffusion.pipeline_core.images.metadata import METADATA_KEY, read_metadata
from multilingual_diffusion.pipeline_core.images.png import write_png, write_png_as
from multilingual_diffusion.pipeline_core.values import CheckedImages, ImageRequest, Images, Verdict
from PIL import Image

CAT = "\u4e00\u53ea\u732b"
KITTEN = "\u0642\u0637\u0629"
EMOJI = "\U0001f469\u200d\U0001f680"


def checked(count: int = 1, side: int = 8, **metadata: object) -> CheckedImages:
    pixels = torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0))
    return CheckedImages(pixels, (Verdict(False),) * count, "pass", metadata)


def files_under(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


# what is written


def test_pixels_and_metadata_come_back(tmp_path):
    request = ImageRequest(prompts=(CAT, KITTEN, "a\ud800b", 'quotes " and \\'), seed=2**64 - 1)
    images = checked(2, request=request.to_metadata(), safety={"policy": "pass"})
    paths = write_png(tmp_path, images)
    assert [path.name for path in paths] == ["multilingual_00001_.png", "multilingual_00002_.png"]
    for index, path in enumerate(paths):
        with Image.open(path) as picture:
            assert np.array_equal(np.asarray(picture), np.asarray(images.to_pil()[index]))
            assert CAT in picture.info[METADATA_KEY]  # readable as it is
        found = read_metadata(path)
        assert found["index"] == index and found["safety"] == {"policy": "pass"}
        assert ImageRequest.from_metadata(found["request"]) == request


def test_only_checked_images_are_written(tmp_path):
    for other in (
        Images(torch.zeros(1, 3, 8, 8)),
        torch.zeros(1, 3, 8, 8),
        Image.new("RGB", (8, 8)),
    ):
        with pytest.raises(InvalidRequest, match="only CheckedImages"):
            write_png(tmp_path, other)  # type: ignore[arg-type]
        with pytest.raises(InvalidRequest, match="only CheckedImages"):
            write_png_as(tmp_path / "a.png", other)  # type: ignore[arg-type]
    assert files_under(tmp_path) == []


def test_the_same_images_give_the_same_bytes(tmp_path):
    first, second = (write_png(tmp_path / name, checked(seed=1))[0] for name in "ab")
    assert first.read_bytes() == second.read_bytes()


def test_host_text_is_ascii_and_strict(tmp_path):
    prompt = {"1": {"class_type": "KSampler", "is_changed": [float("nan")], "text": CAT}}
    (path,) = write_png(
        tmp_path, checked(), host_text={"prompt": prompt, "workflow": {"nodes": []}}
    )
    with Image.open(path) as picture:
        text = picture.info["prompt"]
        assert text.isascii() and json.loads(text)["1"] == {**prompt["1"], "is_changed": [None]}
        assert json.loads(picture.info["workflow"]) == {"nodes": []}


@pytest.mark.parametrize("key", ["", METADATA_KEY, "a" * 80, "a\0b", CAT])
def test_host_text_keys_are_checked(tmp_path, key):
    with pytest.raises(InvalidRequest, match="text chunk"):
        write_png(tmp_path, checked(), host_text={key: 1})


@pytest.mark.parametrize("value", [math.nan, math.inf, [-math.inf], {"a": object()}, {1: 2}, b"x"])
def test_metadata_that_is_no_strict_json_is_refused(tmp_path, value):
    with pytest.raises(InvalidRequest, match="metadata holds"):
        write_png(tmp_path, checked(value=value))
    assert files_under(tmp_path) == []


def test_text_above_one_megabyte_is_refused(tmp_path):
    with pytest.raises(InvalidRequest, match="PNG takes 1 MB"):
        write_png(tmp_path, checked(value="x" * 2**20))
    with pytest.raises(InvalidRequest, match="'workflow' is"):
        write_png(tmp_path, checked(), host_text={"workflow": "x" * 2**20})


@pytest.mark.parametrize(
    "path",
    ["/home/someone/models/m9", "C:\\Users\\someone\\m9", "\\\\server\\share\\m9", "~/models/m9"],
)
def test_no_absolute_path_reaches_the_file(tmp_path, path):
    (written,) = write_png(tmp_path, checked(model=path, nested={"parts": [path]}, prompts=[path]))
    found = read_metadata(written)
    assert found["model"] == "m9" and found["nested"] == {"parts": ["m9"]}
    assert found["prompts"] == [path]  # the user's own words stay


# names


def test_counters_go_on_and_fill_no_gap(tmp_path):
    for expected in ("cat_00001_.png", "cat_00002_.png"):
        assert write_png(tmp_path, checked(), prefix="cat")[0].name == expected
    (tmp_path / "cat_00009_.png").touch()
    (tmp_path / "cat_notes_00077_.png").touch()
    assert write_png(tmp_path, checked(), prefix="cat")[0].name == "cat_00010_.png"
    assert write_png(tmp_path, checked(), prefix="", first=0)[0].name == "00000.png"
    assert write_png(tmp_path, checked(), prefix="", first=0)[0].name == "00001.png"


@pytest.mark.parametrize(
    "name", [CAT, KITTEN, EMOJI, "a b", "%2e%2e", "$HOME", f"{CAT}/{KITTEN}/x"]
)
def test_names_of_every_script_work(tmp_path, name):
    (path,) = write_png(tmp_path, checked(), prefix=name)
    assert files_under(tmp_path) == [f"{name}_00001_.png"] and path.is_file()


HOSTILE = [
    "../x", "..", ".", "./x", "a/../../x", "a/..", "a/./b", "a//b", "/x", "//x", "a/",
    "/etc/passwd",
    "..\\x", "a\\..\\..\\x", "\\x", "\\\\server\\share\\x", "\\\\?\\C:\\x", "C:", "C:x", "C:\\x",
    "C:/x", "c:/windows/x", "file:///etc/x", "http://x", "a:b", "a::$DATA", "a\0b", "\0", "a\nb",
    "a\rb", "a\r\nSet-Cookie: x", "\tx", "a\x1bb", "a\x7fb", "a\u2028b", "a\u2029b", "a\x85b",
    "a.", "a ", "a. .", "x/a./b", "x/a /b", " . ", ".hidden", "~", "~root/x", "~/x", "a/~",
    "CON", "con", "PRN", "AUX", "NUL", "nul.txt", "COM1", "LPT9.x", "lpt\u00b2", "a/CON/b", " con",
    "a<b", "a>b", 'a"b', "a|b", "a?b", "a*b", "\u202egnp.exe", "a\u2066b", "\ud800", "a" * 300,
    "\u732b" * 100, "a/" + "b" * 181,
]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE, ids=[ascii(name)[:24] for name in HOSTILE])
def test_hostile_names_are_refused_and_write_nothing(tmp_path, name):
    root = tmp_path / "out"
    with pytest.raises(InvalidRequest, match="file name"):
        write_png(root, checked(), prefix=name)
    assert files_under(tmp_path) == []


def test_the_corpus_is_large_and_odd_types_are_refused():
    assert len(set(HOSTILE)) >= 60
    for name in (None, 3, b"x", ["x"]):
        with pytest.raises(InvalidRequest):
            safe_parts(name)  # type: ignore[arg-type]


def assert_inside_or_refused(name: str) -> None:
    root = os.path.realpath(tempfile.gettempdir())
    try:
        target = os.path.join(root, *safe_parts(name))
    except InvalidRequest:
        return
    assert os.path.normpath(target) == target
    assert os.path.commonpath([root, target]) == root and target != root


@settings(max_examples=500, deadline=None)
@given(st.text(max_size=12))
def test_safe_parts_of_any_text_stays_inside_or_refuses(name):
    assert_inside_or_refused(name)


def test_safe_parts_of_ten_thousand_hostile_mixes_stays_inside_or_refuses():
    dice = random.Random(0)
    pieces = ["/", "..", ".", "\\", "a", CAT, "~", "C:", "\0", " ", "tmp", "%2e", "\u202e", "//"]
    for _ in range(10_000):
        assert_inside_or_refused("".join(dice.choices(pieces, k=dice.randint(1, 8))))


# links and races


def test_links_inside_the_folder_are_not_followed(tmp_path):
    root, outside = tmp_path / "out", tmp_path / "out_evil"
    root.mkdir(), outside.mkdir()
    (root / "link").symlink_to(outside, target_is_directory=True)
    with pytest.raises(PipelineError, match="cannot open the folder"):
        write_png(root, checked(), prefix="link/x")
    (root / "a_00001_.png").symlink_to(outside / "a.png")
    assert write_png(root, checked(), prefix="a")[0].name == "a_00002_.png"
    assert files_under(outside) == []


def test_a_link_swapped_in_while_the_folder_is_open_leads_nowhere(tmp_path):
    root, outside = tmp_path / "out", tmp_path / "elsewhere"
    outside.mkdir()
    for attempt in range(100):
        with open_folder(root, ["sub"]) as folder:
            (root / "sub").rename(root / f"moved{attempt}")
            (root / "sub").symlink_to(outside, target_is_directory=True)
            folder.write_new([f"x{attempt}.png"], b"data")
        assert (root / f"moved{attempt}" / f"x{attempt}.png").read_bytes() == b"data"
        (root / "sub").unlink()
    assert files_under(outside) == []


def save_many(folder: str) -> None:
    for _ in range(50):
        write_png(folder, checked(side=8, process=os.getpid()), prefix="race")


def test_eight_processes_never_overwrite_each_other(tmp_path):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=save_many, args=(str(tmp_path),)) for _ in range(8)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 8
    names = files_under(tmp_path)
    assert names == [f"race_{number:05}_.png" for number in range(1, 401)]
    owners = [read_metadata(tmp_path / name)["process"] for name in names]
    assert sorted(map(owners.count, set(owners))) == [50] * 8


def test_without_hard_links_names_are_still_taken_once(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(1, "no hard links on this file system")

    monkeypatch.setattr(os, "link", refuse)
    assert [write_png(tmp_path, checked(), prefix="x")[0].name for _ in range(2)] == [
        "x_00001_.png",
        "x_00002_.png",
    ]
    with pytest.raises(InvalidRequest, match="exists already"):
        write_png_as(tmp_path / "x_00001_.png", checked())
    assert files_under(tmp_path) == ["x_00001_.png", "x_00002_.png"]


def test_systems_without_folder_handles_work_by_path(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "_HAS_FOLDER_HANDLES", False)
    root, outside = tmp_path / "out", tmp_path / "elsewhere"
    outside.mkdir()
    names = [write_png(root, checked(), prefix=f"{CAT}/x")[0].name for _ in range(2)]
    assert names == ["x_00001_.png", "x_00002_.png"]
    (root / "link").symlink_to(outside, target_is_directory=True)
    with pytest.raises(PipelineError, match="cannot open the folder"):
        write_png(root, checked(), prefix="link/x")
    assert files_under(outside) == []


def test_an_exact_name_is_never_overwritten(tmp_path):
    path = write_png_as(tmp_path / f"{CAT}.png", checked(2, side=8), index=1)
    before = path.read_bytes()
    assert read_metadata(path)["index"] == 1
    with pytest.raises(InvalidRequest, match="exists already"):
        write_png_as(path, checked())
    with pytest.raises(InvalidRequest, match=r"written as \.png"):
        write_png_as(tmp_path / "page.html", checked())
    assert path.read_bytes() == before and files_under(tmp_path) == [f"{CAT}.png"]


# failing disks


def write_with_a_small_disk(folder: str, outcome) -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
    try:
        write_png(folder, checked(side=256))
    except PipelineError as error:
        outcome.put(str(error))


def test_a_full_disk_leaves_nothing_half_written(tmp_path):
    context = multiprocessing.get_context("fork")
    outcome = context.SimpleQueue()
    process = context.Process(target=write_with_a_small_disk, args=(str(tmp_path), outcome))
    process.start()
    process.join()
    assert "cannot write into" in outcome.get()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_one_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(PipelineError, match="choose another folder"):
        write_png(tmp_path / "file", checked())
    with pytest.raises(PipelineError, match="choose another folder"):
        write_png(tmp_path, checked(), prefix="file/x")


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs a file system without writing")
def test_a_read_only_folder_is_a_clear_error():
    with pytest.raises(PipelineError, match="choose another folder"):
        write_png("/proc/self", checked())


# hostile PNG files


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(*chunks: bytes) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks) + chunk(b"IEND", b"")


def itxt(text: bytes, flags: bytes = b"\0\0") -> bytes:
    return chunk(b"iTXt", METADATA_KEY.encode() + b"\0" + flags + b"\0\0" + text)


CRAFTED = {
    "empty": b"",
    "no-png": b"hello",
    "no-metadata": png(),
    "no-end": b"\x89PNG\r\n\x1a\n",
    "declared-huge": b"\x89PNG\r\n\x1a\n" + struct.pack(">I4s", 2**31 - 1, b"iTXt"),
    "checksum": png(itxt(b"{}")[:-1] + b"\x00"),
    "compressed": png(itxt(zlib.compress(b"{}" * 2**20), b"\1\0")),
    "no-json": png(itxt(b"{")),
    "nan": png(itxt(b'{"a": NaN}')),
    "infinity": png(itxt(b'{"a": 1e400}')),
    "list": png(itxt(b"[]")),
    "deep-but-parsed": png(itxt(b'{"a": ' + b"[" * 80 + b"]" * 80 + b"}")),
    "many-values": png(itxt(b'{"a": [' + b"1," * 200_001 + b"1]}")),
    "twice": png(itxt(b'{"a": 1, "a": 2}')),
    "deep": png(itxt(b"[" * 100_000)),
    "long-number": png(itxt(b'{"a": ' + b"9" * 5000 + b"}")),
    "no-utf8": png(itxt(b'{"a": "\xff"}')),
    "too-large": png(itxt(b'{"a": "' + b"x" * (2**20 + 2048) + b'"}')),
    "many-chunks": png(*[chunk(b"abCd", b"")] * 10_001),
    "no-fields": png(chunk(b"iTXt", METADATA_KEY.encode() + b"\0")),
}


@pytest.mark.parametrize("data", CRAFTED.values(), ids=CRAFTED)
def test_crafted_files_are_refused(tmp_path, data):
    path = tmp_path / "crafted.png"
    path.write_bytes(data)
    with pytest.raises(FileRefused, match=r"crafted\.png"):
        read_metadata(path)


def test_a_crafted_file_that_is_right_is_read(tmp_path):
    path = tmp_path / "crafted.png"
    path.write_bytes(png(chunk(b"tEXt", b"a\0b"), itxt(b'{"a": "\\ud800", "b": 1.5}')))
    assert read_metadata(path) == {"a": "\ud800", "b": 1.5}


def test_what_is_no_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "none.png", tmp_path / "pipe", "a\0b"):
        with pytest.raises(FileRefused):
            read_metadata(path)


def test_a_mutated_file_is_read_or_refused(tmp_path):
    (path,) = write_png(tmp_path, checked(side=1, prompts=[CAT]))
    original = path.read_bytes()
    refused = 0
    for position in range(len(original)):
        for value in (0, 255, original[position] ^ 1):
            mutated = bytearray(original)
            mutated[position] = value
            path.write_bytes(mutated)
            try:
                assert read_metadata(path) == {"prompts": [CAT], "index": 0}
            except FileRefused:
                refused += 1
        path.write_bytes(original[:position])
        with contextlib.suppress(FileRefused):
            assert read_metadata(path) == {"prompts": [CAT], "index": 0}
    assert refused > 100
