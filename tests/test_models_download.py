"""Downloads from a real local server: resumed, proven, and never half-written under their name."""

from __future__ import annotations

import importlib
import json
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple

import layouts
import pytest
from hub_server import COMMIT, HubServer
from multilingual_diffusion.pipeline_core.errors import (
    Cancelled,
    DownloadError,
    InvalidRequest,
    MissingDependency,
    UnknownName,
)
from multilingual_diffusion.pipeline_core.models.detect import detect
from multilingual_diffusion.pipeline_core.models.download import download
from multilingual_diffusion.pipeline_core.models.folders import ModelFolders
from multilingual_diffusion.pipeline_core.models.specs import ALTDIFFUSION_M9

UNET = "unet/diffusion_pytorch_model.bin"
NAME = "altdiffusion-m9"
CHUNK = 2**16  # the client keeps whole chunks; its own 10 MB suit larger files than ours


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Return a repository as published, with files that nobody asked for."""
    folder = layouts.write_diffusers_folder(tmp_path_factory.mktemp("hub") / "m9")
    (folder / "README.md").write_text("card")
    (folder / "imgs").mkdir()
    (folder / "imgs" / "m9.png").write_bytes(b"x" * 20_000)
    return folder


@pytest.fixture
def hub(published, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = HubServer(published)
    yield server
    server.shutdown()
    server.server_close()


def assert_complete(target, published) -> None:
    for name in ALTDIFFUSION_M9.files:
        assert (target / name).read_bytes() == (published / name).read_bytes(), name


def leftovers(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


def test_download_brings_the_listed_files_and_the_licence(hub, published, tmp_path):
    seen = []
    target = download(NAME, tmp_path, endpoint=hub.endpoint, progress=lambda *now: seen.append(now))
    assert target == tmp_path / NAME and leftovers(tmp_path) == [NAME]
    assert_complete(target, published)
    files = {path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file()}
    extra = files - set(ALTDIFFUSION_M9.files)
    assert extra == {
        "LICENSE-CreativeML-OpenRAIL-M.txt",
        "NOTICE-xlm-roberta-vocabulary.txt",
        "download.json",
    }
    total = sum((published / name).stat().st_size for name in ALTDIFFUSION_M9.files)
    assert seen[-1] == (total, total) and [now[0] for now in seen] == sorted(n[0] for n in seen)
    record = json.loads((target / "download.json").read_text())
    assert record["commit"] == COMMIT and set(record["files"]) == set(ALTDIFFUSION_M9.files)
    assert ModelFolders([tmp_path]).find_model(NAME) == target
    assert detect(target).spec.name == NAME


def test_safetensors_are_preferred_to_bin(published, tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    both = shutil.copytree(published, tmp_path / "hub")
    layouts.write_diffusers_folder(both, weights="safetensors")
    server = HubServer(both)
    target = download(NAME, tmp_path / "models", endpoint=server.endpoint)
    server.shutdown()
    server.server_close()
    assert not list(target.rglob("*.bin")) and len(list(target.rglob("*.safetensors"))) == 4
    assert not detect(target).needs_pickle


def test_what_is_there_is_left_alone(hub, tmp_path):
    target = download(NAME, tmp_path, endpoint=hub.endpoint)
    sent = hub.sent
    assert download(NAME, tmp_path, endpoint=hub.endpoint) == target and hub.sent == sent
    hub.commit = "f" * 40
    with pytest.raises(DownloadError, match="move it away"):
        download(NAME, tmp_path, endpoint=hub.endpoint)
    (target / "download.json").unlink()
    with pytest.raises(DownloadError, match="not made by this command"):
        download(NAME, tmp_path, endpoint=hub.endpoint)


def test_a_broken_connection_is_resumed_in_the_run(hub, published, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", CHUNK)
    hub.cut_after[UNET] = 1_000_000
    assert_complete(download(NAME, tmp_path, endpoint=hub.endpoint), published)
    ranges = [wanted for name, wanted in hub.requests if name == UNET]
    assert ranges == [None, "bytes=983040-"]  # whole chunks


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_killed_run_is_resumed_by_the_next(hub, published, tmp_path, share):
    total = sum((published / name).stat().st_size for name in ALTDIFFUSION_M9.files)
    code = (
        f"import huggingface_hub.constants as c; c.DOWNLOAD_CHUNK_SIZE = {CHUNK}\n"
        "from multilingual_diffusion.pipeline_core.models.download import download\n"
        f"download({NAME!r}, {str(tmp_path)!r}, endpoint={hub.endpoint!r})"
    )
    hub.pause = 0.005
    child = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while hub.sent < share * total and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert leftovers(tmp_path) == [f".{NAME}.incomplete"]
    assert ModelFolders([tmp_path]).list_models() == ModelFolders([tmp_path / "x"]).list_models()
    hub.pause, before = 0.0, hub.sent
    assert_complete(download(NAME, tmp_path, endpoint=hub.endpoint), published)
    assert leftovers(tmp_path) == [NAME]
    assert hub.sent - before < (1 - share) * total + 5_000_000  # buffers of both sides


def test_a_changed_byte_is_found_out(hub, published, tmp_path):
    hub.wrong_bytes.add(UNET)
    with pytest.raises(DownloadError, match="another checksum"):
        download(NAME, tmp_path, endpoint=hub.endpoint)
    assert leftovers(tmp_path) == [f".{NAME}.incomplete"]
    assert not list(tmp_path.rglob("diffusion_pytorch_model.bin.part"))
    hub.wrong_bytes.clear()
    assert_complete(download(NAME, tmp_path, endpoint=hub.endpoint), published)


def test_a_changed_byte_in_a_small_file_is_found_out(hub, tmp_path):
    hub.wrong_bytes.add("model_index.json")  # not LFS: known by git's blob id only
    with pytest.raises(DownloadError, match="another checksum"):
        download(NAME, tmp_path, endpoint=hub.endpoint)


def test_a_short_file_is_found_out(hub, tmp_path):
    hub.short.add(UNET)
    with pytest.raises(DownloadError, match="stopped: "):
        download(NAME, tmp_path, endpoint=hub.endpoint)
    assert leftovers(tmp_path) == [f".{NAME}.incomplete"]


def test_a_part_of_another_version_is_thrown_away(hub, published, tmp_path):
    part = tmp_path / f".{NAME}.incomplete" / f"{UNET}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"another version" * 1000)
    (part.parent / "stale.safetensors").write_bytes(b"x")
    target = download(NAME, tmp_path, endpoint=hub.endpoint)
    assert_complete(target, published)
    assert not list(target.rglob("stale*"))
    assert [wanted for name, wanted in hub.requests if name == UNET] == ["bytes=15000-", None]


def test_cancelling_keeps_the_part_for_later(hub, published, tmp_path):
    def stop(done: int, total: int) -> None:
        if done > total / 2:
            raise Cancelled("stopped by the user")

    with pytest.raises(Cancelled):
        download(NAME, tmp_path, endpoint=hub.endpoint, progress=stop)
    assert leftovers(tmp_path) == [f".{NAME}.incomplete"]
    assert_complete(download(NAME, tmp_path, endpoint=hub.endpoint), published)


@pytest.mark.skipif(sys.platform == "win32", reason="needs RLIMIT_FSIZE")
def test_a_full_disk_ends_in_one_line(hub, published, tmp_path):
    code = (
        "import resource, signal\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, 3_000_000))\n"
        "from multilingual_diffusion.pipeline_core.errors import DownloadError\n"
        "from multilingual_diffusion.pipeline_core.models.download import download\n"
        "try:\n"
        f"    download({NAME!r}, {str(tmp_path)!r}, endpoint={hub.endpoint!r})\n"
        "except DownloadError as exc:\n"
        "    print(exc)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "File too large" in run.stdout and run.stdout.count("\n") == 1
    assert leftovers(tmp_path) == [f".{NAME}.incomplete"]
    assert_complete(download(NAME, tmp_path, endpoint=hub.endpoint), published)


def test_too_little_room_is_told_before_anything_is_fetched(hub, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 1000))
    with pytest.raises(DownloadError, match="are needed in"):
        download(NAME, tmp_path, endpoint=hub.endpoint)
    assert not hub.requests and leftovers(tmp_path) == []


def test_parallel_runs_do_not_mix(hub, published, tmp_path):
    code = (
        "from multilingual_diffusion.pipeline_core.errors import DownloadError\n"
        "from multilingual_diffusion.pipeline_core.models.download import download\n"
        "try:\n"
        f"    download({NAME!r}, {str(tmp_path)!r}, endpoint={hub.endpoint!r})\n"
        "except DownloadError as exc:\n"
        "    assert 'another process is downloading' in str(exc), exc\n"
    )
    hub.pause = 0.005
    runs = [
        subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL) for _ in range(4)
    ]
    assert [run.wait(60) for run in runs] == [0, 0, 0, 0]
    assert_complete(tmp_path / NAME, published)
    assert leftovers(tmp_path) == [NAME]


def test_gated_missing_and_unknown(hub, tmp_path):
    hub.gated = True
    with pytest.raises(
        DownloadError, match=r"accept its terms at https://huggingface\.co/BAAI/Alt"
    ):
        download(NAME, tmp_path, endpoint=hub.endpoint)
    with pytest.raises(DownloadError, match="no revision 'fp8'; known: main, fp16"):
        download(NAME, tmp_path, endpoint=hub.endpoint, revision="fp8")
    with pytest.raises(DownloadError, match="no repository BAAI/AltDiffusion-m18"):
        download("altdiffusion-m18", tmp_path, endpoint=hub.endpoint)
    with pytest.raises(UnknownName, match="did you mean 'altdiffusion-m9'"):
        download("altdifusion-m9", tmp_path, endpoint=hub.endpoint)
    with pytest.raises(InvalidRequest, match="embedded"):
        download("nano", tmp_path)


def test_a_repository_without_a_needed_file(hub, tmp_path):
    hub.hidden = {"tokenizer/tokenizer_config.json"}
    assert download(NAME, tmp_path / "a", endpoint=hub.endpoint).is_dir()
    hub.hidden = {UNET}
    with pytest.raises(DownloadError, match=f"has no {UNET}"):
        download(NAME, tmp_path / "b", endpoint=hub.endpoint)


def test_no_server(tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with pytest.raises(DownloadError, match="stopped: ") as error:
        download(NAME, tmp_path, endpoint="http://127.0.0.1:9")
    assert "\n" not in str(error.value)


MODELSCOPE_CLIENT = {
    "__init__.py": "",
    "hub/__init__.py": "",
    "hub/errors.py": "class FileIntegrityError(Exception):\n    pass\n",
    "hub/snapshot_download.py": """
