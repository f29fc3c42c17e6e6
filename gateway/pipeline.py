"""The way of a request, in order. Nothing else knows the order.

1 authenticate (:mod:`gateway.auth`, by the HTTP layer) → 2 features → 3 gate → 4 admit and exact cache → 5 recall →
6 decide → 7 reserve → 8 call → 9 reply → 10 settle.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING

import msgspec

from gateway import books as accounts
from gateway import cascade, reply, storing
from gateway.arbiter import Arbiter
from gateway.books import Reservation
from gateway.budget.limits import Admission
from gateway.cache import exact, replay
from gateway.cache.coalesce import Coalescer
from gateway.cache.hits import Hits
from gateway.cache.keys import cache_context
from gateway.cache.staleness import wants_variety
from gateway.errors import (
    CacheMiss,
    Forbidden,
    GatewayError,
    NotFound,
    Overloaded,
    Unpriced,
    UpstreamBroken,
    UpstreamError,
    UpstreamRefused,
)
from gateway.prompt_bound import PromptBound
from gateway.routing import deadline_s, decided, situation_of, with_params, worst_nano
from gateway.shadows import Shadows
from gateway.trials import Trials
from gateway.types import CacheEntry, CacheHit, Decision, Where
from gateway.upkeep import Upkeep
from gateway.visit import Bill, Visit, bill, ledger_entry, route_name
from gateway.warmth import Warmth

if TYPE_CHECKING:
    from gateway.backends.fleet import Answer, Fleet
    from gateway.books import Books
    from gateway.cache.coalesce import Key, Listener, SharedCall
    from gateway.cache.semantic import SemanticCache
    from gateway.cache.verifier import Verifier
    from gateway.config import Settings
    from gateway.metrics import Metrics
    from gateway.policy.competence import Competence
    from gateway.policy.compile import CompiledPolicy
    from gateway.policy.loader import PolicySet
    from gateway.pricing import PriceBook
    from gateway.protocols import Scorer
    from gateway.types import ChatRequest, LedgerEntry, Principal

_NOT_ALLOWED = "this key may not use it"
_RESERVING_MAX = 5  # while others take what is left
_FAILURES_SHARED = 2  # of the calls of others, before theirs is this request's own

_NO_PRICE = "its price is not known (set `price` in gateway.yaml, or `unpriced: allow` in the policy)"

Headers = list[tuple[str, str]]


class View(msgspec.Struct, frozen=True, kw_only=True, weakref=True):
    """One configuration, built whole and swapped in one assignment; a request keeps the one it began with.

    ``competences``: of the local models that have a profile, by name.
    """

    settings: Settings
    policies: PolicySet
    prices: PriceBook
    fleet: Fleet
    scorer: Scorer
    competences: Mapping[str, Competence]
    embedder_id: str
    embedder_local: bool
    verifier: Verifier | None = None
    loaded_ms: int = 0


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


class Pipeline:
    """Answers chat requests with one :class:`View` at a time."""

    def __init__(
        self, books: Books, semantic: SemanticCache, metrics: Metrics, settled: Callable[[LedgerEntry], None]
    ) -> None:
        self.books, self.semantic, self.metrics = books, semantic, metrics
        self._settled = settled
        self._expected = exact.Expected()
        self.calls = Coalescer()
        self.shadows = Shadows(books)
        self.arbiter = Arbiter(books)
        self.upkeep = Upkeep(books)
        self.trials = Trials(books.link, metrics)
        self.hits = Hits(books.link, books.keys, books.spawn)
        self.warmth = Warmth(books)

    async def answer(self, view: View, request: ChatRequest, principal: Principal) -> Reply:
        """Everything up to the first byte.

        Raises:
            GatewayError: what the client is told instead; if the request had been admitted, its row is written.
        """
        visit = self._enter(view, request, principal)
        try:
            admitting = self.books.admit(visit, look_up=_reads(visit), reserve=self._foresee(view, visit))
            visit.admission = await self.warmth.beside(visit, admitting)
        except asyncio.CancelledError:
            visit.admission = Admission()  # perhaps: settling finds out, since it follows on the same connection
            self._leave(view, visit)
            raise
        try:
            return await self._admitted(view, visit)
        except GatewayError as error:
            if isinstance(error, UpstreamError) and visit.attempts:
                visit.model = visit.attempts[-1].model
            visit.fail("error", error.status, visit.told_of(error))
            error.admitted = True
            error.headers += self._headers(visit, None)
            self._settle(view, visit)
            raise
        except asyncio.CancelledError:
            self._leave(view, visit)
            raise
        except Exception as bug:  # whatever went wrong, an admitted request has its row and gives back what it holds
            visit.fail("error", 500, f"internal_error: {type(bug).__name__}")
            self._settle(view, visit)
            raise

    def _enter(self, view: View, request: ChatRequest, principal: Principal) -> Visit:
        """Steps 2 and 3: features, then the gate."""
        policy = _policy(view, request.model)
        _permit(view, request, principal, policy.name)
        features = policy.features(request, principal)
        policy, features, trial = self.trials.enrol(view.policies, policy, request, principal, features)
        visit = Visit(request, principal, policy, features)
        visit.trial, visit.local_only = trial, policy.gate(features).local_only
        cache = policy.policy.cache
        if (cache.exact or cache.semantic) and not _creative(visit):
            visit.context = cache_context(
                *(request, principal),
                scope=cache.scope,
                local_only=visit.local_only,
                embedder=self.semantic.identity(view.embedder_id),
                arm=trial.tag if trial else "",
            )
            visit.cache = "miss" if _reads(visit) else "bypass"
            visit.store = request.options.cache != "no-store"
        self.warmth.recall(visit)
        return visit

    def _foresee(self, view: View, visit: Visit) -> Reservation | None:
        """Decide before admission where no stored answer is expected, so that one trip can admit and reserve."""
        if visit.request.options.cache == "only-if-cached" or visit.policy.reads_budget or self._may_hit(visit):
            return None
        if self._wants_embedding(view, visit):
            return None
        try:
            return _worst_case(view, visit, self._decide(view, visit))
        except GatewayError:
            return None  # to be refused with a row, once it is admitted

    def _wants_embedding(self, view: View, visit: Visit) -> bool:
        """Whether the score may change with an embedding that is not there yet, and may be had for this request."""
        if "difficulty" not in visit.policy.variables or visit.vector is not None or self.semantic.embedder is None:
            return False
        if visit.local_only or view.settings.model(visit.request.model) is not None:
            return False  # where it goes does not hang on its difficulty
        if visit.short is not None and view.prices.paid("embedder"):
            return False  # nothing is left to pay for it
        return view.scorer.wants_embedding(visit.features)

    async def _embed(self, view: View, visit: Visit) -> None:
        if self.semantic.embedder is not None and self._wants_embedding(view, visit):
            text = visit.context.question if visit.context else visit.features.last_user_text
            with contextlib.suppress(UpstreamError):  # the rules score without it
                [visit.vector] = await self.semantic.embedder.embed([text], visit.used)

    def _may_hit(self, visit: Visit) -> bool:
        context = visit.context
        if context is None or not _reads(visit):
            return False
        if context in self._expected or self.calls.find(_shared_as(visit), visit.started) is not None:
            return True
        return visit.policy.policy.cache.semantic and self.semantic.candidates(context)

    async def _admitted(self, view: View, visit: Visit) -> Reply:
        """Steps 5 to 8 are taken once for all who ask the same at a time: here it waits for what comes of them."""
        entry = _stored(visit)
        if entry is not None:
            return self._replay(view, visit, CacheHit(entry=entry, tier="exact"))
        while (call := self.calls.find(_shared_as(visit), visit.started)) is not None:
            listener = call.listen()
            if await self._follow(visit, listener):
                break
        else:
            listener = await self._lead(view, visit)
        if listener.call.hit is not None:
            return self._replay(view, visit, listener.call.hit)
        if not visit.request.stream:
            return await self._plain(view, visit, listener)
        return self._streamed(view, visit, self._headers(visit, None), self._stream(view, visit, listener))

    async def _lead(self, view: View, visit: Visit) -> Listener:
        """Begin the call that this request, and it alone, pays for."""
        visit.pays = True
        visit.listener = listener = self.calls.begin(
            _shared_as(visit), lambda call: self._ask(view, visit, call), lambda: self._asked(view, visit)
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
        if not await self.books.reserve(visit, _worst_case(view, visit, rest)):
            raise accounts.exhausted(visit)
        await reserved()
        return await self._call(view, visit, rest)

    def _streamed(self, view: View, visit: Visit, headers: Headers, events: AsyncGenerator[bytes, None]) -> Reply:
        async def left() -> None:
            self._leave(view, visit)

        def complete() -> bool:
            return visit.status == "ok"

        return Reply(headers, Stream(events=events, left=left, complete=complete))

    async def _recall(self, view: View, visit: Visit) -> CacheHit | None:
        """Step 5; the exact tier's answer came with admission."""
        if not _reads(visit) or visit.context is None:
            return None
        cache = visit.policy.policy.cache
        if not cache.semantic or (visit.local_only and not view.embedder_local):
            return None
        if visit.short is not None and view.prices.paid("embedder"):
            return None
        where = (visit.context, cache.mode, cache.max_wrong_rate, visit.policy.name)
        hit, visit.vector = await self.semantic.recall(*where, local_only=visit.local_only, used=visit.used)
        return hit

    def _decide(self, view: View, visit: Visit) -> Decision:
        """Step 6."""
        policy, request = visit.policy, visit.request
        pinned = request.model if view.settings.model(request.model) is not None else None
        if pinned and (reason := _unpriced(view, policy, pinned)):
            raise Unpriced(f"{pinned}: {reason}")

        away: dict[str, str | None] = {}

        def unavailable(name: str) -> str | None:
            allowed = visit.principal.may_use("models", name)
            away[name] = (view.fleet.unavailable(name) or _unpriced(view, policy, name)) if allowed else _NOT_ALLOWED
            return away[name]

        score = view.scorer.score(visit.features, visit.vector)
        try:
            decision = policy.decide(
                visit.features,
                score,
                unavailable=unavailable,
                local_only=visit.local_only,
                pinned=pinned,
                situation=situation_of(view, visit),
            )
        except Overloaded as error:
            if set(away.values()) == {_NOT_ALLOWED}:
                raise Forbidden(error.message, code="model_not_allowed", param="model") from None
            if set(away.values()) == {_NO_PRICE}:  # trying again later will not help
                raise Unpriced(error.message) from None
            raise
        visit.decision, visit.degraded = decision, decision.degraded
        if decision.params:
            visit.request = with_params(visit.request, decision)
            visit.max_tokens = visit.request.max_tokens or visit.max_tokens
        return decision

    def _within_budget(self, view: View, visit: Visit, decision: Decision) -> Decision:
        """A budget has not enough left: what may still be tried, by the policy and by what the others have left."""
        whole = self.books.short_for_all(visit)

        def fits(name: str) -> bool:
            return self.books.fits(visit, _worst_case_of(view, visit, name))

        rest = visit.policy.for_budget(decision, fits, whole=whole)
        if rest is None:
            raise accounts.exhausted(visit)
        visit.decision, visit.degraded = rest, rest.degraded
        return rest

    async def _reserve(self, view: View, visit: Visit) -> Decision:
        """Step 7: the worst case of the dearest target that may still be tried; and what an exhausted budget leaves."""
        admission = visit.admission or Admission(known=False)
        if visit.decision is None:
            await self._embed(view, visit)
        decision = decided(view, visit) or self._decide(view, visit)
        if admission.reserved:
            return decision
        wanted = _worst_case(view, visit, decision)
        for _ in range(_RESERVING_MAX):
            hopeless = visit.short is not None and wanted.amount_nano > 0
            if not hopeless and await self.books.reserve(visit, wanted):
                return decision
            if (tight := await self._tightened(view, visit, decision)) is not None:
                wanted, visit.short = tight, None
                continue
            decision = self._within_budget(view, visit, decision)
            wanted, visit.short = _worst_case(view, visit, decision, degraded=True), None
        raise accounts.exhausted(visit)

    async def _tightened(self, view: View, visit: Visit, decision: Decision) -> Reservation | None:
        """The worst case by a count of the prompt, once, and only where what is left has room for an estimate of it."""
        likely = PromptBound(text=visit.features.prompt_tokens)
        if not self.books.fits(visit, _worst_case(view, visit, decision, bound=likely)) or not await visit.tighten():
            return None
        wanted = _worst_case(view, visit, decision)
        return wanted if self.books.fits(visit, wanted) else None

    async def _call(self, view: View, visit: Visit, decision: Decision, as_streams: Collection[str] = ()) -> Answer:
        """Step 8. A retry that may be billed as well is reserved as well."""
        request = visit.request
        if request.max_tokens is None and visit.hold.parts:  # what was reserved of a budget is what may be answered
            request = msgspec.structs.replace(request, max_tokens=visit.max_tokens)
        visit.model = decision.targets[0]
        began = time.perf_counter()

        async def before_retry(name: str) -> None:
            while not await self.books.reserve(visit, _worst_case_of(view, visit, name)):
                if not await visit.tighten():
                    raise accounts.exhausted(visit)

        try:
            return await view.fleet.call(
                (*decision.targets, *decision.last_resort),
                request,
                deadline_s=deadline_s(request, decision, began - visit.started),
                on_attempt=visit.attempts.append,
                before_retry=before_retry,
                as_streams=as_streams,
            )
        finally:
            visit.upstream_s += time.perf_counter() - began

    async def _plain(self, view: View, visit: Visit, listener: Listener) -> Reply:
        """Step 9 for a plain reply: its costs are known before the body leaves."""
        chunk = await listener.last()
        if not visit.pays and chunk is not None:
            visit.take(chunk)
        await visit.count()
        amount, body = bill(visit, view.prices), b"" if chunk is None else chunk.data
        whole = Reply(self._headers(visit, amount), reply.with_costs(body, amount, visit.final_usage()))
        self._settle(view, visit)
        return whole

    async def _stream(self, view: View, visit: Visit, listener: Listener) -> AsyncGenerator[bytes, None]:
        """Step 9 for a stream: pass on, learn, and end with the costs if the client asked for usage."""
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
        except Exception as bug:  # as in `answer`: the row tells the truth, whatever went wrong
            visit.fail("incomplete", 500, f"internal_error: {type(bug).__name__}")
            raise
        self._settle(view, visit)

    def _replay(self, view: View, visit: Visit, hit: CacheHit) -> Reply:
        """A stored answer, in the form this client asked for."""
        visit.hit, visit.cache, visit.store = hit, hit.tier, False
        visit.decision, visit.degraded = None, ""
        amount = bill(visit, view.prices)
        headers = self._headers(visit, amount)
        if not visit.request.stream:
            chunk = replay.plain_chunk(hit.entry)
            visit.take(chunk)
            whole = Reply(headers, reply.with_costs(chunk.data, amount, hit.entry.usage))
            self._settle(view, visit)
            return whole
        return self._streamed(view, visit, headers, self._replayed_stream(view, visit, hit, amount))

    async def _replayed_stream(
        self, view: View, visit: Visit, hit: CacheHit, amount: Bill
    ) -> AsyncGenerator[bytes, None]:
        for chunk in replay.stream_chunks(hit.entry):
            visit.take(chunk)
            if not chunk.usage_only:
                yield chunk.data
            elif visit.request.include_usage:
                yield reply.with_costs(chunk.data, amount, hit.entry.usage)
        self._settle(view, visit)

    def _leave(self, view: View, visit: Visit) -> None:
        """The client has gone; a request that had not come to its end is settled as cancelled.

        Who pays for a call that others still listen to is settled when that is over.
        """
        if visit.settled:
            return
        if visit.listener is not None:
            visit.listener.leave()
            if visit.pays and not visit.listener.call.over:
                visit.gone = True
                return
        visit.leave()
        self._settle(view, visit)

    def _asked(self, view: View, visit: Visit) -> None:
        """The call is over, and whoever pays for it may have left before."""
        if visit.gone and not visit.settled:
            visit.leave()
            self._settle(view, visit)

    def _settle(self, view: View, visit: Visit) -> None:
        """Step 10, once, off the request's own task, so that nothing can cut it short."""
        if not visit.settled:
            visit.settled = True
            if visit.listener is not None:
                visit.listener.leave()
            self.books.spawn(self._settled_row(view, visit))

    async def _settled_row(self, view: View, visit: Visit) -> None:
        await visit.count()
        amount = bill(visit, view.prices)
        model = view.settings.model(visit.model)
        provider = "cache" if visit.given else (model.kind if model else "")
        served: Where = "none"
        if visit.given and (visit.hit is not None or visit.first_byte is not None):
            served = "cache"
        elif visit.first_byte is not None and model is not None:
            served = "local" if model.is_local else "hosted"
        entry = ledger_entry(visit, amount, provider=provider, served=served)
        store = storing.cache_write(visit, entry)
        if visit.context and (store is not None or visit.cache == "exact"):
            self._expected.add(visit.context)
        if visit.hit is not None:
            similarity = visit.hit.similarity if visit.hit.tier == "semantic" else None
            self.hits.note(visit.hit.entry.id, entry.saved_nano, similarity, visit.hit.p_same)
        self._settled(entry)
        self.metrics.observe(entry)
        if visit.pays and visit.status == "ok":
            self.shadows.cast(view, visit)
        self.warmth.note(visit, entry, view.prices)
        await self.books.settle(visit, entry, store)
        if visit.pays and visit.listener is not None:
            visit.listener.call.settle()
        if store is not None and visit.context and self._learns(view, visit):
            used = self.upkeep.of(view.prices, visit.principal.organisation)
            await self.semantic.remember(visit.context, visit.vector, self.arbiter.of(view, visit), used)

    def _learns(self, view: View, visit: Visit) -> bool:
        return visit.policy.policy.cache.semantic and (view.embedder_local or not visit.local_only)

    def _headers(self, visit: Visit, amount: Bill | None) -> Headers:
        """DESIGN section 5's response headers."""
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
            headers += accounts.ratelimit_headers(visit.admission)
        return headers


