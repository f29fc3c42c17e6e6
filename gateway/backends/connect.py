"""Connections to upstreams: shared by the calls to one URL, and quick to notice a network that swallows packets."""

from __future__ import annotations

import asyncio
import functools
import socket
import ssl
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import SplitResult, quote, urlsplit

import aiohappyeyeballs

from gateway.backends.http1 import (
    CannotConnect,
    Connection,
    ConnectTimeout,
    DeadlinePassed,
    Disconnected,
    HttpFailure,
    Malformed,
    Reply,
)

SocketFactory = Callable[[tuple[Any, ...]], socket.socket]
Headers = Iterable[tuple[str, str]]

# Many servers close what has been idle for longer (uvicorn's default is 5 s, nginx' 75 s).
IDLE_S = 15.0
# RFC 8305: how long the first address is tried before the next one is tried beside it.
_NEXT_ADDRESS_S = 0.25
_KEEPALIVE_IDLE_S, _KEEPALIVE_INTERVAL_S = 15, 5
_OWN = (("User-Agent", "farthing-gateway"), ("Accept", "*/*"), ("Accept-Encoding", "identity"))
_PATH = "/%:@!$&'()*+,;=~-._"


class Endpoint:
    """One method on one URL, over TCP, TLS or a Unix socket (``uds``). Redirects are not followed, nor proxies asked.

    Times are seconds: ``connect_timeout`` bounds DNS, TCP and TLS, and how long sent data may stay unacknowledged;
    ``read_timeout`` each wait for bytes; ``timeout`` the whole call. The number of connections has no limit: how many
    requests run at once is decided at admission, and a wait here would count as one for the connection.
    """

    def __init__(
        self,
        url: str,
        *,
        method: str = "POST",
        headers: Headers = (),
        uds: str | None = None,
        connect_timeout: float,
        read_timeout: float,
        timeout: float,
    ) -> None:
        self._url, self._method, self._uds = url, method, uds
        self._headers = tuple(headers)
        self._connect_timeout, self._read_timeout, self._timeout = connect_timeout, read_timeout, timeout
        self._head: bytes | None = None
        self._idle: list[Connection] = []
        self._open: set[Connection] = set()
        self._sweeper: asyncio.TimerHandle | None = None
        self._closed = False

    async def call(self, body: bytes = b"", *, headers: Headers = (), timeout_s: float | None = None) -> Reply:
        """Ask, and wait for the head of the reply, which is to be closed. ``headers`` do not replace this endpoint's.

        Raises:
            HttpFailure
        """
        loop = asyncio.get_running_loop()
        ends = loop.time() + (self._timeout if timeout_s is None else max(timeout_s, 0.001))
        head = self._head or self._own_head()
        if headers:
            own = {name.lower() for name, _ in self._headers}
            head += b"".join(_line(name, value) for name, value in headers if name.lower() not in own)
        request = b"%bContent-Length: %d\r\n\r\n%b" % (head, len(body), body)
        connection = self._kept() or await self._connect(ends)
        reply = connection.ask(request, self._read_timeout, ends)
        try:
            await reply.head()
        except BaseException:  # also where the call is cancelled: upstream is to stop working for it
            reply.close()
            raise
        return reply

    async def close(self) -> None:
        """Hang up on every call under way, and release connections."""
        self._closed = True
        for connection in list(self._open):
            connection.fail(Disconnected("the connection was closed here"))
        if self._sweeper is not None:
            self._sweeper.cancel()

    def _own_head(self) -> bytes:
        """The request line and the headers that every call has. Raises CannotConnect where the URL is none."""
        try:
            parts = urlsplit(self._url)
            host, port = _host(parts), "" if parts.port in (None, _default_port(parts)) else f":{parts.port}"
        except ValueError as error:
            raise CannotConnect(f"{self._url}: {error}") from None
        target = quote(parts.path or "/", safe=_PATH)
        if parts.query:
            target += "?" + quote(parts.query, safe=_PATH + "?")
        name = (f"[{host}]" if ":" in host else host) + port
        lines = (_line(*header) for header in (("Host", name), *_OWN, *self._headers))
        self._head = b"%b %b HTTP/1.1\r\n%b" % (self._method.encode(), target.encode(), b"".join(lines))
        return self._head

    def _kept(self) -> Connection | None:
        """The connection that was used last, of those that wait for use."""
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                return connection
        return None

    async def _connect(self, ends: float) -> Connection:
        bound = asyncio.get_running_loop().time() + self._connect_timeout
        try:
            async with asyncio.timeout_at(min(bound, ends)):
                connection = await self._made()
        except OSError as error:
            if isinstance(error, TimeoutError) and error.errno is None:  # ours; the kernel's has a number
                late = ConnectTimeout if bound <= ends else DeadlinePassed
                raise late("not connected in time") from None
            raise CannotConnect(str(error)) from error
        except ValueError as error:  # a name that cannot be asked for
            raise CannotConnect(str(error)) from None
        if self._closed or not connection.usable:
            connection.abort()
            raise Disconnected("it hung up at once")
        self._open.add(connection)
        return connection

    async def _made(self) -> Connection:
        loop = asyncio.get_running_loop()

        def protocol() -> Connection:
            return Connection(self._freed, self._open.discard)

        if self._uds is not None:
            return (await loop.create_unix_connection(protocol, self._uds))[1]
        parts = urlsplit(self._url)
        host = _host(parts)
        found = await loop.getaddrinfo(host, parts.port or _default_port(parts), type=socket.SOCK_STREAM)
        made = await aiohappyeyeballs.start_connection(
            found,
            happy_eyeballs_delay=_NEXT_ADDRESS_S,
            interleave=1,
            loop=loop,
            socket_factory=socket_factory(self._connect_timeout),
        )
        try:
            secure = parts.scheme == "https"
            tls, name = (_tls(), host) if secure else (None, None)
            return (await loop.create_connection(protocol, sock=made, ssl=tls, server_hostname=name))[1]
        except BaseException:  # also where it takes too long and is cancelled
            made.close()
            raise

    def _freed(self, connection: Connection) -> None:
        self._idle.append(connection)
        if self._sweeper is None and not self._closed:
            self._sweeper = connection.loop.call_later(IDLE_S, self._sweep)

    def _sweep(self) -> None:
        """Let go of what nobody has used for ``IDLE_S`` seconds."""
        self._sweeper = None
        since = asyncio.get_running_loop().time() - IDLE_S
        for connection in [one for one in self._idle if one.idle_since <= since]:
            self._idle.remove(connection)
            connection.abort()
        if self._idle:
            self._sweeper = self._idle[0].loop.call_later(IDLE_S, self._sweep)


