"""Pickles, once allowed: real dumps load, payloads never run, bombs are refused early."""

from __future__ import annotations

import datetime
import pickle
import sys
import time
import types
import zipfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from multilingual_diffusion.pipeline_core.errors import FileRefused
from multilingual_diffusion.pipeline_core.loading.pickles import Inert, PickleFile, read_tensors

WEIGHTS = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2, dtype=torch.half)}


def write_zip(path: Path, data: bytes, method: int = zipfile.ZIP_STORED) -> Path:
    """Write a torch zip around the bytes of a pickle."""
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/version", "3\n")
    return path


def call(module: str, name: str, argument: str) -> bytes:
    """Return the pickle of {"w": module.name(argument)}."""
    text = argument.encode()
    length = len(text).to_bytes(4, "little")
    function = f"c{module}\n{name}\n".encode()
    return b"\x80\x02}X\x01\x00\x00\x00w" + function + b"X" + length + text + b"\x85Rs."


class Payload:
    """Reduces to a call that would make the marker file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return open, (str(self.marker), "w")


# --- what loads


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("wrapped", [True, False])
def test_saved_tensors_load(zipped: bool, wrapped: bool, tmp_path: Path) -> None:
    content = {"state_dict": WEIGHTS, "global_step": 470000, "lr": 1e-4} if wrapped else WEIGHTS
    torch.save(content, tmp_path / "x.ckpt", _use_new_zipfile_serialization=zipped)
    found = read_tensors(tmp_path / "x.ckpt")
    assert found.keys() == WEIGHTS.keys()
    assert all(torch.equal(found[name], WEIGHTS[name]) for name in WEIGHTS)
    infos = PickleFile(tmp_path / "x.ckpt").tensors
    assert infos["a.weight"].shape == (2, 3)
    assert infos["a.bias"].dtype == "F16"


def test_second_dictionary_has_its_prefix(tmp_path: Path) -> None:
    averaged = {name: value + 1 for name, value in WEIGHTS.items()}
    torch.save({"state_dict": WEIGHTS, "state_dict_ema": averaged}, tmp_path / "x.ckpt")
    found = read_tensors(tmp_path / "x.ckpt")
    assert torch.equal(found["state_dict_ema.a.weight"], averaged["a.weight"])
    assert torch.equal(found["a.weight"], WEIGHTS["a.weight"])


def test_transposed_and_parameter_tensors_are_read_right(tmp_path: Path) -> None:
    weight = torch.nn.Parameter(torch.arange(6.0).reshape(2, 3))
    convolution = torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last)
    torch.save({"p": weight, "t": weight.detach().T, "c": convolution}, tmp_path / "x.pt")
    found = read_tensors(tmp_path / "x.pt")
    assert torch.equal(found["p"], weight) and not found["p"].requires_grad
    assert torch.equal(found["t"], weight.T) and found["t"].is_contiguous()
    assert torch.equal(found["c"], convolution)


@pytest.fixture
def trainer(monkeypatch: pytest.MonkeyPatch) -> Iterator[types.SimpleNamespace]:
    """Classes under the names that trainers' dumps carry, gone when the test reads the file."""
    made: dict[str, type] = {}
    for module, name, base in (
        ("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint", object),
        ("pytorch_lightning.utilities.parsing", "AttributeDict", dict),
        ("omegaconf.listconfig", "ListConfig", object),
        ("omegaconf.base", "Metadata", object),
    ):
        made[name] = type(name, (base,), {"__module__": module})
        parts = module.split(".")
        for length in range(1, len(parts) + 1):
            package = ".".join(parts[:length])
            monkeypatch.setitem(
                sys.modules, package, sys.modules.get(package) or types.ModuleType(package)
            )
        setattr(sys.modules[module], name, made[name])
    yield types.SimpleNamespace(**made)