def _policy(view: View, model: str) -> CompiledPolicy:
    """``auto``, ``auto:<policy>`` or a configured model (under the default policy). Raises NotFound."""
    default = view.settings.config.policies.default
    name = default if model == "auto" or view.settings.model(model) else model.removeprefix("auto:")
    policy = view.policies.get(name) if name == default or model.startswith("auto:") else None
    if policy is None:
        raise NotFound(f"the model '{model}' does not exist", code="model_not_found", param="model")
    return policy


def _permit(view: View, request: ChatRequest, principal: Principal, policy: str) -> None:
    """Raises Forbidden where the key, its team or its organisation does not allow what is asked for."""
    if not principal.allowed:
        return
    if not principal.may_use("policies", policy):
        raise Forbidden(f"this key may not use the policy '{policy}'", code="policy_not_allowed", param="model")
    if view.settings.model(request.model) and not principal.may_use("models", request.model):
        raise Forbidden(f"this key may not use the model '{request.model}'", code="model_not_allowed", param="model")
    for tag in request.options.tags:
        if not principal.may_use("tags", tag):
            message = f"this key may not use the tag '{tag}'"
            raise Forbidden(message, code="tag_not_allowed", param="x-gateway-tags")


def _reads(visit: Visit) -> bool:
    return visit.context is not None and visit.request.options.cache != "no-cache"


