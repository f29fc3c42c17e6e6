"""uvicorn's httptools protocol with a bound on a request's head, which neither uvicorn nor llhttp sets."""

from __future__ import annotations

import json

from httptools import HttpParserError
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_HEAD_MAX = 64 * 1024
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

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        self._ended = False
        super().data_received(data)
        if not self._in_head or self._ended:  # what came with the end of a message is mostly that message's body
            self._unfinished = 0
            return
        self._unfinished += len(data)
        if self._unfinished > _HEAD_MAX and not self._refused:
            self.send_400_response("")

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
