"""A real ComfyUI server beside the tests: started, asked, listened to, stopped.

Its folders of models, pictures and users are made anew, so the checkout stays as it is.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from comfyui.checkout import PACK, Checkout

FOLDER = "comfyui-multilingual-diffusion"  # the pack's below custom_nodes, as the Manager names it

START_SECONDS = 180.0
RUN_SECONDS = 120.0
ISOLATION = (
    "--cpu", "--listen", "127.0.0.1", "--disable-auto-launch", "--disable-api-nodes",
    "--disable-all-custom-nodes", "--whitelist-custom-nodes", FOLDER,
    # by default 0.33 drops cached nodes where memory is short: what runs again would be chance
    "--cache-classic",
)  # fmt: skip

# The server ends with us, however we end: its standard input is a pipe that nobody writes to.
_MAIN = """
import os, runpy, sys, threading
def wait():
    os.read(0, 1)
    os._exit(0)
threading.Thread(target=wait, daemon=True).start()
sys.argv = sys.argv[1:]
sys.path[0] = os.path.dirname(sys.argv[0])
runpy.run_path(sys.argv[0], run_name="__main__")
"""


class Refused(Exception):
    """The server's answer to a request that it does not take; `answer` is its JSON."""

    def __init__(self, status: int, answer: Any) -> None:
        super().__init__(f"HTTP {status}: {str(answer)[:2000]}")
        self.status, self.answer = status, answer