@pytest.mark.parametrize("zipped", [True, False])
def test_trainer_dumps_load_with_inert_stand_ins(
    zipped: bool, trainer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = trainer.AttributeDict(lr=1e-4)
    listed = trainer.ListConfig()
    listed._content, listed._metadata = [1, 2], trainer.Metadata()
    content = {
        "state_dict": WEIGHTS,
        "epoch": 3,
        "pytorch-lightning_version": "1.9.0",
        "hyper_parameters": options,
        "hparams_type": trainer.AttributeDict,
        "config": listed,
        "callbacks": {trainer.ModelCheckpoint: {"best_model_score": torch.tensor(0.5)}},
        "loss": np.float64(0.25),
        "array": np.arange(3),
        "counts": defaultdict(int, a=1),
        "path": Path("x"),
        "when": datetime.datetime(2023, 4, 7, tzinfo=datetime.timezone.utc),
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(2)}}}],
    }
    torch.save(content, tmp_path / "x.ckpt", _use_new_zipfile_serialization=zipped)
    for name in ("pytorch_lightning", "omegaconf"):
        for module in [module for module in sys.modules if module.startswith(name)]:
            monkeypatch.delitem(sys.modules, module)
    found = read_tensors(tmp_path / "x.ckpt")
    assert found.keys() == WEIGHTS.keys()


def test_stand_ins_win_over_what_the_host_allowed(tmp_path: Path) -> None:
    calls: list[object] = []

    class Host:
        __module__, __qualname__ = "host", "Host"

        def __setstate__(self, state: object) -> None:
            calls.append(state)

    pickled = b"\x80\x02}X\x01\x00\x00\x00achost\nHost\n)\x81}X\x01\x00\x00\x00vK\x01sbs."
    path = write_zip(tmp_path / "x.ckpt", pickled)
    with torch.serialization.safe_globals([Host]):
        torch.load(path, weights_only=True)
        assert calls.pop() == {"v": 1}  # that is how the host would read it
        with pytest.raises(FileRefused, match="0 tensors"):
            read_tensors(path)
        assert not calls
        assert Host in torch.serialization.get_safe_globals()


# --- what must never run


FUNCTIONS = [
    ("os", "system"), ("posix", "system"), ("nt", "system"), ("builtins", "eval"),
    ("__builtin__", "execfile"), ("builtins", "exec"), ("subprocess", "getoutput"),
    ("pathlib", "Path.touch"), ("torch.hub", "load"), ("torch.jit", "load"), ("runpy", "run_path"),
    ("operator", "attrgetter"), ("builtins", "getattr"), ("torch", "load"),
]  # fmt: skip


@pytest.fixture(scope="module")
def events() -> Iterator[list[str]]:
    """What the interpreter reports to audit hooks; a hook cannot be taken off again."""
    seen: list[str] | None = []
    sys.addaudithook(lambda event, _: None if seen is None else seen.append(event))
    yield seen
    seen = None


