"""Connections to upstreams: aiohttp sessions whose sockets notice a network that swallows packets."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any
from weakref import WeakSet

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from aiohttp.http import HttpProcessingError
from aiohttp.tracing import Trace

# Whether the connection the current task was given last had been used before.
reused: ContextVar[bool] = ContextVar("reused", default=False)

SocketFactory = Callable[[tuple[Any, ...]], socket.socket]

_KEEPALIVE_IDLE_S, _KEEPALIVE_INTERVAL_S = 15, 5
_CEIL_THRESHOLD_S = 120


def timeouts(connect_s: float, read_s: float, total_s: float) -> aiohttp.ClientTimeout:
    """Bounds of one call, in seconds: connecting (DNS and TLS included), each wait for bytes, everything."""
    return aiohttp.ClientTimeout(total=total_s, connect=connect_s, sock_read=read_s, ceil_threshold=_CEIL_THRESHOLD_S)


def open_session(*, uds: str | None, connect_timeout: float, timeout: aiohttp.ClientTimeout) -> aiohttp.ClientSession:
    """A session without cookies, proxies or anything else from the environment; call it on a running loop.

    The pool has no limit: how many requests run at once is decided at admission, and a wait here would count as one
    for the connection.
    """
    connector = _Unix(uds, limit=0) if uds else _Tcp(limit=0, socket_factory=socket_factory(connect_timeout))
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=timeout,
        trust_env=False,
        headers={"User-Agent": "farthing-gateway", "Accept-Encoding": "identity"},
    )


async def reach(url: str, *, uds: str | None, connect_timeout: float) -> bool:
    """Whether anything at all answers a GET on a new connection; it costs nothing and says nothing about health."""
    timeout = timeouts(connect_timeout, connect_timeout, 2 * connect_timeout)
    async with open_session(uds=uds, connect_timeout=connect_timeout, timeout=timeout) as session:
        try:
            async with session.get(url, allow_redirects=False):
                return True
        except (aiohttp.ClientConnectionError, OSError):
            return False
        except (aiohttp.ClientError, HttpProcessingError):
            return True  # something is there, if no HTTP server


def socket_factory(connect_timeout: float) -> SocketFactory:
    """What makes sockets for aiohttp that give up on a peer silent for ``connect_timeout`` seconds."""
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


class _Noting(aiohttp.BaseConnector):
    """Notes whether a connection is new: a kept-alive one that breaks at once had been closed by upstream."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._known: WeakSet[ResponseHandler] = WeakSet()

    async def connect(
        self,
        req: aiohttp.ClientRequest,
        traces: list[Trace],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - the signature is aiohttp's
    ) -> Connection:
        reused.set(False)
        connection = await super().connect(req, traces, timeout)
        if connection.protocol is not None:
            reused.set(connection.protocol in self._known)
            self._known.add(connection.protocol)
        return connection


class _Tcp(_Noting, aiohttp.TCPConnector):
    pass


class _Unix(_Noting, aiohttp.UnixConnector):
    pass
