"""One HTTP/1.1 connection of the scripted upstream: httptools in, raw bytes out."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator
from http import HTTPStatus
from itertools import count
from typing import cast

import httptools

from tests.support.upstream.record import Received, Record
from tests.support.upstream.reply import Event, Reply

_IDS = count(1)
_STREAM_HEAD = b"content-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_PHRASES = {status.value: status.phrase for status in HTTPStatus}


class Connection(asyncio.Protocol):
    """Reads requests, plays the reply that `reply_to` names, and notes what happens in `record`.

    A plain reply without delay is written before `data_received` returns; everything else is a task that dies
    with the connection. Pipelined requests are answered in order.
    """

    def __init__(self, reply_to: Callable[[Received], Reply], record: Record, connections: "set[Connection]") -> None:
        self._reply_to = reply_to
        self._record = record
        self._connections = connections
        self._parser = httptools.HttpRequestParser(self)
        self._pending: deque[Received] = deque()
        self._current: Received | None = None
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The server accepted a client."""
        self._transport = cast(asyncio.Transport, transport)
        self._connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone; a reply under way was left by its client."""
        self._connections.discard(self)
        self._pending.clear()
        if self._task:
            self._task.cancel()
        if self._current:
            self._current.disconnected = True
            self._end()

    def data_received(self, data: bytes) -> None:
        """Bytes came in."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError:  # a mistake of our own
            raise
        except httptools.HttpParserError:
            self._transport.abort()

    def close(self) -> None:
        """Reset the connection."""
        self._transport.abort()

    def on_message_begin(self) -> None:
        """A request begins (httptools)."""
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._body: list[bytes] = []

    def on_url(self, url: bytes) -> None:
        """A part of the request target (httptools)."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header (httptools)."""
        self._headers.append((name, value))

    def on_body(self, body: bytes) -> None:
        """A part of the body (httptools)."""
        self._body.append(body)

    def on_message_complete(self) -> None:
        """The request is whole (httptools)."""
        keep_alive = self._parser.should_keep_alive()
        method, path = self._parser.get_method().decode(), self._url.decode("latin-1")
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        received = Received(f"{next(_IDS):08x}", method, path, self._headers, body, keep_alive)
        if self._current:
            self._pending.append(received)
        else:
            self._start(received)

    def _start(self, received: Received) -> None:
        self._current = received
        reply = self._reply_to(received)
        received.plan, received.status = reply.plan, reply.status
        self._record.opened(received)
        if reply.plan.drop_connect:
            self._end()
            self._transport.abort()
        elif reply.events or reply.plan.first_delay_s:
            self._task = asyncio.get_running_loop().create_task(self._play(received, reply))
        elif not reply.plan.hang:
            self._write_plain(received, reply)

    async def _play(self, received: Received, reply: Reply) -> None:
        await asyncio.sleep(reply.plan.first_delay_s)
        if reply.plan.hang:
            return
        if reply.events is None:
            self._write_plain(received, reply)
            return
        try:
            await self._stream(received, reply, reply.events)
        finally:
            if not received.completed and not received.disconnected:
                self._break()

    async def _stream(self, received: Received, reply: Reply, events: Iterator[Event]) -> None:
        plan, pieces, garbage = reply.plan, 0, reply.plan.garbage_after
        self._write_head(received, reply, _STREAM_HEAD)
        for event in events:
            if pieces == garbage:
                self._write_chunk(plan.garbage)
                garbage = None
            if plan.cut_after is not None and pieces >= plan.cut_after:
                return
            if event.piece and pieces and plan.chunk_delay_s:
                await asyncio.sleep(plan.chunk_delay_s)
            pieces += event.piece
            received.usage = event.usage or received.usage
            self._write_chunk(event.data)
        self._transport.write(b"0\r\n\r\n")
        self._complete(received)

    def _write_plain(self, received: Received, reply: Reply) -> None:
        body = reply.body
        head = b"content-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
        if reply.plan.cut_after is not None:
            self._write_head(received, reply, head + body[: len(body) // 2])
            self._break()
        else:
            received.usage = reply.usage
            self._write_head(received, reply, head + body)
            self._complete(received)

    def _write_head(self, received: Received, reply: Reply, rest: bytes) -> None:
        received.first_byte_at = time.monotonic()
        phrase = _PHRASES.get(reply.status, "Scripted")
        head = f"HTTP/1.1 {reply.status} {phrase}\r\nx-request-id: req_{received.id}\r\n"
        for name, value in reply.plan.headers.items():
            head += f"{name}: {value}\r\n"
        if not received.keep_alive:
            head += "connection: close\r\n"
        self._transport.write(head.encode("latin-1") + rest)

    def _write_chunk(self, data: bytes) -> None:
        self._transport.write(b"%x\r\n%s\r\n" % (len(data), data))

    def _break(self) -> None:
        self._end()
        self._transport.close()

    def _complete(self, received: Received) -> None:
        received.completed = True
        self._end()
        if not received.keep_alive:
            self._transport.close()
        elif self._pending:
            self._start(self._pending.popleft())

    def _end(self) -> None:
        received, self._current, self._task = self._current, None, None
        if received:
            self._record.ended(received)
