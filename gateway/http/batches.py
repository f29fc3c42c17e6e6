"""``/v1/batches``, and how each line of one is answered: as if it had been sent alone."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gateway import log
from gateway.auth import PREFIX, bearer, hash_key
from gateway.auth.caller import ADMIN, ANONYMOUS
from gateway.batches import disk
from gateway.batches.files import KEPT_S
from gateway.batches.job import Answered
from gateway.batches.lane import Lane
from gateway.batches.records import WINDOW_S, Asked, Batch
from gateway.batches.runner import Runner
from gateway.deciding import policy_of
from gateway.errors import (
    CacheMiss,
    GatewayError,
    InvalidRequest,
    NotFound,
    Overloaded,
    RateLimited,
    RedisAway,
    Unauthenticated,
)
from gateway.http.body import read_body
from gateway.http.embeddings import embeddings_request
from gateway.http.errors import upstream_body
from gateway.http.files import after, caller_of, conflict, kept_s, limit_of, listed, order_of
from gateway.http.parse import chat_request, new_id, options

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from gateway.delivery import Stream
    from gateway.runtime import Runtime
    from gateway.types import Principal

CHAT, EMBEDDINGS = "/v1/chat/completions", "/v1/embeddings"
TAG = "batch"
_BODY_BYTES = 64 * 1024
_UNFINISHED_MOST = 100
_LISTED, _LISTED_MOST = 20, 100
_WINDOW_MS = WINDOW_S * 1000
_PASSING = frozenset({429, 500, 502, 503, 504})
_log = log.get(__name__)

Key = Annotated[str, msgspec.Meta(max_length=64)]
Value = Annotated[str, msgspec.Meta(max_length=512)]


class _Kept(msgspec.Struct):
    seconds: int
    anchor: Literal["created_at"] = "created_at"


class _Wanted(msgspec.Struct):
    input_file_id: str
    endpoint: str
    completion_window: str
    metadata: Annotated[dict[Key, Value], msgspec.Meta(max_length=16)] | None = None
    output_expires_after: _Kept | None = None


class Batches:
    """The endpoints over what :mod:`gateway.batches.store` keeps."""

    def __init__(self, runtime: Runtime, runner: Runner) -> None:
        self._runtime, self._runner, self._store = runtime, runner, runner.store

    def routes(self) -> list[Route]:
        return [
            Route("/v1/batches", self.create, methods=["POST"]),
            Route("/v1/batches", self.page, methods=["GET"]),
            Route("/v1/batches/{batch_id}", self.get, methods=["GET"]),
            Route("/v1/batches/{batch_id}/cancel", self.cancel, methods=["POST"]),
        ]

    async def create(self, request: Request) -> Response:
        """Begin one; what is wrong with its lines is told by its state."""
        principal, headers = await caller_of(self._runtime, request.scope)
        wanted = _read(await read_body(request.receive, headers, _BODY_BYTES))
        if wanted.endpoint not in self._runner.endpoints:
            served = ", ".join(self._runner.endpoints)
            raise InvalidRequest(
                f"batches of '{wanted.endpoint[:100]}' are not served, only of {served}", param="endpoint"
            )
        if wanted.completion_window != "24h":
            raise InvalidRequest("'completion_window' must be 24h", param="completion_window")
        options(headers)
        asked = await asyncio.to_thread(self._create, wanted, principal, headers)
        self._runner.wake()
        return JSONResponse(self._shown(asked))

    async def page(self, request: Request) -> Response:
        principal, _ = await caller_of(self._runtime, request.scope)
        limit, ascending = limit_of(request, default=_LISTED, most=_LISTED_MOST), order_of(request)
        shown = await asyncio.to_thread(self._some, request, disk.seen_by(principal), limit, ascending)
        return JSONResponse(listed(shown, limit))

    async def get(self, request: Request) -> Response:
        return JSONResponse((await self._found(request)).shown())

    async def cancel(self, request: Request) -> Response:
        """Ask for its end; one that has ended otherwise cannot be cancelled."""
        batch = await self._found(request)
        if batch.progress.over and batch.status != "cancelled":
            raise conflict(f"Cannot cancel a batch with status '{batch.status}'.", "batch_over")
        if not batch.progress.over:
            await asyncio.to_thread(self._store.cancel, batch.asked)
            self._runner.wake()
        return JSONResponse((await self._found(request)).shown())

    def _create(self, wanted: _Wanted, principal: Principal, headers: dict[str, str]) -> Asked:
        owner, now, token = disk.owner_of(principal), int(time.time()), bearer(headers)
        if self._runner.files.find(wanted.input_file_id, disk.seen_by(principal)) is None:
            raise NotFound(f"No such File object: {wanted.input_file_id[:100]}", param="input_file_id")
        if sum(asked.owner == owner for asked in self._store.waiting()) >= _UNFINISHED_MOST:
            message = f"at most {_UNFINISHED_MOST} batches may be unfinished at once"
            raise RateLimited(message, code="batch_limit_exceeded", retry_after=60.0)
        asked = Asked(
            id=disk.new_id("batch_"),
            owner=owner,
            key_id=principal.key_id,
            key_hash=hash_key(token) if token.startswith(PREFIX) and not principal.admin else "",
            endpoint=wanted.endpoint,
            input_file_id=wanted.input_file_id,
            created_at=now,
            expires_at=now + WINDOW_S,
            output_s=KEPT_S if wanted.output_expires_after is None else kept_s(wanted.output_expires_after.seconds),
            metadata=wanted.metadata,
            headers={name: value for name, value in headers.items() if name.startswith("x-gateway-")},
        )
        self._store.create(asked)
        return asked

    def _shown(self, asked: Asked) -> dict[str, Any]:
        return Batch(asked=asked, progress=self._store.progress(asked)).shown()

    def _some(self, request: Request, owner: str | None, limit: int, ascending: bool) -> list[dict[str, Any]]:
        """One more than a page, if there is one more: only those shown are read."""
        folders = self._store.all(owner)
        rest = after(folders[::-1] if ascending else folders, request, lambda folder: folder.name)
        found = (self._store.load(folder) for folder in rest[: limit + 1])
        return [batch.shown() for batch in found if batch is not None]

    async def _found(self, request: Request) -> Batch:
        principal, _ = await caller_of(self._runtime, request.scope)
        batch_id = request.path_params["batch_id"]
        batch = await asyncio.to_thread(self._store.find, batch_id, disk.seen_by(principal))
        if batch is None:
            raise NotFound(f"No batch found with id '{batch_id[:100]}'.", param="id")
        return batch


def _read(body: bytes) -> _Wanted:
    try:
        return msgspec.json.decode(body, type=_Wanted)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(f"the body: {error}") from None


def runner_of(runtime: Runtime) -> Runner:
    """What runs batches with this worker."""
    lane = Lane()
    lines = Lines(runtime, lane)
    return Runner(runtime, lane, {CHAT: lines.chat, EMBEDDINGS: lines.embeddings}, lines.known)


def _failed(error: GatewayError, request_id: str) -> Answered:
    said = upstream_body(error) or msgspec.json.encode(error.body())
    passing = error.status in _PASSING and not isinstance(error, CacheMiss)
    return Answered(error.status, request_id, said, passing, error.retry_after)


class Lines:
    """Answers the lines of batches through the pipeline, as the key that began the batch is by then."""

    def __init__(self, runtime: Runtime, lane: Lane) -> None:
        self._runtime, self._lane = runtime, lane

    def known(self, endpoint: str, model: str) -> bool:
        """Whether there is such a model; whether it can do that is for its lines to say."""
        view = self._runtime.view
        try:
            if endpoint == CHAT:
                policy_of(view, model)
            else:
                view.operations.model("embeddings", None if model.partition(":")[0] == "auto" else model)
        except NotFound:
            return False
        except GatewayError:
            return True
        return True

    async def chat(self, asked: Asked, body: bytes) -> Answered:
        """A chat completion."""
        return await self._answered(self._chat, asked, body)

    async def embeddings(self, asked: Asked, body: bytes) -> Answered:
        """Vectors."""
        return await self._answered(self._embeddings, asked, body)

    async def _answered(
        self, ask: Callable[[Asked, bytes, str], Awaitable[bytes | Stream]], asked: Asked, body: bytes
    ) -> Answered:
        request_id = new_id()
        try:
            said = await ask(asked, body, request_id)
            assert isinstance(said, bytes)
            return Answered(200, request_id, said)
        except GatewayError as error:
            return _failed(error, request_id)
        except RecursionError:
            return _failed(InvalidRequest("the body is nested too deeply"), request_id)
        except Exception:  # a bug: this line fails, the others are answered
            _log.exception("unexpected error", request=request_id)
            return _failed(GatewayError("an unexpected error happened in the gateway"), request_id)

    async def _chat(self, asked: Asked, body: bytes, request_id: str) -> bytes | Stream:
        runtime = self._runtime
        principal = await self._creator(asked)
        request = chat_request(body, asked.headers, request_id)
        if request.stream:
            raise InvalidRequest("a batch has no streams: leave 'stream' out", param="stream")
        # What waits for a batch waits as long as the batch may; and it shares no call with what somebody waits for.
        wishes = msgspec.structs.replace(request.options, deadline_ms=_WINDOW_MS)
        request = msgspec.structs.replace(request, options=wishes)
        return (await runtime.pipeline.answer(self._lane.view(runtime.view), request, principal)).body

    async def _embeddings(self, asked: Asked, body: bytes, request_id: str) -> bytes | Stream:
        principal = await self._creator(asked)
        request = embeddings_request(body, asked.headers, request_id)
        return (await self._runtime.unary.answer(self._runtime.view, request, principal)).body

    async def _creator(self, asked: Asked) -> Principal:
        """Raises Unauthenticated where that key is no longer good."""
        auth, principal = self._runtime.view.settings.config.auth, None
        if asked.key_hash:
            try:
                principal = await self._runtime.ring.holder(asked.key_hash)
            except RedisAway:
                message = "keys cannot be verified at the moment"
                raise Overloaded(message, code="key_store_unavailable", retry_after=1.0) from None
        elif asked.key_id == ADMIN.key_id and auth.admin_key:
            principal = ADMIN
        elif asked.key_id == ANONYMOUS.key_id and auth.anonymous == "loopback":
            principal = ANONYMOUS
        if principal is None:
            raise Unauthenticated("who began this batch may ask for nothing any more")
        return msgspec.structs.replace(principal, tags=tuple(sorted({*principal.tags, TAG})))