import shutil
from pathlib import Path

SOURCE = FAILURE = None


def snapshot_download(model_id, revision=None, local_dir=None):
    shutil.copytree(SOURCE, local_dir, dirs_exist_ok=True)
    if FAILURE:
        (Path(local_dir) / "model_index.json").unlink()
        raise FAILURE
""",
}


@pytest.fixture
def modelscope(tmp_path, monkeypatch):
    """Return a stand-in for ModelScope's client, which brings half a model where it fails."""
    for name, text in MODELSCOPE_CLIENT.items():
        path = tmp_path / "client" / "modelscope" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.syspath_prepend(tmp_path / "client")
    for name in [name for name in sys.modules if name.partition(".")[0] == "modelscope"]:
        monkeypatch.delitem(sys.modules, name)
    client = importlib.import_module("modelscope.hub.snapshot_download")
    client.SOURCE = layouts.write_modelscope_folder(tmp_path / "published")
    yield client
    for name in [name for name in sys.modules if name.partition(".")[0] == "modelscope"]:
        del sys.modules[name]


def test_modelscope_download_and_its_failures(modelscope, tmp_path):
    models, name = tmp_path / "models", "chinese-stable-diffusion"
    integrity = importlib.import_module("modelscope.hub.errors").FileIntegrityError
    for failure in (OSError("connection reset\nby peer"), integrity("sha256 differs")):
        modelscope.FAILURE = failure
        with pytest.raises(DownloadError, match=r"of damo/.* stopped: .*run the command again"):
            download(name, models)
        assert leftovers(models) == [f".{name}.incomplete"]
    modelscope.FAILURE = None
    target = download(name, models)
    assert leftovers(models) == [name] and detect(target).spec.name == name
    assert json.loads((target / "download.json").read_text())["repository"].startswith("damo/")
    assert "modelscope.cn" in (target / "NOTICE-licence.txt").read_text()
    modelscope.FAILURE = OSError("not asked again")
    assert download(name, models) == target


def test_modelscope_needs_its_client(tmp_path):
    pytest.importorskip("huggingface_hub")
    try:
        import modelscope  # noqa: F401
    except ImportError:
        with pytest.raises(MissingDependency, match="pip install"):
            download("chinese-stable-diffusion", tmp_path)
    else:
        pytest.skip("ModelScope's client is installed; its download needs the network")
