"""What a client is sent, in the form it asked for: step 9."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import TYPE_CHECKING

import msgspec

from gateway import books, reply
from gateway.billing import bill
from gateway.cache import replay
from gateway.entry import route_name
from gateway.errors import UpstreamBroken, UpstreamError

if TYPE_CHECKING:
    from gateway.billing import Bill
    from gateway.cache.coalesce import Listener
    from gateway.types import CacheHit
    from gateway.view import View
    from gateway.visit import Visit

Headers = list[tuple[str, str]]
Settle = Callable[["View", "Visit"], None]


class Stream(msgspec.Struct, frozen=True, kw_only=True):
    """A reply on its way: ``events`` yields the JSON of one each.

    Always to be closed: that settles the request, however far its events were read. ``complete`` says, once they were
    read to their end, whether that is the end of the answer.
    """

    events: AsyncGenerator[bytes, None]
    left: Callable[[], Awaitable[None]]
    complete: Callable[[], bool]

    async def close(self) -> None:
        try:
            await self.events.aclose()
        finally:
            await self.left()


class Reply(msgspec.Struct, frozen=True):
    """What the HTTP layer sends: a stream, or a plain body, whose request is settled."""

    headers: Headers
    body: bytes | Stream


def response_headers(visit: Visit, amount: Bill | None) -> Headers:
    """DESIGN section 5's. ``amount``: where it is known before the body."""
    headers: Headers = [
        ("x-gateway-request-id", visit.request.id),
        ("x-gateway-route", route_name(visit)),
        ("x-gateway-model", visit.hit.entry.model if visit.hit else visit.model),
        ("x-gateway-cache", visit.cache),
        ("x-gateway-policy", visit.policy.label),
        ("x-gateway-overhead-ms", f"{visit.overhead_ms():.2f}"),
    ]
    if visit.hit is not None:
        headers.append(("x-gateway-cache-similarity", f"{visit.hit.similarity:.4f}"))
        headers.append(("x-gateway-cache-entry", visit.hit.entry.id))
    if visit.degraded:
        headers.append(("x-gateway-degraded", visit.degraded))
    if amount is not None and not amount.unpriced:
        headers.append(("x-gateway-cost-usd", reply.usd(amount.cost_nano)))
        headers.append(("x-gateway-saved-usd", reply.usd(amount.saved_nano)))
    if visit.admission is not None:
        headers += books.ratelimit_headers(visit.admission)
    return headers


class Delivery:
    """Gives answers out; ``settle`` and ``leave`` are what is done once a request is over, or its client gone."""

    def __init__(self, settle: Settle, leave: Settle) -> None:
        self._settle, self._leave = settle, leave

    async def answer(self, view: View, visit: Visit, listener: Listener) -> Reply:
        """What upstream says."""
        if not visit.request.stream:
            return await self._plain(view, visit, listener)
        return self._streamed(view, visit, response_headers(visit, None), self._events(view, visit, listener))

    def stored(self, view: View, visit: Visit, hit: CacheHit) -> Reply:
        """An answer of the cache."""
        visit.hit, visit.cache, visit.store = hit, hit.tier, False
        visit.decision, visit.degraded = None, ""
        amount = bill(visit, view.prices)
        headers = response_headers(visit, amount)
        if visit.request.stream:
            return self._streamed(view, visit, headers, self._replayed(view, visit, hit, amount))
        chunk = replay.plain_chunk(hit.entry)
        visit.take(chunk)
        whole = Reply(headers, reply.with_costs(chunk.data, amount, hit.entry.usage))
        self._settle(view, visit)
        return whole

    async def _plain(self, view: View, visit: Visit, listener: Listener) -> Reply:
        """Its costs are known before the body leaves."""
        chunk = await listener.last()
        if not visit.pays and chunk is not None:
            visit.take(chunk)
        await visit.count()
        amount, body = bill(visit, view.prices), b"" if chunk is None else chunk.data
        whole = Reply(response_headers(visit, amount), reply.with_costs(body, amount, visit.final_usage()))
        self._settle(view, visit)
        return whole

    def _streamed(self, view: View, visit: Visit, headers: Headers, events: AsyncGenerator[bytes, None]) -> Reply:
        async def left() -> None:
            self._leave(view, visit)

        def complete() -> bool:
            return visit.status == "ok"

        return Reply(headers, Stream(events=events, left=left, complete=complete))

    async def _events(self, view: View, visit: Visit, listener: Listener) -> AsyncGenerator[bytes, None]:
        """Pass on, learn, and end with the costs if the client asked for usage."""
        asked, last, reported = visit.request.include_usage, b"", b""
        try:
            async for chunk in listener.chunks():
                if not visit.pays:
                    visit.take(chunk)
                if chunk.usage is not None:
                    reported = chunk.data
                if chunk.usage_only:
                    continue
                last = chunk.data
                if chunk.error:
                    visit.fail("incomplete", 200, visit.told_of(UpstreamError(chunk.error)))
                yield chunk.data if asked and chunk.usage is None else reply.without_usage(chunk.data)
            if visit.status == "ok" and asked:
                await visit.count()
                yield reply.usage_event(reported or last, bill(visit, view.prices), visit.final_usage())
        except UpstreamBroken as error:
            visit.fail("incomplete", 200, visit.told_of(error))
            yield msgspec.json.encode(error.body())
        except Exception as bug:  # as in the pipeline: the row tells the truth, whatever went wrong
            visit.fail("incomplete", 500, f"internal_error: {type(bug).__name__}")
            raise
        self._settle(view, visit)

    async def _replayed(self, view: View, visit: Visit, hit: CacheHit, amount: Bill) -> AsyncGenerator[bytes, None]:
        for chunk in replay.stream_chunks(hit.entry):
            visit.take(chunk)
            if not chunk.usage_only:
                yield chunk.data
            elif visit.request.include_usage:
                yield reply.with_costs(chunk.data, amount, hit.entry.usage)
        self._settle(view, visit)
