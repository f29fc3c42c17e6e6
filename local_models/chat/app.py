"""The chat process's HTTP side."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from local_models.catalog import Sampling
from local_models.chat import tools
from local_models.chat.answer import Answer, ended
from local_models.chat.engine import Engine
from local_models.chat.merge import Merged
from local_models.chat.metrics import Metrics
from local_models.chat.sampling import GrammarRefused, check_grammar
from local_models.chat.stream import ContextOverflow, Delta, EngineFailed, Generation, Overloaded
from local_models.chat.template import TemplateRefused
from local_models.chat.warmth import Warmth
from local_models.chat.wire import ChatBody, check_supported, generations, grammar_of, mentions_tools, texts
from local_models.errors import CLIENT_CLOSED_REQUEST, ApiError, InvalidRequest, Unavailable, Unsupported, json_response
from local_models.serving import MAX_BODY_BYTES, ClientGone, application, read_json, until_gone

# Bodies being read at one time: what a crowd may make this process hold before any of it is looked at.
_READING_BYTES = 64 << 20


def create_app(warmth: Warmth, name: str, defaults: Sampling, metrics: Metrics) -> Starlette:
    """The app for one model, known as `name`; `defaults` hold where a request does not say how to sample."""
    chat = Chat(warmth, name, defaults, metrics)
    routes = [
        Route("/v1/chat/completions", chat.completions, methods=["POST"]),
        Route("/v1/load", chat.load),
        Route("/metrics", chat.metrics),
    ]
    return application(warmth, routes, {"id": name})


class Chat:
    """`/v1/chat/completions` over an engine, and how busy that is."""

    def __init__(self, warmth: Warmth, name: str, defaults: Sampling, metrics: Metrics) -> None:
        self._warmth, self._name, self._defaults, self._metrics = warmth, name, defaults, metrics
        self._reading = 0

    async def completions(self, request: Request) -> Response:
        """One answer, plain or streamed."""
        with self._room_for(request):
            body = await read_json(request, ChatBody)
        if body.model not in (None, self._name):
            raise ApiError(404, f"no model {body.model!r} here, only {self._name!r}", "model_not_found", "model")
        check_supported(body)
        async with self._warmth.using() as engine:
            streams = await self._submit(engine, body)
            answer = Answer(self._name, len(streams.streams), reads_tools=bool(body.tools))
            try:
                if not body.stream:
                    return json_response(answer.whole(await until_gone(request.receive, streams.whole())))
                first = await until_gone(request.receive, streams.next())
                usage = bool(body.stream_options and body.stream_options.include_usage)
                return EventStream(streams, _events(answer, first, streams, usage), self._warmth)
            except ClientGone:
                await streams.aclose()
                return Response(status_code=CLIENT_CLOSED_REQUEST)
            except EngineFailed as error:
                await streams.aclose()
                raise ApiError(500, f"the engine failed: {error}", "engine_failed") from error
            except Overloaded as error:
                await streams.aclose()
                raise Unavailable(str(error), "overloaded", error.retry_after) from error
            except asyncio.CancelledError:
                await streams.aclose()
                raise

    async def load(self, request: Request) -> Response:
        """How busy the engine is: what a gateway's `max_wait` goes by."""
        return json_response(self._warmth.report())

    async def metrics(self, request: Request) -> Response:
        """Prometheus' text."""
        engine = self._warmth.engine
        text = self._metrics.render(engine.load() if engine else None)
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    @contextlib.contextmanager
    def _room_for(self, request: Request) -> Iterator[None]:
        length = request.headers.get("content-length", "")
        size = min(int(length), MAX_BODY_BYTES) if length.isdecimal() else MAX_BODY_BYTES
        if self._reading and self._reading + size > _READING_BYTES:
            raise Unavailable("too many requests are being read", "overloaded", retry_after=1)
        self._reading += size
        try:
            yield
        finally:
            self._reading -= size

    async def _submit(self, engine: Engine, body: ChatBody) -> Merged:
        try:
            engine.check_room(body.lane)
            made = await engine.prepare(body.lane, lambda: self._generations(engine, body))
            return Merged(engine, made)
        except TemplateRefused as error:
            raise InvalidRequest(f"the model's chat template refuses: {error}", "messages") from error
        except GrammarRefused as error:
            raise Unsupported(f"the schema cannot be enforced: {error}", "response_format") from error
        except ContextOverflow as error:
            raise InvalidRequest(str(error), "messages", "context_length_exceeded") from error
        except Overloaded as error:
            raise Unavailable(str(error), "overloaded", error.retry_after) from error

    def _generations(self, engine: Engine, body: ChatBody) -> list[Generation]:
        """Off the event loop: a long prompt, or a large schema, takes milliseconds."""
        model = engine.model
        choice = tools.choice(body.tools, body.tool_choice)
        if not model.template.takes_tools:
            if choice.offered:
                raise Unsupported("tools are not supported by this model: its template has no place for them", "tools")
            if (at := mentions_tools(body.messages)) is not None:
                raise Unsupported("tool calls are not supported by this model", f"messages[{at}]")
        form = grammar_of(body, choice)
        if form:
            check_grammar(model, form)
        prompt = model.prompt(texts(body.messages), choice.offered, engine.options.context)
        made = generations(body, prompt, self._defaults, form)
        if any(token >= model.vocabulary for token, _ in made[0].sampler.logit_bias):
            raise InvalidRequest(f"the model has {model.vocabulary} tokens", "logit_bias")
        return made


async def _events(
    answer: Answer, first: list[tuple[int, Delta]], streams: Merged, include_usage: bool
) -> AsyncIterator[list[dict[str, object]]]:
    """Chunks, all that are there at a time together."""
    extra: dict[str, object] = {"usage": None} if include_usage else {}
    opening: list[dict[str, object]] = [answer.first(index, **extra) for index in range(len(streams.streams))]
    group = first
    while group:
        chunks = opening
        for index, delta in group:
            more = {"timings": ended(delta)} if delta.finish and not include_usage else {}
            made = answer.chunks(index, delta, **extra)
            if more and made:
                made[-1] |= more
            chunks += made
        if include_usage and streams.done:
            chunks.append(answer.usage_chunk(streams.timings))
        yield chunks
        opening, group = [], await streams.next()


class EventStream(Response):
    """Server-sent events, until the client hangs up; whichever way it ends, the engine is free afterwards."""

    media_type = "text/event-stream"

    def __init__(self, streams: Merged, events: AsyncIterator[Sequence[dict[str, object]]], warmth: Warmth) -> None:
        self.status_code, self.background = 200, None
        self.body = b""
        self.init_headers({"cache-control": "no-cache", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._streams, self._events, self._warmth = streams, events, warmth

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events; an engine failure becomes an event with the error and ends the stream without [DONE]."""
        try:
            async with self._warmth.using():
                with contextlib.suppress(ClientGone):
                    await until_gone(receive, self._send(send))
        finally:
            await self._streams.aclose()

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        try:
            async for chunks in self._events:
                await send(_message(*map(msgspec.json.encode, chunks)))
            await send(_message(b"[DONE]"))
        except EngineFailed as error:
            failure = ApiError(500, f"the engine failed: {error}", "engine_failed")
            await send(_message(msgspec.json.encode(failure.body)))
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _message(*events: bytes) -> dict[str, object]:
    body = b"".join(b"data: " + event + b"\n\n" for event in events)
    return {"type": "http.response.body", "body": body, "more_body": True}
