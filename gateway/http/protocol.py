"""uvicorn's httptools protocol with a bound on a request's head, which neither uvicorn nor llhttp sets."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, cast

from httptools import HttpParserError
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

LEAVING = "farthing.leaving"
"""ASGI extension: a dict of functions, under keys of one's own, to be called when the client hangs up.

A task that awaits ``receive`` for that costs every request what this costs only those that are left.
"""

WHOLE = "farthing.whole"
"""ASGI extension: an async function of headers and body that sends all of a 200 reply in one write.

``http.response.start`` and ``http.response.body`` are two, and uvicorn searches each header twice.
"""

_HEAD_MAX = 64 * 1024
_UPGRADE = re.compile(rb"(?i)(?<=\n)upgrade:")
_LINGER_S = 1.0
_MESSAGE = "the request could not be read: it is malformed, or its headers are larger than 64 KiB"
_BODY = json.dumps(
    {"error": {"message": _MESSAGE, "type": "invalid_request_error", "param": None, "code": "invalid_request"}}
).encode()
_REPLY = (
    b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\nconnection: close\r\n"
    b"content-length: %d\r\n\r\n%b" % (len(_BODY), _BODY)
)


class BoundedProtocol(HttpToolsProtocol):
    """Refuses what cannot be read in OpenAI's error format, and a head that is too large or never ends."""

    _refused = False
    _in_head = True
    _ended = False
    _unfinished = 0
    _head = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._leaving: dict[object, object] = {}

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        self._ended = False
        if self._in_head and (b"pgrade:" in data or b"PGRADE:" in data):
            data = _unoffered(data)
        super().data_received(data)
        if not self._in_head or self._ended:  # what came with the end of a message is mostly that message's body
            self._unfinished = 0
            return
        self._unfinished += len(data)
        if self._unfinished > _HEAD_MAX and not self._refused:
            self.send_400_response("")

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        for leave in list(self._leaving.values()):
            cast(Callable[[], None], leave)()

    def on_message_begin(self) -> None:
        self._head = 0
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head += len(name) + len(value)
        if self._head > _HEAD_MAX:
            raise HttpParserError("headers too large")
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head = False
        super().on_headers_complete()
        if self.cycle is not None:
            extensions: Any = {LEAVING: self._leaving, WHOLE: partial(_reply, self.cycle)}
            self.scope["extensions"] = extensions

    def on_message_complete(self) -> None:
        self._in_head = self._ended = True
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """What the client is still sending is read and dropped for a moment: closing on it would reset the connection,
        and the reply would be lost.
        """
        self._refused = True
        self.transport.write(_REPLY)
        if self.cycle is not None and not self.cycle.response_complete:
            self.transport.close()
            return
        self.transport.write_eof()
        self.loop.call_later(_LINGER_S, self.transport.close)


def _unoffered(data: bytes) -> bytes:
    """Without the offer of another protocol, which may be passed over (RFC 9110, 7.8): the parser would take what
    follows for that protocol. Java's client offers HTTP/2 with each first request, curl does with ``--http2``.
    """
    head, end, rest = data.partition(b"\r\n\r\n")
    return _UPGRADE.sub(b"x-offer:", head) + end + rest


async def _reply(cycle: RequestResponseCycle, headers: Iterable[tuple[str, str]], body: bytes) -> None:
    """What ``cycle.send`` does with a start and a body, for a reply that is known whole."""
    if cycle.flow.write_paused and not cycle.disconnected:
        await cycle.flow.drain()
    if cycle.disconnected:
        return
    lines = list(map(": ".join, headers))
    head = "\r\n".join(lines).encode("latin-1", "replace")
    if head.count(b"\n") >= len(lines) or head.count(b"\r") >= len(lines) or b"\0" in head:
        raise ValueError("a header holds a line break")
    own = b"".join([b"%b: %b\r\n" % header for header in cycle.default_headers])
    last = b"" if cycle.keep_alive else b"connection: close\r\n"
    cycle.response_started = cycle.response_complete = True
    cycle.transport.write(
        b"HTTP/1.1 200 OK\r\n%b%b\r\n%bcontent-length: %d\r\n\r\n%b" % (own, head, last, len(body), body)
    )
    cycle.message_event.set()
    if not cycle.keep_alive:
        cycle.transport.close()
    cycle.on_response()
