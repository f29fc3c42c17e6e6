"""The way of a request that is answered in one piece and is no chat, in order: embeddings and moderations.

1 authenticate (by the HTTP layer) → 2 features → 3 gate → 4 admit and reserve, in one trip → 5 call → 6 settle.

Gate, limits, budgets and books are those of :mod:`gateway.pipeline`. There is no cache, nothing to decide and no other
target: the model that is named answers, or nobody.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from gateway import reply
from gateway.backends.unary import Operation
from gateway.billing import Bill, bill
from gateway.books import Reservation, exhausted
from gateway.budget.limits import Admission
from gateway.deciding import NO_PRICE, permit, policy_of
from gateway.delivery import Reply, response_headers
from gateway.entry import ledger_entry
from gateway.errors import CacheMiss, Forbidden, GatewayError, InvalidRequest, Overloaded, Unpriced
from gateway.routing import deadline_s
from gateway.types import ChatRequest, Decision, Frozen, Usage
from gateway.visit import NOTHING_KEPT, Visit

if TYPE_CHECKING:
    from gateway.books import Books
    from gateway.config import ModelConfig
    from gateway.metrics import Metrics
    from gateway.types import Chunk, LedgerEntry, Principal, Where
    from gateway.view import View

TEMPLATE_TOKENS = 64
"""What a server may put before a request's inputs: an instruction."""
INPUT_TOKENS = 8
"""And around each of them: where it begins and ends."""


class Asked(Frozen, frozen=True, kw_only=True):
    """One request. ``request`` has its body, and as its only message the texts in it, for features and gate to read.

    ``inputs``: how many there are. ``tokens``: where they are token ids, how many; nobody here can read those.
    """

    operation: Operation
    request: ChatRequest
    inputs: int
    tokens: int | None = None


class UnaryCall:
    """A request on its way, with who is to answer it and what that may cost at most."""

    def __init__(self, asked: Asked, model: ModelConfig, visit: Visit, wanted: Reservation) -> None:
        self.asked, self.model, self.visit, self.wanted = asked, model, visit, wanted


