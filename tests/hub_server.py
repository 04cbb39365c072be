"""A small Hugging Face hub on 127.0.0.1: the real client talks to it over real sockets.

It serves one repository from a folder, with ranges, and misbehaves where told to.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LFS_BYTES = 10_000  # larger files are described by sha256, smaller ones by git's blob id


class HubServer(ThreadingHTTPServer):
    """`requests` holds (path, Range header) of all file requests."""

    daemon_threads = True

    def __init__(self, folder: Path, repository: str = "BAAI/AltDiffusion-m9") -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.repository = repository
        self.commit = COMMIT
        self.gated = False
        self.revisions = {None, "main", "fp16"}
        self.hidden: set[str] = set()  # files that are not listed
        self.wrong_bytes: set[str] = set()  # served with one byte changed
        self.short: set[str] = set()  # served without their last byte, as if they were whole
        self.cut_after: dict[str, int] = {}  # the connection breaks once after so many bytes
        self.pause = 0.0  # seconds between blocks of 64 KB
        self.sent = 0
        self.requests: list[tuple[str, str | None]] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def siblings(self) -> list[dict]:
        found = []
        for path in sorted(self.folder.rglob("*")):
            name = path.relative_to(self.folder).as_posix()
            if path.is_file() and name not in self.hidden:
                found.append(_describe(name, path.read_bytes()))
        return found

    def handle_error(self, request, client_address) -> None:
        """Say nothing: killed clients are part of the tests."""


def _describe(name: str, data: bytes) -> dict:
    blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    entry = {"rfilename": name, "size": len(data), "blobId": blob}
    if len(data) > LFS_BYTES:
        entry["blobId"] = "0" * 40  # the id of the pointer file, useless for checking
        sha256 = hashlib.sha256(data).hexdigest()
        entry["lfs"] = {"sha256": sha256, "size": len(data), "pointerSize": 134}
    return entry


class _Handler(BaseHTTPRequestHandler):
    server: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *args) -> None:
        """Keep the test output clean."""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        api = f"/api/models/{self.server.repository}"
        files = f"/{self.server.repository}/resolve/{self.server.commit}/"
        if path == api or path.startswith(f"{api}/revision/"):
            revision = path[len(f"{api}/revision/") :] or None
            self.send_info(revision)
        elif path.startswith(files):
            self.send_file(path[len(files) :])
        else:
            self.send_problem(404, "RepoNotFound")

    def send_info(self, revision: str | None) -> None:
        if revision not in self.server.revisions:
            return self.send_problem(404, "RevisionNotFound")
        info = {
            "id": self.server.repository,
            "modelId": self.server.repository,
            "sha": self.server.commit,
            "private": False,
            "tags": [],
            "siblings": self.server.siblings(),
        }
        body = json.dumps(info).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def send_problem(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def send_file(self, name: str) -> None:
        server, wanted = self.server, self.headers.get("Range")
        server.requests.append((name, wanted))
        if server.gated:
            return self.send_problem(403, "GatedRepo")
        data = bytearray((server.folder / name).read_bytes())
        if name in server.wrong_bytes:
            data[-1] ^= 1
        if name in server.short:
            data = data[:-1]
        start = int(wanted.removeprefix("bytes=").partition("-")[0]) if wanted else 0
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(data) - start))
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        cut = server.cut_after.pop(name, None)
        for position in range(start, len(data) if cut is None else cut, 2**16):
            block = data[position : min(position + 2**16, len(data) if cut is None else cut)]
            self.wfile.write(block)
            server.sent += len(block)
            time.sleep(server.pause)
        self.close_connection = cut is not None
