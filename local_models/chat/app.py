"""The chat process's HTTP side."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from local_models.catalog import Sampling
from local_models.chat.engine import ContextOverflow, Delta, Engine, EngineFailed, Overloaded, Stream
from local_models.chat.template import TemplateRefused
from local_models.chat.wire import Answer, ChatBody, check_supported, generation, texts
from local_models.errors import CLIENT_CLOSED_REQUEST, ApiError, InvalidRequest, Unavailable, json_response
from local_models.serving import ClientGone, Loading, application, read_json, until_gone


def create_app(loading: Loading[Engine], name: str, defaults: Sampling) -> Starlette:
    """The app for one model, known as `name`; `defaults` hold where a request does not say how to sample."""
    chat = Chat(loading, name, defaults)
    return application(loading, [Route("/v1/chat/completions", chat.completions, methods=["POST"])], {"id": name})


class Chat:
    """`/v1/chat/completions` over an engine."""

    def __init__(self, loading: Loading[Engine], name: str, defaults: Sampling) -> None:
        self._loading, self._name, self._defaults = loading, name, defaults

    async def completions(self, request: Request) -> Response:
        """One answer, plain or streamed."""
        engine = self._loading.get()
        body = await read_json(request, ChatBody)
        if body.model not in (None, self._name):
            raise ApiError(404, f"no model {body.model!r} here, only {self._name!r}", "model_not_found", "model")
        check_supported(body)
        stream = await self._submit(engine, body)
        answer = Answer(self._name)
        try:
            if body.stream:
                first = await until_gone(request.receive, anext(stream))
                include_usage = bool(body.stream_options and body.stream_options.include_usage)
                return EventStream(stream, _events(answer, first, stream, include_usage))
            deltas = await until_gone(request.receive, _all(stream))
            return json_response(answer.whole(deltas))
        except ClientGone:
            await stream.aclose()
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        except EngineFailed as error:
            raise ApiError(500, f"the engine failed: {error}", "engine_failed") from error
        except asyncio.CancelledError:
            await stream.aclose()
            raise

    async def _submit(self, engine: Engine, body: ChatBody) -> Stream:
        try:
            prompt = await engine.prompt(texts(body.messages))
            return engine.submit(generation(body, prompt, self._defaults))
        except TemplateRefused as error:
            raise InvalidRequest(f"the model's chat template refuses: {error}", "messages") from error
        except ContextOverflow as error:
            raise InvalidRequest(str(error), "messages", "context_length_exceeded") from error
        except Overloaded as error:
            raise Unavailable(str(error), "overloaded", error.retry_after) from error


async def _all(stream: Stream) -> list[Delta]:
    return [delta async for delta in stream]


async def _events(
    answer: Answer, first: Delta, stream: Stream, include_usage: bool
) -> AsyncIterator[dict[str, object]]:
    extra: dict[str, object] = {"usage": None} if include_usage else {}
    yield answer.chunk({"role": "assistant", "content": ""}, None, **extra)
    delta = first
    while delta.finish is None:
        yield answer.chunk({"content": delta.text}, None, **extra)
        delta = await anext(stream)
    if delta.text:
        yield answer.chunk({"content": delta.text}, None, **extra)
    assert delta.timings is not None, "the last delta has timings"
    if include_usage:
        yield answer.chunk({}, delta.finish, **extra)
        yield answer.usage_chunk(delta.timings)
    else:
        yield answer.chunk({}, delta.finish, timings=delta.timings)


class EventStream(Response):
    """Server-sent events, until the client hangs up; whichever way it ends, the engine is free afterwards."""

    media_type = "text/event-stream"

    def __init__(self, stream: Stream, events: AsyncIterator[dict[str, object]]) -> None:
        self.status_code, self.background = 200, None
        self.body = b""
        self.init_headers({"cache-control": "no-cache", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._stream, self._events = stream, events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events; an engine failure becomes an event with the error and ends the stream without [DONE]."""
        try:
            with contextlib.suppress(ClientGone):
                await until_gone(receive, self._send(send))
        finally:
            await self._stream.aclose()

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        try:
            async for event in self._events:
                await send(_message(msgspec.json.encode(event)))
            await send(_message(b"[DONE]"))
        except EngineFailed as error:
            failure = ApiError(500, f"the engine failed: {error}", "engine_failed")
            await send(_message(msgspec.json.encode(failure.body)))
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _message(data: bytes) -> dict[str, object]:
    return {"type": "http.response.body", "body": b"data: " + data + b"\n\n", "more_body": True}
