"""What every path that asks a model has in common: who asks, how many at once, how it is refused, when it is left."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Generic, TypeVar

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gateway import log
from gateway.errors import GatewayError, InvalidRequest, Overloaded
from gateway.http import errors
from gateway.http.body import read_body
from gateway.http.parse import new_id
from gateway.http.peer import principal_of
from gateway.http.protocol import LEAVING

if TYPE_CHECKING:
    from gateway.runtime import Runtime
    from gateway.types import Principal

JSON = ("content-type", "application/json")
_log = log.get(__name__)
_UNEXPECTED = "an unexpected error happened in the gateway"

Asked = TypeVar("Asked")


class BrokenOff(Exception):
    """A reply could not be finished after it had begun: all that is left is to close the connection."""


class Load:
    """How many requests are being answered, over all endpoints that share it."""

    def __init__(self) -> None:
        self.active = 0


class Endpoint(ABC, Generic[Asked]):
    """An ASGI app. It watches for the client leaving all along: a client that has left is not worked for."""

    def __init__(self, runtime: Runtime, load: Load) -> None:
        self._runtime, self._load = runtime, load

    @abstractmethod
    def read(self, raw: bytes, headers: Mapping[str, str], request_id: str) -> Asked:
        """What a body asks for. Raises InvalidRequest naming the field or header."""

    @abstractmethod
    async def answer(self, asked: Asked, principal: Principal, scope: Scope, send: Send) -> None:
        """Answer it. Raises GatewayError before anything is sent, BrokenOff after."""

    def refusal(self, error: GatewayError, request_id: str) -> Response:
        """An error as this path's clients read it."""
        return errors.error_response(error, request_id)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_id = new_id()
        self._load.active += 1
        self._runtime.metrics.inflight.inc()
        try:
            await self._serve(scope, receive, send, request_id)
        except ClientDisconnect:
            return
        except RecursionError:
            await self._refuse(InvalidRequest("the body is nested too deeply"), request_id, scope, receive, send)
        except GatewayError as error:
            await self._refuse(error, request_id, scope, receive, send)
        except BrokenOff:
            raise
        except Exception:  # a bug: the client gets a clear error on a connection that stays usable
            _log.exception("unexpected error", request=request_id)
            await self._refuse(GatewayError(_UNEXPECTED), request_id, scope, receive, send)
        finally:
            self._load.active -= 1
            self._runtime.metrics.inflight.dec()

    async def _refuse(self, error: GatewayError, request_id: str, scope: Scope, receive: Receive, send: Send) -> None:
        if not error.admitted:
            self._runtime.metrics.refused(error.code)
        await self.refusal(error, request_id)(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
        runtime, view = self._runtime, self._runtime.view
        principal, headers = await principal_of(runtime, scope)
        if self._load.active > view.settings.config.server.max_concurrent:
            raise Overloaded("too many requests at once", retry_after=1.0)
        raw = await read_body(receive, headers, view.settings.config.server.max_body_bytes)
        asked = self.read(raw, headers, request_id)
        client = _Client()
        leaving = scope["extensions"][LEAVING]
        leaving[client] = client.leave
        try:
            await self.answer(asked, principal, scope, send)
        except asyncio.CancelledError:
            if not client.left:
                raise  # the server is stopping
            client.task.uncancel()
        finally:
            del leaving[client]


class _Client:
    """The client of a request: ``left`` is True once it has hung up, and the request's task is then cancelled."""

    def __init__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.task, self.left = task, False

    def leave(self) -> None:
        self.left = True
        self.task.cancel()