class Unary:
    """Answers such requests with one :class:`gateway.view.View` at a time; ``settled`` is called with every row."""

    def __init__(self, books: Books, metrics: Metrics, settled: Callable[[LedgerEntry], None]) -> None:
        self._books, self._metrics, self._settled = books, metrics, settled

    async def answer(self, view: View, asked: Asked, principal: Principal) -> Reply:
        """The reply, whole.

        Raises:
            GatewayError: what the client is told instead; if the request had been admitted, its row is written.
        """
        call = self._enter(view, asked, principal)
        visit = call.visit
        try:
            visit.admission = await self._books.admit(visit, look_up=False, reserve=call.wanted)
        except asyncio.CancelledError:
            visit.admission = Admission()  # perhaps: settling finds out, since it follows on the same connection
            self._leave(view, call)
            raise
        try:
            return await self._admitted(view, call)
        except GatewayError as error:
            visit.fail("error", error.status, visit.told_of(error))
            error.admitted = True
            error.headers += response_headers(visit, None)
            self._settle(view, call)
            raise
        except asyncio.CancelledError:
            self._leave(view, call)
            raise
        except Exception as bug:  # whatever went wrong, an admitted request has its row and gives back what it holds
            visit.fail("error", 500, f"internal_error: {type(bug).__name__}")
            self._settle(view, call)
            raise

    def _enter(self, view: View, asked: Asked, principal: Principal) -> UnaryCall:
        """Steps 2 and 3."""
        request, operation = asked.request, asked.operation
        named = None if request.model.partition(":")[0] == "auto" else request.model
        policy = policy_of(view, "auto" if named else request.model)
        model = view.operations.model(operation, named)
        permit(view, request, principal, policy.name)
        if not principal.may_use("models", model.name):
            message = f"this key may not use the model '{model.name}'"
            raise Forbidden(message, code="model_not_allowed", param="model")
        if asked.tokens is not None and model.is_local:
            message = f"'{model.name}' takes no token ids: send text"
            raise InvalidRequest(message, code="unsupported", param="input")
        features = policy.features(request, principal)
        if asked.tokens is not None:  # what cannot be read may hold anything
            features = msgspec.structs.replace(features, prompt_tokens=asked.tokens, privacy="unknown")
        visit = Visit(request, principal, policy, features)
        visit.contents, visit.max_tokens = NOTHING_KEPT, 0
        visit.local_only = policy.gate(features).local_only
        if visit.local_only and not model.is_local:
            message = f"this request must stay local and '{model.name}' is hosted"
            raise Forbidden(message, code="local_only", param="model")
        if request.options.cache == "only-if-cached":
            raise CacheMiss(f"only-if-cached, and {operation} are not stored")
        visit.decision = Decision(rule=operation, targets=(model.name,), local_only=visit.local_only)
        return UnaryCall(asked, model, visit, _worst_case(view, visit, model.name, asked))

    async def _admitted(self, view: View, call: UnaryCall) -> Reply:
        visit, name = call.visit, call.model.name
        if view.prices.price(name, visit.ts_ms) is None and visit.policy.policy.unpriced != "allow":
            raise Unpriced(f"{name}: {NO_PRICE}")
        if reason := view.operations.unavailable(name):
            raise Overloaded(f"'{name}' cannot be asked: {reason}", code="no_target_available")
        await self._reserve(call)
        chunk = await self._call(view, call)
        usage = chunk.usage or Usage(prompt_tokens=visit.features.prompt_tokens, source="estimated")
        visit.take(msgspec.structs.replace(chunk, usage=usage))
        amount = _billed(view, visit)
        whole = Reply(response_headers(visit, amount), _body(call, chunk, amount, usage))
        self._settle(view, call)
        return whole

    async def _reserve(self, call: UnaryCall) -> None:
        """What admission has not held. What is free needs no budget."""
        visit = call.visit
        if visit.admission is not None and visit.admission.reserved:
            return
        spent = visit.short is not None and call.wanted.amount_nano > 0
        if spent or not await self._books.reserve(visit, call.wanted):
            raise exhausted(visit)

    async def _again(self, call: UnaryCall, _: str) -> None:
        """A retry that may be billed as well is reserved as well."""
        if not await self._books.reserve(call.visit, call.wanted):
            raise exhausted(call.visit)

    async def _call(self, view: View, call: UnaryCall) -> Chunk:
        """Step 5."""
        visit, began = call.visit, time.perf_counter()
        visit.model = call.model.name
        assert visit.decision is not None
        try:
            answer = await view.operations.fleet(call.asked.operation).call(
                visit.decision.targets,
                visit.request,
                deadline_s=deadline_s(visit.request, visit.decision, began - visit.started),
                on_attempt=visit.attempts.append,
                before_retry=functools.partial(self._again, call),
            )
            return answer.first
        finally:
            visit.upstream_s += time.perf_counter() - began

    def _leave(self, view: View, call: UnaryCall) -> None:
        """The client has gone."""
        if not call.visit.settled:
            call.visit.leave()
            self._settle(view, call)

    def _settle(self, view: View, call: UnaryCall) -> None:
        """Step 6, in a task of its own, so that nothing can cut it short."""
        if not call.visit.settled:
            call.visit.settled = True
            self._books.spawn(self._settled_as(call, _entry(view, call)))

    async def _settled_as(self, call: UnaryCall, entry: LedgerEntry) -> None:
        self._settled(entry)
        self._metrics.observe(entry)
        await self._books.settle(call.visit, entry, None)


def _worst_case(view: View, visit: Visit, name: str, asked: Asked) -> Reservation:
    """No tokenizer makes more tokens of a text than it has bytes; an id in JSON has at least one as well."""
    price = view.prices.price(name, visit.ts_ms)
    if price is None:
        return Reservation(0, (name, None))
    written = len(bytes(asked.request.fields["input"]))
    most = TEMPLATE_TOKENS + INPUT_TOKENS * asked.inputs + written
    amount = view.prices.worst_case_nano(name, most, 0, at_ms=visit.ts_ms)
    return Reservation(amount, (name, price), ((name, amount),))


def _billed(view: View, visit: Visit) -> Bill:
    """Nothing is saved: what the baseline, a chat model, would charge for the same tokens buys no vectors."""
    amount = bill(visit, view.prices)
    if amount.saved_nano:
        visit.billed = amount = msgspec.structs.replace(amount, baseline_nano=amount.cost_nano)
    return amount


def _body(call: UnaryCall, chunk: Chunk, amount: Bill, usage: Usage) -> bytes:
    """Upstream's reply with the costs; this machine's own process names model, pooling and dimension at once."""
    body = reply.with_costs(chunk.data, amount, usage)
    if not call.model.is_local:
        return body
    fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    return msgspec.json.encode({**fields, "model": call.model.name})


def _entry(view: View, call: UnaryCall) -> LedgerEntry:
    """The row. It has no decision and no first token: figures of routing and of answers are not made of it."""
    visit, asked, model = call.visit, call.asked, call.model
    answered: Where = "local" if model.is_local else "hosted"
    served: Where = "none" if visit.first_byte is None else answered
    entry = ledger_entry(visit, _billed(view, visit), provider=model.kind if visit.model else "", served=served)
    detail = {name: value for name, value in entry.detail.items() if name != "decision"}
    return msgspec.structs.replace(
        entry, ttft_ms=None, detail={"operation": asked.operation, "inputs": asked.inputs, **detail}
    )
