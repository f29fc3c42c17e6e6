"""The targets as batches ask them: local ones in the engine's batch lane, OpenAI's in a cheaper tier they sell.

They are connections, breakers and pulses of their own: a tier without room, or a lane that waits, says nothing about
how live requests would do.
"""

from __future__ import annotations

import asyncio
import weakref
from typing import TYPE_CHECKING

import msgspec

from gateway.backends.fleet import Answer, Fleet

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gateway.backends.resilient import Watch
    from gateway.errors import UpstreamError
    from gateway.types import ChatRequest
    from gateway.view import View

FLEX = "flex"
_DRAIN_S = 600.0
_BATCH_LANE = ("priority", msgspec.Raw(b'"batch"'))
_FLEX_TIER = ("service_tier", msgspec.Raw(b'"flex"'))


class BatchFleet(Fleet):
    """What a line does not ask for itself is added to it, by the target that is asked.

    A target that has had enough for now is waited for: a line that nobody waits for goes to no dearer one for that, and
    to no weaker one.
    """

    _added: dict[str, tuple[str, msgspec.Raw]]

    def add(self, view: View) -> None:
        """Work out what that is."""
        local = {model.name: _BATCH_LANE for model in view.settings.config.models if model.is_local}
        self._added = local | dict.fromkeys(flexible(view), _FLEX_TIER)

    async def _ask(self, name: str, request: ChatRequest, left: float | None, watch: Watch) -> Answer:
        field, value = self._added.get(name, ("", msgspec.Raw(b"")))
        if field and field not in request.fields:
            request = msgspec.structs.replace(request, fields={**request.fields, field: value})
        return await super()._ask(name, request, left, watch)

    def unavailable(self, name: str) -> str | None:
        """A target that cools down is still to be asked: it then says until when."""
        reason, target = super().unavailable(name), self._targets.get(name)
        if reason is None or target is None or target.backend.breaker.unreachable:
            return reason
        return None if reason == target.backend.available() else reason

    def _next_may_answer(self, name: str, error: UpstreamError) -> bool:
        local = self._targets[name].config.is_local
        if error.upstream_status == 429 or (local and error.upstream_status == 503):
            return False
        return super()._next_may_answer(name, error)


def flexible(view: View) -> Iterable[str]:
    """OpenAI's own models that have a price in the tier that may be asked for with each request."""
    for model in view.settings.config.models:
        period = view.prices.period(model.name) if model.kind == "openai" else None
        if period is not None and FLEX in period.sheet.tiers:
            yield model.name


class Lane:
    """The view that lines are answered with: the worker's, with the fleet of batches; made anew after a reload."""

    def __init__(self) -> None:
        self._of: weakref.ref[View] | None = None  # the worker closes the fleet of a view that nobody has any more
        self._view: View | None = None
        self._closing: set[asyncio.Task[None]] = set()

    def view(self, live: View) -> View:
        if self._view is None or self._of is None or self._of() is not live:
            before = self._view
            fleet = BatchFleet.build(live.settings, before.fleet if before else None)
            assert isinstance(fleet, BatchFleet)
            fleet.add(live)
            fleet.resume()
            self._of, self._view = weakref.ref(live), msgspec.structs.replace(live, fleet=fleet)
            if before is not None:
                self._close(before.fleet, _DRAIN_S)
        return self._view

    def _close(self, fleet: Fleet, drain_s: float) -> None:
        task = asyncio.create_task(fleet.close(drain_s))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        for task in self._closing:
            task.cancel()
        if self._view is not None:
            self._close(self._view.fleet, 0.0)
        await asyncio.gather(*self._closing, return_exceptions=True)
