"""HTTP/1.1 from the client's side: one connection, one call at a time, as little Python around them as there can be.

A proxied request spends most of its time in Python, and aiohttp's client was its largest part: 200 µs of CPU a call
against 35 (docs/performance.md). What an upstream needs is here: kept-alive connections, lengths, chunks, gzip, bounds
on time and memory. What one must not have is not: redirects, cookies, proxies, the environment. Parsing is llhttp's
(through httptools), as it is in uvicorn.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable
from typing import cast

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

MAX_HEAD_BYTES = 64 << 10
# Of a reply that is not read on, so much is taken from the socket ahead.
READ_AHEAD_BYTES = 256 << 10
# A kept-alive connection that breaks this soon had been closed by upstream before it read the request.
STALE_WITHIN_S = 0.25
_FRAMING = frozenset({b"content-length", b"transfer-encoding"})
_INFLATED_AT_ONCE = 1 << 20
_GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS


class HttpFailure(Exception):
    """What a call may end in; :mod:`gateway.backends.translate` says what that means for a request.

    ``body`` is what had come of a reply that was wanted whole.
    """

    body = b""


class CannotConnect(HttpFailure):
    """Refused, no such host, no trust: nothing was sent. An ``OSError`` that says so is the cause."""


class ConnectTimeout(HttpFailure):
    """DNS, TCP and TLS took longer than they may."""


class ReadTimeout(HttpFailure):
    """No byte came for as long as one may be waited for."""


class DeadlinePassed(HttpFailure):
    """The whole call took longer than it may."""


class Disconnected(HttpFailure):
    """The connection ended before the reply did. ``stale``: it had been used before and broke at once."""

    def __init__(self, message: str, *, stale: bool = False) -> None:
        super().__init__(message)
        self.stale = stale


class Malformed(HttpFailure):
    """Upstream does not speak HTTP/1.1, or in a coding that was not asked for."""


class Reply:
    """The answer to one call, read as it comes. To be closed (``close``) when left, however far it was read.

    ``status`` and ``headers`` (names in lower case) are there once ``head`` has returned; ``done`` once all of the body
    has come in.
    """

    def __init__(self, connection: Connection, read_timeout: float, ends: float, *, reused: bool, asked: float) -> None:
        self.status = 0
        self.done = False
        self.begun = False
        self.framed = False
        self.coding = b""
        self.failure: HttpFailure | None = None
        self.raw_headers: list[tuple[bytes, bytes]] = []
        self.reused, self.asked = reused, asked
        self._connection, self._read_timeout, self._ends = connection, read_timeout, ends
        self._parts: list[bytes] = []
        self._ahead = 0
        self._limit = ends
        self._waiter: asyncio.Future[None] | None = None
        self._inflater: _Inflater | None = None

    @property
    def headers(self) -> dict[str, str]:
        """By lower-case name; of one sent twice the last counts."""
        return {name.decode("latin-1"): value.decode("latin-1") for name, value in self.raw_headers}

    async def head(self) -> None:
        """Wait for status and headers. Raises HttpFailure."""
        while not self.begun:
            await self._wait()

    async def next(self) -> bytes:
        """What has come of the body, waiting for it where nothing has; empty at the end. Raises HttpFailure."""
        while True:
            if self._inflater is not None and (data := self._inflater.more()):
                return data
            while not self._parts:
                if self.done:
                    return b""
                await self._wait()
            data = self._taken()
            if self._inflater is None:
                return data
            self._inflater.feed(data)

    async def whole(self, limit: int) -> bytes | None:
        """The rest of the body, None if it is over ``limit`` bytes. Raises HttpFailure."""
        data = await self.next()
        if self.done and not self._parts and self._inflater is None:
            return data if len(data) <= limit else None
        parts, size = [data], len(data)
        try:
            while data and size <= limit:
                data = await self.next()
                parts.append(data)
                size += len(data)
        except HttpFailure as error:
            error.body = b"".join(parts)
            raise
        return b"".join(parts) if size <= limit else None

    def close(self) -> None:
        """Hang up, unless the reply came to its end."""
        if not self.done:
            self._connection.abort()

    def started(self, status: int) -> None:
        """Status and headers are there."""
        self.begun, self.status = True, status
        coding = self.coding.strip().lower()
        if coding in (b"gzip", b"x-gzip", b"deflate"):
            self._inflater = _Inflater()
        elif coding not in (b"", b"identity"):
            raise Malformed(f"a reply in the coding {coding[:40]!r}, which was not asked for")

    def take(self, body: bytes) -> bool:
        """Some of the body. Whether there is room for more."""
        self._parts.append(body)
        self._ahead += len(body)
        return self._ahead < READ_AHEAD_BYTES

    def wake(self) -> None:
        """Something has happened that may be waited for."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def expire(self, now: float) -> float | None:
        """Fail where the wait under way has been too long; else when it will have been, None where nobody waits."""
        if self._waiter is None:
            return None
        limit = self._limit
        if now < limit:
            return limit
        late = limit >= self._ends
        self._connection.fail(DeadlinePassed("the call took too long") if late else ReadTimeout("no byte in time"))
        return None

    def _taken(self) -> bytes:
        data = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts.clear()
        self._ahead = 0
        if not self.done:
            self._connection.resume()
        return data

    async def _wait(self) -> None:
        if self.failure is not None:
            raise self.failure
        connection = self._connection
        self._limit = min(connection.loop.time() + self._read_timeout, self._ends)
        connection.remind(self._limit)
        self._waiter = connection.loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None


