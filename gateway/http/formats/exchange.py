"""A path whose requests and replies are a chat's in another wire format."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple, Protocol

from starlette.responses import Response
from starlette.types import Scope, Send

from gateway.http import errors, sse
from gateway.http.endpoint import JSON, BrokenOff, Endpoint, Load
from gateway.http.protocol import WHOLE

if TYPE_CHECKING:
    from gateway.delivery import Headers, Stream
    from gateway.errors import GatewayError
    from gateway.runtime import Runtime
    from gateway.types import ChatRequest, Principal


class Exchange(Protocol):
    """One request as a chat's, and the chat's reply as the one its client waits for."""

    @property
    def request(self) -> ChatRequest: ...

    def whole(self, body: bytes) -> bytes:
        """A plain reply."""

    def event(self, data: bytes) -> bytes:
        """What one event of a stream becomes, framed; b"" where it says nothing in this format."""

    def end(self, *, complete: bool) -> bytes:
        """What follows the last event. ``complete``: the answer came to its end."""


def no_other_body(_: GatewayError, __: str) -> bytes:
    return b""


class Format(NamedTuple):
    """``refusal`` makes an error's body for a request's id, b"" for OpenAI's. ``names_request``: the header, besides
    the gateway's own, where clients look for that id.
    """

    read: Callable[[bytes, Mapping[str, str], str], Exchange]
    refusal: Callable[[GatewayError, str], bytes] = no_other_body
    names_request: str = ""


class TranslatedEndpoint(Endpoint[Exchange]):
    """What lies between is the pipeline, as for a chat: cache, routing, budget, one row."""

    def __init__(self, runtime: Runtime, load: Load, form: Format) -> None:
        super().__init__(runtime, load)
        self._form = form

    def read(self, raw: bytes, headers: Mapping[str, str], request_id: str) -> Exchange:
        return self._form.read(raw, headers, request_id)

    def refusal(self, error: GatewayError, request_id: str) -> Response:
        response = errors.error_response(error, request_id, self._form.refusal(error, request_id))
        response.headers.update(dict(self._names(request_id)))
        return response

    async def answer(self, asked: Exchange, principal: Principal, scope: Scope, send: Send) -> None:
        reply = await self._runtime.pipeline.answer(self._runtime.view, asked.request, principal)
        headers = [*reply.headers, *self._names(asked.request.id)]
        body = reply.body
        whole = asked.whole(body) if isinstance(body, bytes) else b""
        try:
            if isinstance(body, bytes):
                await scope["extensions"][WHOLE]([*headers, JSON], whole)
            else:
                await _send_stream(headers, body, asked, send)
        except Exception as bug:
            raise BrokenOff from bug
        finally:
            if not isinstance(body, bytes):
                await body.close()

    def _names(self, request_id: str) -> Headers:
        return [(self._form.names_request, request_id)] if self._form.names_request else []


async def _send_stream(headers: Headers, stream: Stream, asked: Exchange, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": sse.head(headers)})
    async for data in stream.events:
        if told := asked.event(data):
            await send({"type": "http.response.body", "body": told, "more_body": True})
    await send({"type": "http.response.body", "body": asked.end(complete=stream.complete())})
