"""The fast path: any server that speaks OpenAI's chat completions, over aiohttp."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncGenerator
from time import perf_counter

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from gateway.backends import connect, translate
from gateway.backends.wire import ReplyStream, read_reply, request_body
from gateway.errors import UpstreamBroken, UpstreamError
from gateway.types import ChatRequest, Chunk

MAX_REPLY_BYTES = 64 << 20
MAX_ERROR_BYTES = 1 << 20
# After [DONE] the end of the body is as good as there; with it the connection can be used again.
_END_GRACE_S = 0.05
# A kept-alive connection that breaks this soon had been closed by upstream before it read the request.
_STALE_WITHIN_S = 0.25
# aiohttp warns of larger bodies handed over as bytes: writing them blocks the loop.
_BYTES_AT_ONCE = 1 << 20


class OpenAIBackend:
    """One model of an OpenAI-compatible server, over TCP or a Unix socket.

    ``base_url`` ends where ``/chat/completions`` begins. Times are seconds: ``connect_timeout`` bounds DNS, TCP and
    TLS, and how long sent data may stay unacknowledged; ``first_byte_timeout`` each wait for bytes; ``timeout`` the
    whole call. ``strip`` names body fields this server cannot take. Client headers are not forwarded, but for
    ``request.options.forward_headers``; no redirect is followed, no proxy taken from the environment.
    """

    def __init__(
        self,
        name: str,
        upstream_model: str,
        base_url: str,
        api_key: str | None = None,
        *,
        uds: str | None = None,
        connect_timeout: float = 2.0,
        first_byte_timeout: float = 120.0,
        timeout: float = 600.0,
        strip: tuple[str, ...] = (),
    ) -> None:
        self.name = name
        self._model, self._strip, self._uds = upstream_model, strip, uds
        self._url = URL(base_url.rstrip("/") + "/chat/completions")
        self._probe_url = base_url.rstrip("/") + "/models"
        self._headers = CIMultiDict({"Content-Type": "application/json"})
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"
        self._connect_timeout, self._first_byte_timeout, self._timeout_s = (
            connect_timeout,
            first_byte_timeout,
            timeout,
        )
        self._timeout = connect.timeouts(connect_timeout, first_byte_timeout, timeout)
        self._session: aiohttp.ClientSession | None = None

    @property
    def probed(self) -> bool:
        """Whether `reachable` can tell anything."""
        return True

    async def chat(self, request: ChatRequest, *, timeout_s: float | None = None) -> AsyncGenerator[Chunk, None]:
        """See `protocols.Backend.chat`."""
        deadline = timeout_s is not None and timeout_s < self._timeout_s
        response = await self._post(request, timeout_s if deadline else None)
        try:
            if not 200 <= response.status < 300:
                raise await _refusal(response)
            if not request.stream:
                yield read_reply(await _whole(response, deadline))
                return
            reply = ReplyStream()
            while not reply.done:
                try:
                    data = await response.content.readany()
                except translate.FAILURES as error:
                    raise translate.in_reply(error, begun=reply.begun, deadline=deadline) from error
                for chunk in reply.feed(data):
                    yield chunk
            await _drain(response)
        finally:
            response.close()

    async def reachable(self) -> bool:
        """Whether the server answers at all; an unbilled probe on a connection of its own."""
        return await connect.reach(self._probe_url, uds=self._uds, connect_timeout=self._connect_timeout)

    async def close(self) -> None:
        """Release connections."""
        if self._session is not None:
            await self._session.close()

    async def _post(self, request: ChatRequest, timeout_s: float | None) -> aiohttp.ClientResponse:
        body = request_body(request, self._model, self._strip)
        session = self._session or self._open()
        timeout = self._timeout if timeout_s is None else self._timeouts(timeout_s)
        sent = perf_counter()
        try:
            return await session.post(
                self._url,
                data=body if len(body) <= _BYTES_AT_ONCE else io.BytesIO(body),
                headers=self._headers_for(request),
                timeout=timeout,
                allow_redirects=False,
            )
        except translate.FAILURES as error:
            stale = connect.reused.get() and perf_counter() - sent < _STALE_WITHIN_S
            raise translate.before_reply(error, stale=stale, deadline=timeout_s is not None) from error

    def _headers_for(self, request: ChatRequest) -> CIMultiDict[str]:
        if not request.options.forward_headers:
            return self._headers
        headers = CIMultiDict(request.options.forward_headers)
        headers.update(self._headers)
        return headers

    def _open(self) -> aiohttp.ClientSession:
        self._session = connect.open_session(
            uds=self._uds, connect_timeout=self._connect_timeout, timeout=self._timeout
        )
        return self._session

    def _timeouts(self, timeout_s: float) -> aiohttp.ClientTimeout:
        return connect.timeouts(self._connect_timeout, self._first_byte_timeout, max(timeout_s, 0.001))


async def _whole(response: aiohttp.ClientResponse, deadline: bool) -> bytes:
    try:
        body = await bounded(response, MAX_REPLY_BYTES)
    except translate.FAILURES as error:
        raise translate.in_reply(error, begun=False, deadline=deadline) from error
    if body is None:
        raise UpstreamBroken(f"upstream's reply is over {MAX_REPLY_BYTES} bytes")
    return body


async def _refusal(response: aiohttp.ClientResponse) -> UpstreamError:
    try:
        body = await bounded(response, MAX_ERROR_BYTES)
    except translate.FAILURES:
        body = None
    return translate.from_status(response.status, response.headers, body or b"")


async def bounded(response: aiohttp.ClientResponse, limit: int) -> bytes | None:
    """The whole body, None if it is over ``limit`` bytes. Raises aiohttp's errors."""
    content = response.content
    body = await content.readany()
    if content.at_eof() and len(body) <= limit:
        return body
    parts, size = [body], len(body)
    while size <= limit:
        part = await content.readany()
        if not part:
            return b"".join(parts)
        parts.append(part)
        size += len(part)
    return None


async def _drain(response: aiohttp.ClientResponse) -> None:
    try:
        async with asyncio.timeout(_END_GRACE_S):
            while await response.content.readany():
                pass
    except translate.FAILURES:
        pass  # the answer is complete: the connection is closed instead of kept
