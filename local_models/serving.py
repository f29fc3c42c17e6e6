"""What both model processes share: listening at once, loading in a thread, draining at the end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import signal
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from types import FrameType
from typing import Any, Generic, NoReturn, Protocol, TypeVar

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive

from local_models.errors import ApiError, InvalidRequest, Unavailable, json_response, reply

logger = logging.getLogger("local_models")

MAX_BODY_BYTES = 10 << 20
DRAIN_SECONDS = 10
# Longer than clients keep idle connections (aiohttp 15 s): the side that sends next must not be the one surprised.
KEEP_ALIVE_SECONDS = 75


class Closable(Protocol):
    """What is served: closed after the last request, off the event loop."""

    def close(self) -> None: ...


T = TypeVar("T")
M = TypeVar("M", bound=Closable)


class Loading(Generic[M]):
    """A model that is being loaded in a thread. `failed` is called, in that thread, when it cannot be."""

    def __init__(self, load: Callable[[], M], failed: Callable[[], None]) -> None:
        self._load, self._failed = load, failed
        self._model: M | None = None
        self.error: Exception | None = None
        self.thread = threading.Thread(target=self._run, name="load", daemon=True)

    def _run(self) -> None:
        try:
            self._model = self._load()
        except Exception as error:  # the edge of a thread: whatever stops the loading ends the process
            logger.error("cannot load the model: %s", error)
            self.error = error
            self._failed()

    @property
    def ready(self) -> bool:
        """Whether requests can be answered."""
        return self._model is not None

    def get(self) -> M:
        """The model; Unavailable (503 `loading`) before it is there."""
        if self._model is None:
            raise Unavailable("the model is still loading", "loading", retry_after=1)
        return self._model

    @contextlib.asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        """Start loading with the server, close the model after its last request."""
        self.thread.start()
        yield
        if self._model is not None:
            await asyncio.to_thread(self._model.close)


def application(loading: Loading[M], routes: list[Route], card: dict[str, object]) -> Starlette:
    """An app with these routes, `/healthz`, `/v1/models` (one `card`), and errors in OpenAI's JSON."""

    async def healthz(request: Request) -> Response:
        return json_response({"status": "ok"}) if loading.ready else json_response({"status": "loading"}, 503)

    async def models(request: Request) -> Response:
        return json_response({"object": "list", "data": [{"object": "model", "owned_by": "local", **card}]})

    return Starlette(
        routes=[*routes, Route("/healthz", healthz), Route("/v1/models", models)],
        exception_handlers={ApiError: reply, HTTPException: reply, Exception: reply},
        lifespan=loading.lifespan,
    )


async def read_json(request: Request, shape: type[T]) -> T:
    """The body as this type. 413 past MAX_BODY_BYTES (counted as it comes), 400 naming the field."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise ApiError(413, f"the body is larger than {MAX_BODY_BYTES} bytes", "request_too_large")
    try:
        return msgspec.json.decode(body, type=shape)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `$")
        missing = re.search(r"missing required field `(\w+)`", message)
        param = path.rstrip("`").lstrip(".") + (f".{missing[1]}" if missing and path else "")
        raise InvalidRequest(message, param or (missing[1] if missing else None)) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(f"the body is not valid JSON: {error}", code="invalid_json") from error


class ClientGone(Exception):
    """The client hung up before its answer was complete."""


async def until_gone(receive: Receive, work: Awaitable[T]) -> T:
    """The result of `work`, which is cancelled, with ClientGone raised, as soon as the client hangs up."""
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_disconnect(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone
        return task.result()
    finally:
        for each in (task, gone):
            each.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class Address(msgspec.Struct, frozen=True):
    """Where to listen: a Unix socket, or host and port."""

    uds: Path | None = None
    host: str = "127.0.0.1"
    port: int = 0


L = TypeVar("L", bound="Loading[Any]")


def serve(make: Callable[[Callable[[], None]], L], build: Callable[[L], Starlette], address: Address) -> int:
    """Serve until SIGTERM or Ctrl-C; streams get DRAIN_SECONDS to end. Returns 1 if the model did not load.

    `make` gives what loads the model, from what is to be called when that fails.
    """
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
    # uvicorn raises the signal again once it has drained: by then it only means a clean end.
    signal.signal(signal.SIGTERM, _end)
    loading = make(lambda: setattr(server, "should_exit", True))
    server = uvicorn.Server(_config(build(loading), address))
    with contextlib.suppress(KeyboardInterrupt, SystemExit):
        server.run()
    sys.stderr.flush()
    if loading.thread.is_alive():
        # Half-loaded C libraries do not survive the interpreter's own way out.
        os._exit(0)
    return 1 if loading.error or not server.started else 0


def _config(app: Starlette, address: Address) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        host=address.host,
        port=address.port,
        uds=str(address.uds) if address.uds else None,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=DRAIN_SECONDS,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
    )


def _end(signum: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(0)
