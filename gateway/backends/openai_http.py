"""The fast path: any server that speaks OpenAI's chat completions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable

import msgspec

from gateway.backends import connect, translate
from gateway.backends.abandoned import begun
from gateway.backends.http1 import HttpFailure, Reply
from gateway.backends.pulse import Load
from gateway.backends.wire import ReplyStream, read_reply, request_body
from gateway.errors import UpstreamBroken, UpstreamError
from gateway.types import ChatRequest, Chunk

MAX_REPLY_BYTES = 64 << 20
MAX_ERROR_BYTES = 1 << 20
# After [DONE] the end of the body is as good as there; with it the connection can be used again.
_END_GRACE_S = 0.05


class OpenAIBackend:
    """One model of an OpenAI-compatible server, over TCP or a Unix socket.

    ``base_url`` ends where ``path`` begins; ``read`` understands its plain replies. Times are seconds:
    ``connect_timeout`` bounds DNS, TCP and TLS, and how long sent data may stay unacknowledged; ``first_byte_timeout``
    each wait for bytes; ``timeout`` the whole call. ``strip`` names body fields this server cannot take. Client headers
    are not forwarded, but for ``request.options.forward_headers``; no redirect is followed, no proxy taken from the
    environment.
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
        path: str = "/chat/completions",
        read: Callable[[bytes], Chunk] = read_reply,
    ) -> None:
        self.name = name
        self._read = read
        self.url = base_url.rstrip("/")
        self._model, self._strip, self._uds = upstream_model, strip, uds
        self._probe_url = self.url + "/models"
        self._connect_timeout, self._timeout_s = connect_timeout, timeout
        headers = [("Content-Type", "application/json")]
        self._endpoint = connect.Endpoint(
            self.url + path,
            headers=[*headers, ("Authorization", f"Bearer {api_key}")] if api_key else headers,
            uds=uds,
            connect_timeout=connect_timeout,
            read_timeout=first_byte_timeout,
            timeout=timeout,
        )

    @property
    def probed(self) -> bool:
        """Whether `reachable` can tell anything."""
        return True

    async def chat(self, request: ChatRequest, *, timeout_s: float | None = None) -> AsyncGenerator[Chunk, None]:
        """See `protocols.Backend.chat`."""
        deadline = timeout_s is not None and timeout_s < self._timeout_s
        body = request_body(request, self._model, self._strip)
        try:
            reply = await self._endpoint.call(
                body, headers=request.options.forward_headers, timeout_s=timeout_s if deadline else None
            )
        except HttpFailure as error:
            raise translate.before_reply(error, deadline=deadline) from error
        try:
            if not 200 <= reply.status < 300:
                raise await _refusal(reply)
            if not request.stream:
                yield await _plain(reply, self._read, deadline)
                return
            events = ReplyStream()
            while not events.done:
                try:
                    data = await reply.next()
                except HttpFailure as error:
                    raise begun(translate.in_reply(error, begun=events.begun, deadline=deadline)) from error
                try:
                    for chunk in events.feed(data):
                        yield chunk
                except UpstreamError as error:
                    raise begun(error) from None
            await _drain(reply)
        finally:
            reply.close()

    async def reachable(self) -> bool:
        """Whether the server answers at all; an unbilled probe on a connection of its own."""
        probed = await connect.reach(self._probe_url, uds=self._uds, connect_timeout=self._connect_timeout)
        return probed is not None

    async def load(self) -> Load | None:
        """How busy the engine says it is; None where it does not say."""
        asked = connect.Endpoint(
            self.url + "/load", method="GET", uds=self._uds, connect_timeout=1.0, read_timeout=1.0, timeout=2.0
        )
        try:
            reply = await asked.call()
            body = await reply.whole(MAX_ERROR_BYTES) if reply.status == 200 else None
            return msgspec.json.decode(body, type=Load) if body else None
        except (HttpFailure, msgspec.MsgspecError):
            return None
        finally:
            await asked.close()

    async def close(self) -> None:
        """Release connections."""
        await self._endpoint.close()


async def _plain(reply: Reply, read: Callable[[bytes], Chunk], deadline: bool) -> Chunk:
    try:
        body = await reply.whole(MAX_REPLY_BYTES)
    except HttpFailure as error:
        raise begun(translate.in_reply(error, begun=False, deadline=deadline), error.body) from error
    if body is None:
        raise begun(UpstreamBroken(f"upstream's reply is over {MAX_REPLY_BYTES} bytes"))
    try:
        return read(body)
    except UpstreamError as error:
        raise begun(error, body) from None


async def _refusal(reply: Reply) -> UpstreamError:
    try:
        body = await reply.whole(MAX_ERROR_BYTES)
    except HttpFailure:
        body = None
    return translate.from_status(reply.status, reply.headers, body or b"")


async def _drain(reply: Reply) -> None:
    """The answer is complete; where its end does not come soon the connection is closed instead of kept."""
    try:
        async with asyncio.timeout(_END_GRACE_S):
            while await reply.next():
                pass
    except (HttpFailure, TimeoutError):
        pass
