"""The pipeline with a stopwatch: what :mod:`gateway.telemetry` turns into spans. Built only where that is wanted.

Each step is the pipeline's own; this only notes when it began and ended, so that nothing is paid for where telemetry is
off, and the order of the steps stays written once.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import msgspec

from gateway.books import Books
from gateway.errors import GatewayError
from gateway.pipeline import Pipeline
from gateway.telemetry import Content, Measured, Step, Telemetry
from gateway.unary import Unary

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from gateway.backends.fleet import Answer
    from gateway.books import Reservation
    from gateway.budget.limits import Admission
    from gateway.budget.reservations import CacheWrite
    from gateway.types import CacheHit, ChatRequest, Chunk, Decision, LedgerEntry, Principal
    from gateway.unary import UnaryCall
    from gateway.view import View
    from gateway.visit import Visit

_CARRIED = (b"traceparent", b"tracestate")
_CONTENT_MAX = 65_536
_current: ContextVar[Measured | None] = ContextVar("measured", default=None)


def traced(app: ASGIApp) -> ASGIApp:
    """The same application, with the moment a request came and the trace that its client says it belongs to."""

    async def measured(scope: Scope, receive: Receive, send: Send) -> None:
        headers = scope["headers"]
        parent = {name.decode(): value.decode("latin-1") for name, value in headers if name in _CARRIED}
        _current.set(Measured(began=time.perf_counter(), parent=parent))
        await app(scope, receive, send)

    return measured


@contextmanager
def _step(name: str) -> Iterator[None]:
    measured, began, error = _current.get(), time.perf_counter(), ""
    try:
        yield
    except GatewayError as refused:
        error = refused.code
        raise
    except BaseException as other:
        error = type(other).__name__
        raise
    finally:
        if measured is not None:
            measured.steps.append(Step(name, began, time.perf_counter(), error))


class TracedPipeline(Pipeline):
    """Notes the steps between admission and the first byte."""

    def _enter(self, view: View, request: ChatRequest, principal: Principal) -> Visit:
        measured, began = _current.get(), time.perf_counter()
        visit = super()._enter(view, request, principal)
        if measured is not None:
            measured.steps += [
                Step("authenticate", measured.began, began),
                Step("features", began, visit.started),
                Step("gate", visit.started, time.perf_counter()),
            ]
        return visit

    async def _recall(self, view: View, visit: Visit) -> CacheHit | None:
        with _step("recall"):
            return await super()._recall(view, visit)

    def _decide(self, view: View, visit: Visit) -> Decision:
        with _step("decide"):
            return super()._decide(view, visit)

    async def _reserve(self, view: View, visit: Visit) -> Decision:
        with _step("reserve"):
            return await super()._reserve(view, visit)

    async def _call(self, view: View, visit: Visit, decision: Decision, as_streams: Collection[str] = ()) -> Answer:
        with _step("call"):
            return await super()._call(view, visit, decision, as_streams)


class TracedUnary(Unary):
    """Notes the call."""

    async def _call(self, view: View, call: UnaryCall) -> Chunk:
        with _step("call"):
            return await super()._call(view, call)


class TracedBooks(Books):
    """Notes admission and settling, and hands what was noted over with the row."""

    def __init__(self, telemetry: Telemetry, *parts: Any) -> None:
        super().__init__(*parts)
        self._telemetry = telemetry

    async def admit(self, visit: Visit, *, look_up: bool, reserve: Reservation | None = None) -> Admission:
        with _step("admit"):
            return await super().admit(visit, look_up=look_up, reserve=reserve)

    async def settle(self, visit: Visit, entry: LedgerEntry, store: CacheWrite | None) -> None:
        measured = _current.get()
        if measured is not None and visit.first_byte is not None:
            measured.steps.append(Step("reply", visit.first_byte, time.perf_counter()))
        with _step("settle"):
            await super().settle(visit, entry, store)
        if measured is not None:
            if self._telemetry.content:
                measured.content = _content(visit)
            self._telemetry.request(entry, measured, local_only=visit.local_only)


def _content(visit: Visit) -> Content:
    """As ``gen_ai.input.messages`` and ``gen_ai.output.messages`` want it, cut where it is long."""
    asked = [
        {"role": message["role"], "parts": [{"type": "text", "content": message.get("content")}]}
        for message in visit.request.messages
    ]
    answer = [{"role": "assistant", "parts": [{"type": "text", "content": visit.text}]}]
    return Content(*(msgspec.json.encode(each).decode()[:_CONTENT_MAX] for each in (asked, answer)))
