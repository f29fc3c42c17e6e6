"""``POST /v1/chat/completions`` in OpenAI's wire format, stream and not."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from gateway import log
from gateway.errors import GatewayError, InvalidRequest, Overloaded
from gateway.http import errors, sse
from gateway.http.body import read_body
from gateway.http.parse import chat_request, new_id
from gateway.http.peer import principal_of
from gateway.http.protocol import LEAVING, WHOLE

if TYPE_CHECKING:
    from gateway.delivery import Headers, Stream
    from gateway.runtime import Runtime
    from gateway.types import ChatRequest, Principal

_log = log.get(__name__)
_JSON = ("content-type", "application/json")
_UNEXPECTED = "an unexpected error happened in the gateway"


class _BrokenOff(Exception):
    """A reply could not be finished after it had begun: all that is left is to close the connection."""


class ChatEndpoint:
    """An ASGI app. It watches for the client leaving all along: a client that has left is not worked for."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._active = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_id = new_id()
        self._active += 1
        self._runtime.metrics.inflight.inc()
        try:
            await self._serve(scope, receive, send, request_id)
        except ClientDisconnect:
            return
        except RecursionError:
            await self._refuse(InvalidRequest("the body is nested too deeply"), request_id, scope, receive, send)
        except GatewayError as error:
            await self._refuse(error, request_id, scope, receive, send)
        except _BrokenOff:
            raise
        except Exception:  # a bug: the client gets a clear error on a connection that stays usable
            _log.exception("unexpected error", request=request_id)
            await self._refuse(GatewayError(_UNEXPECTED), request_id, scope, receive, send)
        finally:
            self._active -= 1
            self._runtime.metrics.inflight.dec()

    async def _refuse(self, error: GatewayError, request_id: str, scope: Scope, receive: Receive, send: Send) -> None:
        if not error.admitted:
            self._runtime.metrics.refused(error.code)
        await errors.error_response(error, request_id)(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
        runtime, view = self._runtime, self._runtime.view
        principal, headers = await principal_of(runtime, scope)
        if self._active > view.settings.config.server.max_concurrent:
            raise Overloaded("too many requests at once", retry_after=1.0)
        raw = await read_body(receive, headers, view.settings.config.server.max_body_bytes)
        request = chat_request(raw, headers, request_id)
        client = _Client()
        leaving = scope["extensions"][LEAVING]
        leaving[client] = client.leave
        try:
            await self._answer(request, principal, scope, send)
        except asyncio.CancelledError:
            if not client.left:
                raise  # the server is stopping
            client.task.uncancel()
        finally:
            del leaving[client]

    async def _answer(self, request: ChatRequest, principal: Principal, scope: Scope, send: Send) -> None:
        reply = await self._runtime.pipeline.answer(self._runtime.view, request, principal)
        body = reply.body
        try:
            if isinstance(body, bytes):
                await scope["extensions"][WHOLE]([*reply.headers, _JSON], body)
            else:
                await _send_stream(reply.headers, body, send)
        except Exception as bug:
            raise _BrokenOff from bug
        finally:
            if not isinstance(body, bytes):
                await body.close()


class _Client:
    """The client of a request: ``left`` is True once it has hung up, and the request's task is then cancelled."""

    def __init__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.task, self.left = task, False

    def leave(self) -> None:
        self.left = True
        self.task.cancel()


async def _send_stream(headers: Headers, stream: Stream, send: Send) -> None:
    encoded = [(name.encode("latin-1"), value.encode("latin-1", "replace")) for name, value in headers]
    await send({"type": "http.response.start", "status": 200, "headers": [*sse.HEADERS, *encoded]})
    async for data in stream.events:
        await send({"type": "http.response.body", "body": sse.event(data), "more_body": True})
    await send({"type": "http.response.body", "body": sse.DONE if stream.complete() else b""})
