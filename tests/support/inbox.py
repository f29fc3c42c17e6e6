"""Where alerts arrive in tests: a webhook and a mail server on loopback."""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Webhook:
    """Keeps the JSON bodies it is sent; answers with the next of ``statuses``, 200 once they are used up."""

    def __init__(self) -> None:
        self.received: list[dict[str, Any]] = []
        self.statuses: list[int] = []
        self.url = ""

    @property
    def titles(self) -> list[str]:
        return [body["title"] for body in self.received]


@contextmanager
def webhook() -> Iterator[Webhook]:
    inbox = Webhook()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            status = inbox.statuses.pop(0) if inbox.statuses else 200
            if status == 200:
                inbox.received.append(json.loads(body))
            self.send_response(status)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    inbox.url = f"http://127.0.0.1:{server.server_address[1]}/services/T0/B0/planted-secret"
    with _running(server):
        yield inbox


class Mailbox:
    """Keeps the messages a mail server is given, as text."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.port = 0


@contextmanager
def mailbox() -> Iterator[Mailbox]:
    inbox = Mailbox()

    class Handler(socketserver.StreamRequestHandler):
        """As much of SMTP (RFC 5321) as smtplib speaks."""

        def handle(self) -> None:
            self._say("220 here")
            while line := self.rfile.readline().strip():
                verb = line[:4].upper()
                if verb == b"DATA":
                    self._say("354 go on")
                    inbox.messages.append(self._data())
                    self._say("250 taken")
                elif verb == b"QUIT":
                    return self._say("221 bye")
                else:
                    self._say("250 fine")
            return None

        def _data(self) -> str:
            lines = []
            while (line := self.rfile.readline().rstrip(b"\r\n")) != b".":
                lines.append(line.decode())
            return "\n".join(lines)

        def _say(self, line: str) -> None:
            self.wfile.write(f"{line}\r\n".encode())

    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    inbox.port = server.server_address[1]
    with _running(server):
        yield inbox


@contextmanager
def _running(server: socketserver.BaseServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