async def reach(url: str, *, uds: str | None = None, connect_timeout: float) -> int | None:
    """The status of a GET on a new connection (0: an answer that is no HTTP); None where nothing answers."""
    endpoint = Endpoint(
        url,
        method="GET",
        uds=uds,
        connect_timeout=connect_timeout,
        read_timeout=connect_timeout,
        timeout=2 * connect_timeout,
    )
    try:
        return (await endpoint.call()).status
    except Malformed:
        return 0
    except HttpFailure:
        return None
    finally:
        await endpoint.close()


def socket_factory(connect_timeout: float) -> SocketFactory:
    """What makes sockets that give up on a peer silent for ``connect_timeout`` seconds."""
    options = [
        (socket.IPPROTO_TCP, "TCP_NODELAY", 1),
        # Data not acknowledged within the connect bound end the connection (RFC 5482), so that a kept-alive
        # connection is no slower to notice a dead network than a new one.
        (socket.IPPROTO_TCP, "TCP_USER_TIMEOUT", int(connect_timeout * 1000)),
        # The same while nothing is being sent and the answer is awaited.
        (socket.SOL_SOCKET, "SO_KEEPALIVE", 1),
        (socket.IPPROTO_TCP, "TCP_KEEPIDLE", _KEEPALIVE_IDLE_S),
        (socket.IPPROTO_TCP, "TCP_KEEPINTVL", _KEEPALIVE_INTERVAL_S),
    ]
    known = [(level, getattr(socket, name), value) for level, name, value in options if hasattr(socket, name)]

    def factory(address: tuple[Any, ...]) -> socket.socket:
        family, kind, protocol = address[:3]
        made = socket.socket(family, kind, protocol)
        for option in known:
            made.setsockopt(*option)
        return made

    return factory


@functools.cache
def _tls() -> ssl.SSLContext:
    """One for all: reading the system's certificates takes tens of milliseconds."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


def _line(name: str, value: str) -> bytes:
    """A header as it is sent. Raises CannotConnect where it cannot be (a key with a line break, say)."""
    try:
        line = f"{name}: {value}".encode("latin-1")
    except UnicodeEncodeError:
        line = b"\n"
    if any(byte in line for byte in b"\r\n\0"):
        raise CannotConnect(f"the header {name!r} cannot be sent as it is")
    return line + b"\r\n"


def _host(parts: SplitResult) -> str:
    """Raises ValueError where the URL has none."""
    host = parts.hostname
    if not host:
        raise ValueError("a URL without a host")
    return host if host.isascii() else host.encode("idna").decode("ascii")


def _default_port(parts: SplitResult) -> int:
    return 443 if parts.scheme == "https" else 80