@pytest.mark.parametrize(("module", "name"), FUNCTIONS)
def test_a_call_in_a_pickle_never_happens(
    module: str, name: str, events: list[str], tmp_path: Path
) -> None:
    """Refused or called as a stand-in: either way the file gives no tensors and no marker."""
    marker = tmp_path / "marker"
    arguments = {
        "os": f"touch {marker}",
        "posix": f"touch {marker}",
        "subprocess": f"touch {marker}",
        "builtins": f"__import__('pathlib').Path({str(marker)!r}).touch()",
    }
    path = write_zip(tmp_path / "x.ckpt", call(module, name, arguments.get(module, str(marker))))
    events.clear()
    with pytest.raises(FileRefused):
        read_tensors(path)
    assert not {"os.system", "subprocess.Popen", "pickle.find_class"} & set(events)
    assert not marker.exists()


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_reduce_payloads_never_run(protocol: int, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    data = pickle.dumps({"w": Payload(marker)}, protocol)
    (tmp_path / "raw.pt").write_bytes(data)
    for path in (write_zip(tmp_path / "zip.pt", data), tmp_path / "raw.pt"):
        with pytest.raises(FileRefused):
            PickleFile(path)
    assert not marker.exists()


def test_the_payload_works_where_nobody_guards(tmp_path: Path) -> None:
    """The corpus has teeth: plain pickle runs it."""
    pickle.loads(pickle.dumps(Payload(tmp_path / "marker"), 2)).close()
    assert (tmp_path / "marker").exists()


def test_inert_keeps_nothing() -> None:
    thing = Inert(1, 2, three=3)
    thing.__setstate__({"a": 1})
    assert vars(thing) == {}


# --- what is refused early


def refused(path: Path, match: str) -> None:
    start = time.perf_counter()
    with pytest.raises(FileRefused, match=match):
        read_tensors(path)
    assert time.perf_counter() - start < 5.0


def test_views_larger_than_their_data_are_refused(tmp_path: Path) -> None:
    for zipped in (True, False):
        torch.save(
            {"w": torch.zeros(1).expand(10**6, 10**6)},
            tmp_path / "x.pt",
            _use_new_zipfile_serialization=zipped,
        )
        assert (tmp_path / "x.pt").stat().st_size < 10_000
        refused(tmp_path / "x.pt", "claims 4000000000000 bytes of 4")


def test_tensors_without_data_are_refused(tmp_path: Path) -> None:
    torch.save({"w": torch.empty(10**6, 10**6, device="meta")}, tmp_path / "meta.pt")
    refused(tmp_path / "meta.pt", "not a plain tensor")
    torch.save({"w": torch.eye(3).to_sparse()}, tmp_path / "sparse.pt")
    refused(tmp_path / "sparse.pt", "not a plain tensor")


def test_compressed_and_nested_zips_are_refused(tmp_path: Path) -> None:
    data = pickle.dumps({"w": bytes(10**7)}, 2)
    refused(write_zip(tmp_path / "bomb.pt", data, zipfile.ZIP_DEFLATED), "compressed")
    with zipfile.ZipFile(tmp_path / "nested.pt", "w") as archive:
        archive.write(tmp_path / "bomb.pt", "archive/data.pkl")
    refused(tmp_path / "nested.pt", "not what torch.save writes|broken pickle")


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"\x80\x02" + b"(" * 1_200_000 + b".", "more than 1000000 opcodes"),
        (b"\x80\x02tttt.", "not a pickle of tensors"),
        (b"\x80\x02]" + b"\x85" * 200_000 + b".", "not a dict of tensors"),
        (b"\x80\x02X\xff\xff\xff\xff", "broken pickle"),
        (b"\x80\x02}.", "0 tensors"),
        (b"\x80\x02K\x01.", "not a dict of tensors"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93.", "not what torch.save writes"),
        (b"", "broken pickle"),
        (b"\x80\x02h\x05.", "not a pickle of tensors"),
    ],
)
def test_broken_pickles_are_refused(data: bytes, match: str, tmp_path: Path) -> None:
    refused(write_zip(tmp_path / "x.pt", data), match)


def test_a_damaged_pickle_is_refused(tmp_path: Path) -> None:
    torch.save(WEIGHTS, tmp_path / "x.pt")
    data = (tmp_path / "x.pt").read_bytes()
    (tmp_path / "x.pt").write_bytes(data.replace(b"a.weight", b"a.wEight"))
    refused(tmp_path / "x.pt", "data.pkl cannot be read: Bad CRC")


def test_reserved_and_endless_names_are_refused(tmp_path: Path) -> None:
    for name in ("a.__class__.b", "x" * 1000, "a\nb"):
        torch.save({name: torch.ones(1)}, tmp_path / "x.pt")
        refused(tmp_path / "x.pt", "tensor name")


def test_too_many_tensors_are_refused(tmp_path: Path) -> None:
    one = torch.ones(1)
    torch.save({f"w{index}": one for index in range(5_001)}, tmp_path / "x.pt")
    refused(tmp_path / "x.pt", "5001 tensors")


def test_truncated_files_are_refused(tmp_path: Path) -> None:
    torch.save(WEIGHTS, tmp_path / "zip.pt")
    data = (tmp_path / "zip.pt").read_bytes()
    torch.save(WEIGHTS, tmp_path / "legacy.pt", _use_new_zipfile_serialization=False)
    legacy = (tmp_path / "legacy.pt").read_bytes()
    for content in (data, legacy):
        for share in (0.1, 0.5, 0.9, 0.999):
            path = tmp_path / "cut.pt"
            path.write_bytes(content[: int(len(content) * share)])
            with pytest.raises(FileRefused):
                read_tensors(path)
