"""A small HTTP server of files that behaves as a hub, its CDN and a package index do, and breaks off when told to."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "c0ffee"


class FileServer:
    """What it has, how it misbehaves, and what it was asked.

    `break_after`: bytes after which each of the next bodies is cut, one a body. `digest`: what the hub claims
    instead of the truth. `ranges`: the Range header of each download, in order.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.break_after: list[int] = []
        self.statuses: list[int] = []
        self.digest: str | None = None
        self.simple_json = True
        self.token: str | None = None
        self.ranges: list[str | None] = []
        self.seen: list[str] = []
        self.url = ""

    def wheel(self, filename: str, content: bytes) -> None:
        """Offer a wheel at /files/FILENAME, listed under /simple/PROJECT/."""
        self.files[f"/files/{filename}"] = content

    def hub(self, repo: str, file: str, content: bytes) -> None:
        """Offer a file of a hub repository."""
        self.files[f"/cdn/{repo}/{file}"] = content


@contextlib.contextmanager
def file_server() -> Iterator[FileServer]:
    """A running FileServer; its address is `url`."""
    state = FileServer()

    class Handler(_Handler):
        server_state = state

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    server_state: FileServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None: ...

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        state = self.server_state
        state.seen.append(f"{self.command} {self.path}")
        if state.token and "/resolve/" in self.path and self.headers["Authorization"] != f"Bearer {state.token}":
            self._answer(401)
        elif found := re.fullmatch(r"/([\w-]+/[\w-]+)/resolve/(\w+)/(.+)", self.path):
            self._resolve(found[1], found[3])
        elif found := re.fullmatch(r"/simple/([\w-]+)/", self.path):
            self._simple(found[1])
        elif self.path in state.files:
            self._content(state.files[self.path])
        else:
            self._answer(404)

    def _resolve(self, repo: str, file: str) -> None:
        content = self.server_state.files.get(f"/cdn/{repo}/{file}")
        if content is None:
            self._answer(404)
            return
        digest = self.server_state.digest or hashlib.sha256(content).hexdigest()
        self._answer(302, {
            "Location": f"/cdn/{repo}/{file}", "X-Linked-Etag": f'"{digest}"', "X-Repo-Commit": COMMIT,
        })  # fmt: skip

    def _simple(self, project: str) -> None:
        files = {
            path.rpartition("/")[2]: hashlib.sha256(content).hexdigest()
            for path, content in self.server_state.files.items()
            if path.startswith("/files/" + project.replace("-", "_"))
        }
        if self.server_state.simple_json:
            listing = [
                {"filename": name, "url": f"../../files/{name}", "hashes": {"sha256": digest}}
                for name, digest in files.items()
            ]
            text, kind = json.dumps({"files": listing}), "application/vnd.pypi.simple.v1+json"
        else:
            text = "".join(f'<a href="/files/{name}#sha256={digest}">{name}</a>' for name, digest in files.items())
            kind = "text/html"
        self._answer(200, {"Content-Type": kind}, text.encode())

    def _content(self, content: bytes) -> None:
        state, asked = self.server_state, self.headers["Range"]
        state.ranges.append(asked)
        if state.statuses:
            self._answer(state.statuses.pop(0))
            return
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        if asked and start >= len(content):
            self._answer(416)
            return
        span = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"} if asked else {}
        cut = state.break_after.pop(0) if state.break_after else None
        self._answer(206 if asked else 200, span, content[start:], cut)

    def _answer(
        self, status: int, headers: dict[str, str] | None = None, body: bytes = b"", cut: int | None = None
    ) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[:cut])
        if cut is not None:
            self.close_connection = True