class Server:
    """A running ComfyUI. `base` holds its folders models, output, input, temp and custom_nodes."""

    def __init__(self, checkout: Checkout, base: Path, port: int, log_file: Path) -> None:
        self._checkout = checkout
        self.base, self.port, self.log_file = base, port, log_file
        self.url = f"http://127.0.0.1:{port}"

    @property
    def version(self) -> tuple[int, ...]:
        """ComfyUI's own version."""
        said = self.fetch_json("/system_stats")["system"]["comfyui_version"]
        return tuple(int(part) for part in said.split("."))

    # -- requests

    def fetch(self, path: str, body: Any = None, *, seconds: float = 60.0) -> bytes:
        """Return what the server answers to a GET, or to a POST where there is a body.

        Raises:
            Refused: its status is 400 or more.
        """
        request = urllib.request.Request(self.url + path)
        if body is not None:
            request.data = json.dumps(body).encode()
            request.add_header("Content-Type", "application/json")
        try:
            with urllib.request.urlopen(request, timeout=seconds) as answer:
                return answer.read()
        except urllib.error.HTTPError as exc:
            with exc:
                raise Refused(exc.code, _json_or_text(exc.read())) from None

    def fetch_json(self, path: str, body: Any = None) -> Any:
        """Return the JSON that the server answers."""
        return json.loads(self.fetch(path, body))

    def log(self) -> str:
        """Return everything the server has said so far."""
        return self.log_file.read_text(encoding="utf-8", errors="replace")

    # -- graphs

    def submit(
        self,
        prompt: Mapping[str, Any],
        *,
        workflow: Any = None,
        client: str = "tests",
        targets: list[str] | None = None,
    ) -> str:
        """Queue a graph in API format and return its id.

        Raises:
            Refused: it does not validate; `answer` says why.
        """
        body: dict[str, Any] = {"prompt": prompt, "client_id": client}
        body["prompt_id"] = str(uuid.uuid4())
        if workflow is not None:
            body["extra_data"] = {"extra_pnginfo": {"workflow": workflow}}
        if targets is not None:
            body["partial_execution_targets"] = targets
        return self.fetch_json("/prompt", body)["prompt_id"]

    def wait(self, prompt_id: str, seconds: float = RUN_SECONDS) -> dict[str, Any]:
        """Wait until a graph has ended and return its history entry."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            history = self.fetch_json(f"/history/{prompt_id}")
            if prompt_id in history:
                return history[prompt_id]
            time.sleep(0.05)
        raise TimeoutError(f"no end after {seconds} s; the server says:\n{self.log()[-4000:]}")

    def run(self, prompt: Mapping[str, Any], **options: Any) -> dict[str, Any]:
        """Run a graph to its end and return its history entry; a failure is an AssertionError."""
        entry = self.wait(self.submit(prompt, **options))
        assert entry["status"]["status_str"] == "success", json.dumps(entry["status"], indent=1)
        return entry

    def pictures(self, entry: Mapping[str, Any]) -> dict[str, list[bytes]]:
        """Return the PNG files of a history entry by node id, as the browser gets them."""
        return {
            node: [
                self.fetch("/view?" + urllib.parse.urlencode(picture))
                for picture in output.get("images", ())
            ]
            for node, output in entry["outputs"].items()
        }

    def interrupt(self) -> None:
        """Stop the graph that runs."""
        self.fetch("/interrupt", {})

    @contextlib.contextmanager
    def listen(self, client: str) -> Iterator[Listener]:
        """Hear what the server tells this client, from the moment the context begins."""
        command = [self._checkout.python, str(Path(__file__).with_name("listen.py"))]
        process = subprocess.Popen(
            [*command, self.url, client],
            env=self._checkout.environment(self.base / "packages"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        listener = Listener(process)
        try:
            listener.wait_for(lambda event: event["type"] == "status")
            yield listener
        finally:
            listener.stop()

    def free(self) -> None:
        """Have models unloaded and outputs forgotten, at the latest before the next graph."""
        self.fetch("/free", {"unload_models": True, "free_memory": True})


class Listener:
    """Everything that a server told a client so far; the newest event is the last."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.events: list[dict[str, Any]] = []
        self._process = process
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._news:
                self.events.append(json.loads(line))
                self._news.notify_all()

    def wait_for(
        self, wanted: Callable[[dict[str, Any]], bool], seconds: float = RUN_SECONDS
    ) -> dict[str, Any]:
        """Return the first event that is wanted, be it past or to come."""
        seen = 0

        def found() -> bool:
            nonlocal seen
            while seen < len(self.events) and not wanted(self.events[seen]):
                seen += 1
            return seen < len(self.events)

        with self._news:
            if not self._news.wait_for(found, seconds):
                raise TimeoutError(f"not told in {seconds} s: {self.events[-5:]}")
            return self.events[seen]

    def told(self, *kinds: str) -> list[dict[str, Any]]:
        """Return the data of the events of these kinds."""
        with self._news:
            return [event["data"] for event in self.events if event["type"] in kinds]

    def stop(self) -> None:
        """End the program that listens."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._reader.join(30)
        self._process.stdout.close()


def _json_or_text(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        return data.decode(errors="replace")


def executed_nodes(entry: Mapping[str, Any], prompt: Mapping[str, Any]) -> set[str]:
    """Return the ids of the nodes that ran for a history entry: those that were not cached."""
    messages = dict(entry["status"]["messages"])
    return set(prompt) - set(messages["execution_cached"]["nodes"])


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def serve(checkout: Checkout, base: Path, *flags: str) -> Iterator[Server]:
    """Start a server with this pack alone, wait until it answers, and stop it at the end."""
    for name in ("custom_nodes", "models", "input", "output", "temp", "user"):
        (base / name).mkdir(parents=True, exist_ok=True)
    link = base / "custom_nodes" / FOLDER
    if not link.exists():
        link.symlink_to(PACK, target_is_directory=True)
    server = Server(checkout, base, free_port(), base / f"server-{uuid.uuid4().hex[:8]}.log")
    command = [
        checkout.python, "-c", _MAIN, str(checkout.folder / "main.py"), *ISOLATION,
        "--port", str(server.port), "--base-directory", str(base),
        "--database-url", f"sqlite:///{base / 'user' / 'comfyui.db'}", *flags,
    ]  # fmt: skip
    with server.log_file.open("wb") as log:
        process = subprocess.Popen(
            command, cwd=base, env=checkout.environment(base / "packages"),
            stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    try:
        _wait_until_up(server, process)
        yield server
    finally:
        _stop(process)


def _wait_until_up(server: Server, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < end:
        with contextlib.suppress(OSError, Refused):
            server.fetch("/system_stats", seconds=5)
            return
        time.sleep(0.2)
    raise RuntimeError(f"ComfyUI does not start (exit {process.poll()}):\n{server.log()[-6000:]}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.close()  # its end, unless it hangs
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)