class Connection(asyncio.Protocol):
    """A connection to upstream. ``free`` is told whenever it can take another call, ``lost`` when it has ended."""

    def __init__(self, free: Callable[[Connection], None], lost: Callable[[Connection], None]) -> None:
        self.loop = asyncio.get_running_loop()
        self.idle_since = 0.0
        self._free, self._lost = free, lost
        self._reply: Reply | None = None
        self._used = self._paused = False
        self._head = 0
        self._timer: asyncio.TimerHandle | None = None
        self._parser = HttpResponseParser(self)

    @property
    def usable(self) -> bool:
        return not self._transport.is_closing()

    def ask(self, data: bytes, read_timeout: float, ends: float) -> Reply:
        """Send a request. ``read_timeout`` bounds each wait for bytes (s), ``ends`` everything (the loop's clock)."""
        reply = Reply(self, read_timeout, ends, reused=self._used, asked=self.loop.time())
        self._reply, self._used, self._head = reply, True, 0
        self._transport.write(data)
        return reply

    def fail(self, failure: HttpFailure) -> None:
        """Give the call up and hang up."""
        if (reply := self._reply) is not None:
            self._reply, reply.failure = None, failure
            reply.wake()
        self.abort()

    def abort(self) -> None:
        self._reply = None
        self._transport.abort()

    def resume(self) -> None:
        """There is room again for what upstream sends."""
        if self._paused and not self._transport.is_closing():
            self._transport.resume_reading()
        self._paused = False

    def remind(self, at: float) -> None:
        """Look at the time then. One timer stands for many waits: it is moved only to be earlier."""
        if self._timer is None or self._timer.when() > at:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self.loop.call_at(at, self._look)

    def _look(self) -> None:
        self._timer = None
        if self._reply is not None and (at := self._reply.expire(self.loop.time())) is not None:
            self.remind(at)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one without saying so

    def data_received(self, data: bytes) -> None:
        reply = self._reply
        if reply is None:  # nothing was asked: whatever this is, it is not the answer to the next call
            self._transport.abort()
            return
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            cause = error.__context__
            self.fail(cause if isinstance(cause, HttpFailure) else Malformed(f"not HTTP/1.1: {error}"))
            return
        if not reply.begun:
            self._head += len(data)
            if self._head > MAX_HEAD_BYTES:
                self.fail(Malformed("the head of the reply never ends"))
        reply.wake()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        del self._parser  # it holds this connection in turn
        self._lost(self)
        reply, self._reply = self._reply, None
        if reply is None:
            return
        if exc is None and reply.begun and not reply.framed:
            reply.done = True  # a body without a length ends with its connection
        else:
            stale = reply.reused and not reply.begun and self.loop.time() - reply.asked < STALE_WITHIN_S
            reply.failure = Disconnected(str(exc or "it hung up"), stale=stale)
            reply.failure.__cause__ = exc
        reply.wake()

    def on_message_begin(self) -> None:
        if self._reply is None:
            self._transport.abort()

    def on_header(self, name: bytes, value: bytes) -> None:
        if (reply := self._reply) is not None and not reply.begun:  # what comes behind the body is nobody's
            name = name.lower()
            if name in _FRAMING:
                reply.framed = True
            elif name == b"content-encoding":
                reply.coding = value
            reply.raw_headers.append((name, value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if self._reply is not None and status >= 200:
            self._reply.started(status)

    def on_body(self, body: bytes) -> None:
        if self._reply is not None and not self._reply.take(body):
            self._paused = True
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        reply = self._reply
        if reply is None:
            return
        if not reply.begun:  # 1xx: the answer is still to come
            reply.raw_headers.clear()
            reply.framed, reply.coding = False, b""
            return
        self._reply, reply.done = None, True
        if self._parser.should_keep_alive():
            self.resume()
            self.idle_since = self.loop.time()
            self._free(self)
        else:
            self._transport.close()


class _Inflater:
    """gzip or deflate, a mebibyte at a time: a small body may unpack to a very large one."""

    def __init__(self) -> None:
        self._inflate = zlib.decompressobj(_GZIP_OR_ZLIB)
        self._packed = b""

    def feed(self, packed: bytes) -> None:
        self._packed += packed

    def more(self) -> bytes:
        """The next of what has been fed, unpacked; empty where more is needed. Raises Malformed."""
        if not self._packed:
            return b""
        try:
            data = self._inflate.decompress(self._packed, _INFLATED_AT_ONCE)
        except zlib.error as error:
            raise Malformed(f"a body that cannot be unpacked: {error}") from None
        self._packed = self._inflate.unconsumed_tail
        return data
