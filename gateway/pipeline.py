"""The way of a request, in order. Nothing else knows the order.

1 authenticate (:mod:`gateway.auth`, by the HTTP layer) → 2 features → 3 gate → 4 admit and exact cache → 5 recall →
6 decide → 7 reserve → 8 call → 9 reply → 10 settle.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections.abc import Awaitable, Callable, Collection
from contextlib import aclosing
from typing import TYPE_CHECKING

import msgspec

from gateway import cascade, deciding, reserving, reuse
from gateway.books import exhausted
from gateway.budget.limits import Admission
from gateway.cache.coalesce import Coalescer
from gateway.delivery import Delivery, Reply, response_headers
from gateway.errors import CacheMiss, GatewayError, UpstreamError, UpstreamRefused
from gateway.routing import deadline_s, decided
from gateway.settling import Settling
from gateway.trials import Trials
from gateway.types import CacheHit
from gateway.visit import Visit

if TYPE_CHECKING:
    from gateway.backends.fleet import Answer
    from gateway.books import Books, Reservation
    from gateway.cache.coalesce import Listener, SharedCall
    from gateway.cache.semantic import SemanticCache
    from gateway.metrics import Metrics
    from gateway.types import ChatRequest, Decision, LedgerEntry, Principal
    from gateway.view import View

_FAILURES_SHARED = 2  # of the calls of others, before theirs is this request's own


class Pipeline:
    """Answers chat requests with one :class:`gateway.view.View` at a time."""

    def __init__(
        self, books: Books, semantic: SemanticCache, metrics: Metrics, settled: Callable[[LedgerEntry], None]
    ) -> None:
        self.books, self.semantic = books, semantic
        self.calls = Coalescer()
        self.trials = Trials(books.link, metrics)
        self.settling = Settling(books, semantic, metrics, settled)
        self._delivery = Delivery(self.settling.settle, self.settling.leave)

    async def answer(self, view: View, request: ChatRequest, principal: Principal) -> Reply:
        """Everything up to the first byte.

        Raises:
            GatewayError: what the client is told instead; if the request had been admitted, its row is written.
        """
        visit = self._enter(view, request, principal)
        try:
            admitting = self.books.admit(visit, look_up=reuse.reads(visit), reserve=self._foresee(view, visit))
            visit.admission = await self.settling.warmth.beside(visit, admitting)
        except asyncio.CancelledError:
            visit.admission = Admission()  # perhaps: settling finds out, since it follows on the same connection
            self.settling.leave(view, visit)
            raise
        try:
            return await self._admitted(view, visit)
        except GatewayError as error:
            if isinstance(error, UpstreamError) and visit.attempts:
                visit.model = visit.attempts[-1].model
            visit.fail("error", error.status, visit.told_of(error))
            error.admitted = True
            error.headers += response_headers(visit, None)
            self.settling.settle(view, visit)
            raise
        except asyncio.CancelledError:
            self.settling.leave(view, visit)
            raise
        except Exception as bug:  # whatever went wrong, an admitted request has its row and gives back what it holds
            visit.fail("error", 500, f"internal_error: {type(bug).__name__}")
            self.settling.settle(view, visit)
            raise

    def _enter(self, view: View, request: ChatRequest, principal: Principal) -> Visit:
        """Steps 2 and 3: features, then the gate."""
        policy = deciding.policy_of(view, request.model)
        deciding.permit(view, request, principal, policy.name)
        features = policy.features(request, principal)
        policy, features, trial = self.trials.enrol(view.policies, policy, request, principal, features)
        visit = Visit(request, principal, policy, features)
        visit.trial, visit.local_only = trial, policy.gate(features).local_only
        reuse.enter(visit, self.semantic.identity(view.embedder_id))
        self.settling.warmth.recall(visit)
        return visit

    def _foresee(self, view: View, visit: Visit) -> Reservation | None:
        """Decide before admission where no stored answer is expected, so that one trip can admit and reserve."""
        if visit.request.options.cache == "only-if-cached" or visit.policy.reads_budget or self._may_hit(visit):
            return None
        if self._wants_embedding(view, visit):
            return None
        try:
            return reserving.worst_case(view, visit, self._decide(view, visit))
        except GatewayError:
            return None  # to be refused with a row, once it is admitted

    def _may_hit(self, visit: Visit) -> bool:
        context = visit.context
        if context is None or not reuse.reads(visit):
            return False
        if context in self.settling.expected or self.calls.find(reuse.shared_as(visit), visit.started) is not None:
            return True
        return visit.policy.policy.cache.semantic and self.semantic.candidates(context)

    def _wants_embedding(self, view: View, visit: Visit) -> bool:
        return self.semantic.embedder is not None and deciding.wants_embedding(view, visit)

    async def _admitted(self, view: View, visit: Visit) -> Reply:
        """Steps 5 to 8 are taken once for all who ask the same at a time: here it waits for what comes of them."""
        entry = reuse.stored(visit)
        if entry is not None:
            return self._delivery.stored(view, visit, CacheHit(entry=entry, tier="exact"))
        while (call := self.calls.find(reuse.shared_as(visit), visit.started)) is not None:
            listener = call.listen()
            if await self._follow(visit, listener):
                break
        else:
            listener = await self._lead(view, visit)
        if listener.call.hit is not None:
            return self._delivery.stored(view, visit, listener.call.hit)
        return await self._delivery.answer(view, visit, listener)

    async def _lead(self, view: View, visit: Visit) -> Listener:
        """Begin the call that this request, and it alone, pays for."""
        visit.pays = True
        visit.listener = listener = self.calls.begin(
            reuse.shared_as(visit),
            lambda call: self._ask(view, visit, call),
            lambda: self.settling.call_over(view, visit),
        )
        await listener.ready()
        return listener

    async def _follow(self, visit: Visit, listener: Listener) -> bool:
        """Wait for another's call. False: what it failed with was its own, or may pass; this request is to try itself.

        What a target refuses it would refuse again.
        """
        visit.listener, began, call = listener, time.perf_counter(), listener.call
        visit.cache = "coalesced"
        try:
            await listener.ready()
        except UpstreamRefused:
            raise
        except GatewayError as error:
            visit.failures_shared += isinstance(error, UpstreamError)
            if visit.failures_shared > _FAILURES_SHARED:
                raise
            visit.cache, visit.listener = "miss", None
            return False
        finally:
            visit.upstream_s += time.perf_counter() - began
        visit.store, visit.decision = False, None
        visit.model, visit.degraded = call.model, call.degraded
        return True

    async def _ask(self, view: View, visit: Visit, call: SharedCall) -> None:
        """Steps 5 to 8, and what upstream says, in a task that the client of ``visit`` may leave behind."""
        call.hit = await self._recall(view, visit)
        if call.hit is not None:
            return
        if visit.request.options.cache == "only-if-cached":
            raise CacheMiss("only-if-cached, and no stored answer fits")
        decision = await self._reserve(view, visit)
        began = time.perf_counter()
        answer = await self._call(view, visit, decision, cascade.as_streams(view, visit, decision))
        again = functools.partial(self._again, view, visit)
        opening, answer = await cascade.weigh(view, visit, decision, answer, again, began)
        visit.model = answer.model
        if answer.model in decision.last_resort:
            visit.degraded = visit.degraded or "hosted-failed"
        call.model, call.degraded = visit.model, visit.degraded
        async with aclosing(answer.rest):
            for chunk in opening:
                visit.take(chunk)
                await call.tell(chunk)
            async for chunk in answer.rest:
                visit.take(chunk)
                await call.tell(chunk)

    async def _again(self, view: View, visit: Visit, rest: Decision, reserved: Callable[[], Awaitable[None]]) -> Answer:
        """Steps 7 and 8 for what is left of a decision, beside what is already held; ``reserved`` comes in between."""
        if not await self.books.reserve(visit, reserving.worst_case(view, visit, rest)):
            raise exhausted(visit)
        await reserved()
        return await self._call(view, visit, rest)

    async def _recall(self, view: View, visit: Visit) -> CacheHit | None:
        """Step 5; the exact tier's answer came with admission."""
        cache = visit.policy.policy.cache
        if not reuse.reads(visit) or visit.context is None or not cache.semantic:
            return None
        if visit.local_only and not view.embedder_local:
            return None
        if visit.short is not None and view.prices.paid("embedder"):
            return None
        where = (visit.context, cache.mode, cache.max_wrong_rate, visit.policy.name)
        hit, visit.vector = await self.semantic.recall(*where, local_only=visit.local_only, used=visit.used)
        return hit

    def _decide(self, view: View, visit: Visit) -> Decision:
        """Step 6."""
        return deciding.decide(view, visit)

    async def _embed(self, view: View, visit: Visit) -> None:
        if self.semantic.embedder is not None and self._wants_embedding(view, visit):
            text = visit.context.question if visit.context else visit.features.last_user_text
            with contextlib.suppress(UpstreamError):  # the rules score without it
                [visit.vector] = await self.semantic.embedder.embed([text], visit.used)

    async def _reserve(self, view: View, visit: Visit) -> Decision:
        """Step 7, and 6 where that has not been taken before admission."""
        if visit.decision is None:
            await self._embed(view, visit)
        decision = decided(view, visit) or self._decide(view, visit)
        if visit.admission is not None and visit.admission.reserved:
            return decision
        return await reserving.reserved(self.books, view, visit, decision)

    async def _call(self, view: View, visit: Visit, decision: Decision, as_streams: Collection[str] = ()) -> Answer:
        """Step 8. A retry that may be billed as well is reserved as well."""
        request = visit.request
        if request.max_tokens is None and visit.hold.parts:  # what was reserved of a budget is what may be answered
            request = msgspec.structs.replace(request, max_tokens=visit.max_tokens)
        visit.model = decision.targets[0]
        began = time.perf_counter()
        try:
            return await view.fleet.call(
                (*decision.targets, *decision.last_resort),
                request,
                deadline_s=deadline_s(request, decision, began - visit.started),
                on_attempt=visit.attempts.append,
                before_retry=functools.partial(reserving.reserve_again, self.books, view, visit),
                as_streams=as_streams,
                default_max_tokens=visit.max_tokens,
            )
        finally:
            visit.upstream_s += time.perf_counter() - began
