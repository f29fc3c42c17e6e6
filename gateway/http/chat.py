"""``POST /v1/chat/completions`` in OpenAI's wire format, stream and not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from starlette.types import Scope, Send

from gateway.http import sse
from gateway.http.endpoint import JSON, BrokenOff, Endpoint
from gateway.http.parse import chat_request
from gateway.http.protocol import WHOLE
from gateway.types import ChatRequest

if TYPE_CHECKING:
    from gateway.delivery import Headers, Stream
    from gateway.types import Principal


class ChatEndpoint(Endpoint[ChatRequest]):
    """The pipeline speaks this format: its bytes travel on as they are."""

    def read(self, raw: bytes, headers: Mapping[str, str], request_id: str) -> ChatRequest:
        return chat_request(raw, headers, request_id)

    async def answer(self, asked: ChatRequest, principal: Principal, scope: Scope, send: Send) -> None:
        reply = await self._runtime.pipeline.answer(self._runtime.view, asked, principal)
        body = reply.body
        try:
            if isinstance(body, bytes):
                await scope["extensions"][WHOLE]([*reply.headers, JSON], body)
            else:
                await _send_stream(reply.headers, body, send)
        except Exception as bug:
            raise BrokenOff from bug
        finally:
            if not isinstance(body, bytes):
                await body.close()


async def _send_stream(headers: Headers, stream: Stream, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": sse.head(headers)})
    async for data in stream.events:
        await send({"type": "http.response.body", "body": sse.event(data), "more_body": True})
    await send({"type": "http.response.body", "body": sse.DONE if stream.complete() else b""})