def _creative(visit: Visit) -> bool:
    """Whether who asks again wants another answer: by the temperature, or by the words where it is not 0."""
    temperature = visit.temperature
    if temperature > visit.policy.policy.cache.max_temperature:
        return True
    return temperature > 0 and "seed" not in visit.request.fields and wants_variety(visit.features.last_user_text)


def _stored(visit: Visit) -> CacheEntry | None:
    """What the exact tier holds; it came with admission."""
    stored = visit.admission.stored if visit.admission and _reads(visit) else None
    return exact.decode(stored) if stored is not None and visit.policy.policy.cache.exact else None


def _shared_as(visit: Visit) -> Key | None:
    """What requests that may share a call have in common; None where this one asks for itself."""
    request, context = visit.request, visit.context
    if context is None or request.options.cache != "default" or request.logprobs or not visit.policy.policy.cache.exact:
        return None
    return context.exact, request.stream, request.options.deadline_ms


def _unpriced(view: View, policy: CompiledPolicy, name: str) -> str | None:
    if policy.policy.unpriced == "allow" or view.settings.model(name) is None or view.prices.price(name) is not None:
        return None
    return _NO_PRICE


def _worst_case_of(view: View, visit: Visit, name: str, bound: PromptBound | None = None) -> Reservation:
    price, amount = view.prices.price(name, visit.ts_ms), worst_nano(view, visit, name, bound)
    if price is None or amount is None:
        return Reservation(0, (name, None))
    return Reservation(amount, (name, price), ((name, amount),))


def _worst_case(
    view: View, visit: Visit, decision: Decision, *, degraded: bool = False, bound: PromptBound | None = None
) -> Reservation:
    """The dearest of all targets that may be tried. A budget that is spent does not have to pay for local ones."""
    each = [_worst_case_of(view, visit, name, bound) for name in (*decision.targets, *decision.last_resort)]
    if len(each) == 1 and not degraded:
        return each[0]
    if degraded:
        each = [Reservation(0, one.price_of) if _is_local(view, one.price_of[0]) else one for one in each]
    dearest = max(each, key=lambda one: one.amount_nano)
    models = tuple(model for one in each for model in one.models)
    return msgspec.structs.replace(dearest, models=models)


def _is_local(view: View, name: str) -> bool:
    model = view.settings.model(name)
    return model is not None and model.is_local
