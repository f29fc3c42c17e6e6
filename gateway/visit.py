"""One request on its way through the pipeline: what is learned at each step, and the ledger row it ends as.

This is the only mutable value of a request; it never leaves the pipeline. What leaves is its :class:`LedgerEntry`.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import msgspec

from gateway.budget.levels import NOTHING, Levels
from gateway.budget.limits import Hold
from gateway.errors import GatewayError, UpstreamError
from gateway.features import estimate_tokens, prompt_texts
from gateway.helped import Help, help_by, nano_of
from gateway.policy.model import ContentsConfig
from gateway.prompt_bound import PromptBound, counted, prompt_bound
from gateway.tokens import count_tokens
from gateway.types import (
    Attempt,
    CacheHit,
    CacheTier,
    ChatRequest,
    Chunk,
    Decision,
    Features,
    LedgerEntry,
    Live,
    Principal,
    Status,
    Usage,
    UsageSource,
    Where,
)
from gateway.warmth import tokens as warm_tokens

if TYPE_CHECKING:
    from gateway.budget.limits import Admission
    from gateway.budget.reservations import Short
    from gateway.cache.coalesce import Listener
    from gateway.cache.index import Vector
    from gateway.cache.keys import CacheContext
    from gateway.policy.compile import CompiledPolicy
    from gateway.policy.experiments import Trial
    from gateway.pricing import PriceBook
    from gateway.protocols import Helper
    from gateway.types import Price
    from gateway.warmth import Conversation, Targets

_KEPT_BYTES = 1024 * 1024
_NOTHING_HELD = Hold()
NOTHING_KEPT = ContentsConfig()
_PRICED_APART = (
    *("cache_write_1h_tokens", "audio_input_tokens", "image_input_tokens", "audio_output_tokens"),
    *("image_output_tokens", "tier"),
)
_NO_TIER = frozenset({"auto", "default", "standard"})


class Visit:
    """A request between admission and settlement."""

    def __init__(self, request: ChatRequest, principal: Principal, policy: CompiledPolicy, features: Features) -> None:
        self.request, self.principal, self.policy, self.features = request, principal, policy, features
        self.started = time.perf_counter()
        self.ts_ms = int(time.time() * 1000)
        self.admission: Admission | None = None
        self.context: CacheContext | None = None
        self.cache: CacheTier = "bypass"
        self.hit: CacheHit | None = None
        self.decision: Decision | None = None
        self.vector: Vector | None = None
        self.listener: Listener | None = None
        self.pays = self.gone = False
        self.failures_shared = 0
        self.local_only = False
        self.trial: Trial | None = None
        self.max_tokens = features.max_tokens
        self.live: dict[str, Live] = {}
        self.conversation: Conversation | None = None
        self.knows_warm: Targets = {}
        self.confidence: float | None = None
        self.raw_confidence: float | None = None
        self.store = False
        self.model = ""
        self.attempts: list[Attempt] = []
        self.helped: list[tuple[Helper, Usage]] = []
        self.usage: Usage | None = None
        self.levels: Levels = NOTHING
        self.hold = _NOTHING_HELD
        self.short: Short | None = None
        self.reserved_nano = 0
        self._bound: PromptBound | None = None
        self._tightened = False
        self.status: Status = "ok"
        self.http_status = 200
        self.error = ""
        self.degraded = ""
        self.upstream_s = 0.0
        self.first_byte: float | None = None
        self.kept: list[bytes] = []
        self.contents = NOTHING_KEPT if request.options.cache == "no-store" else policy.policy.contents
        self.said: list[bytes] = []
        self.complete = False
        self.settled = False
        self.billed: Bill | None = None
        self._kept_bytes = self._said_bytes = 0
        self._text: list[str] = []
        self._aside: list[str] = []
        self._counted: tuple[int, int] | None = None
        self._first_text: float | None = None
        self._last_text: float | None = None

    def used(self, helper: Helper, usage: Usage) -> None:
        """A call of a model that helps to decide was made for it."""
        self.helped.append((helper, usage))

    def take(self, chunk: Chunk) -> None:
        """Learn from a chunk on its way out."""
        now = time.perf_counter()
        if self.first_byte is None:
            self.first_byte = now
        if chunk.text:
            self._text.append(chunk.text)
            self._first_text = self._first_text or now
            self._last_text = now
        if chunk.aside:
            self._aside.append(chunk.aside)
        if chunk.usage is not None:
            self.usage = chunk.usage  # a backend's running maximum
        if chunk.finish_reason is not None or chunk.final:
            self.complete = True
        if (chunk.final or chunk.tool_calls) and self.contents.keeps:
            self._hear(chunk.data)
        if chunk.tool_calls or chunk.error:
            self.store = False
        if self.store and not chunk.usage_only:
            self._keep(chunk.data)

    def _hear(self, data: bytes) -> None:
        """Hold on to what ``text`` does not tell; not to more than would be kept."""
        self._said_bytes += len(data)
        if self._said_bytes <= _KEPT_BYTES:
            self.said.append(data)
        else:
            self.said, self.contents = [], msgspec.structs.replace(self.contents, keep="none")

    def _keep(self, data: bytes) -> None:
        self._kept_bytes += len(data)
        self.store = self._kept_bytes <= _KEPT_BYTES
        if self.store:
            self.kept.append(data)

    @property
    def text(self) -> str:
        """The answer as far as it was seen."""
        return "".join(self._text)

    def fail(self, status: Status, http_status: int, error: str) -> None:
        self.status, self.http_status, self.error, self.store = status, http_status, error[:500], False

    def told_of(self, error: GatewayError) -> str:
        """What the row says of a failure. Of what must stay local not in its target's words: they may quote it."""
        if self.local_only and isinstance(error, UpstreamError):
            return error.code
        return f"{error.code}: {error.message}"

    def leave(self) -> None:
        """Its client has gone. What was whole by then may still be stored."""
        whole = self.status == "ok" and self.complete and self.usage is not None
        keep = self.store and whole
        if self.status == "ok":
            self.fail("cancelled", 499, "the client left")
        self.store = keep

    @property
    def warm(self) -> dict[str, int]:
        """How many tokens of the conversation each target has cached; those that have none are left out."""
        return warm_tokens(self.knows_warm, self.features.prompt_tokens) if self.knows_warm else {}

    @property
    def answered(self) -> bool:
        """Whether what was seen of the answer is one, if perhaps not to its end."""
        return self.status in ("ok", "cancelled")

    @property
    def given(self) -> bool:
        """Whether its answer was bought for another request: a stored one, or that of a call they share."""
        return self.hit is not None or self.cache == "coalesced"

    @property
    def bound(self) -> PromptBound:
        """The most tokens that its prompt can have."""
        if self._bound is None:
            self._bound = prompt_bound(self.request)
        return self._bound

    async def tighten(self) -> bool:
        """Count the prompt, since a budget is too short for its bytes. False: that has been done, or tells no more."""
        if self._tightened:
            return False
        self._tightened, self._bound = True, await counted(self.bound, self.request)
        return self._bound.exact is not None

    async def count(self) -> None:
        """Count with a tokenizer, off the loop, what upstream did not report; ``final_usage`` then has it."""
        if (self._uncounted() or self._guessed()) and (self.billed is None or self.status != "ok"):
            texts, rest = prompt_texts(self.request)
            *prompt, completion = await count_tokens([*texts, self._generated()])
            self._counted = sum(prompt) + rest, completion

    def final_usage(self) -> Usage:
        """What upstream reported; else what was counted of the text that was seen, or an estimate of it."""
        if self.usage is not None:
            return self.usage
        if not self._uncounted():
            return Usage(source="none")
        prompt, completion = self._counted or (self.features.prompt_tokens, estimate_tokens(self._generated()))
        busy = time.perf_counter() - self.started
        return Usage(
            prompt_tokens=prompt,
            completion_tokens=completion,
            source="estimated",
            busy_s=busy,
            tier=self.tier if self.tier not in _NO_TIER else "",
        )

    @property
    def tier(self) -> str:
        """The service tier the request names; "" where it leaves that to the account."""
        raw = self.request.fields.get("service_tier")
        try:
            return msgspec.json.decode(raw, type=str) if raw is not None else ""
        except msgspec.ValidationError:  # upstream will say what it thinks of that
            return ""

    def tries(self) -> list[tuple[str, Usage]]:
        """What may be billed for tries that nobody got an answer of, by model."""
        used = [(attempt, attempt.usage) for attempt in self.attempts if attempt.usage is not None]
        return [(attempt.model, self._of_try(attempt, usage)) for attempt, usage in used]

    def _of_try(self, attempt: Attempt, usage: Usage) -> Usage:
        if usage.source != "estimated":
            return usage
        prompt = self._counted[0] if self._counted else self.features.prompt_tokens
        return msgspec.structs.replace(usage, prompt_tokens=prompt, busy_s=attempt.duration_ms / 1000)

    def _guessed(self) -> bool:
        """Whether it is not known what a try has used that was abandoned, its prompt included."""
        used = (attempt.usage for attempt in self.attempts if attempt.usage is not None)
        return any(usage.source == "estimated" and not usage.prompt_tokens for usage in used)

    @property
    def temperature(self) -> float:
        """What the request names, else 1: OpenAI's default."""
        raw = self.request.fields.get("temperature")
        named = msgspec.json.decode(raw) if raw is not None else None
        return 1.0 if named is None else float(named)

    def _uncounted(self) -> bool:
        """Whether something was billed that upstream did not report."""
        billed = self.first_byte is not None or self.status == "cancelled"
        return self.usage is None and self.hit is None and billed and bool(self.model)

    def _generated(self) -> str:
        return "".join((*self._text, *self._aside))

    def called_s(self) -> float:
        """The time upstream took, for who bills by the second."""
        return self.upstream_s + (time.perf_counter() - self.first_byte if self.first_byte is not None else 0)

    def overhead_ms(self) -> float:
        """Time in the gateway itself up to the first byte."""
        until = self.first_byte if self.first_byte is not None else time.perf_counter()
        return max(0.0, (until - self.started - self.upstream_s) * 1000)

    def ttft_ms(self) -> float | None:
        return None if self.first_byte is None else (self.first_byte - self.started) * 1000

    def tokens_per_s(self, usage: Usage) -> float | None:
        """Decode rate of a stream: tokens after the first ÷ the time they took."""
        if self._first_text is None or self._last_text is None or self._last_text <= self._first_text:
            return None
        return max(0, usage.completion_tokens - 1) / (self._last_text - self._first_text)


class Bill(msgspec.Struct, frozen=True, kw_only=True):
    """What a request cost and what it would have cost: nano-dollars. ``price`` is None where nothing was bought.

    ``abandoned_nano`` of the cost are for tries that nobody got an answer of, ``helped`` for what helped to decide.
    ``source``: of everything that cost.
    """

    usage: Usage
    cost_nano: int
    baseline_nano: int
    price: Price | None
    unpriced: bool
    source: UsageSource = "none"
    abandoned_nano: int = 0
    helped: tuple[Help, ...] = ()

    @property
    def saved_nano(self) -> int:
        return self.baseline_nano - self.cost_nano


def bill(visit: Visit, prices: PriceBook) -> Bill:
    """Price a request: true cost of every call that was billed, and the baseline's cost for the same tokens."""
    if visit.billed is None or visit.status != "ok":
        visit.billed = _bill(visit, prices)
    return visit.billed


def _bill(visit: Visit, prices: PriceBook) -> Bill:
    usage, helped = visit.final_usage(), help_by(visit.helped, prices, visit.ts_ms) if visit.helped else ()
    # What was reserved is for all of it, and what helped has been paid for by then.
    room = max(0, visit.reserved_nano - nano_of(helped)) if visit.reserved_nano else None
    if visit.given:
        amount = _of_given(visit, prices, usage)
    elif usage.source == "none":
        amount = _of_tries(visit, prices, usage, room)
    else:
        amount = _of_answer(visit, prices, usage, room)
    return _with_help(amount, helped) if helped else amount


def _with_help(amount: Bill, helped: tuple[Help, ...]) -> Bill:
    sources = {amount.source, *(one.source for one in helped)} - {"none"}
    return msgspec.structs.replace(
        amount,
        cost_nano=amount.cost_nano + nano_of(helped),
        helped=helped,
        price=amount.price or (None if amount.unpriced else helped[0].price),
        source="estimated" if "estimated" in sources else "reported",
    )


def _of_given(visit: Visit, prices: PriceBook, usage: Usage) -> Bill:
    """What was bought for another request costs nothing and saves all that it would have cost."""
    reference = visit.hit.entry.usage if visit.hit is not None else usage
    saves = visit.hit is not None or visit.status == "ok"
    return Bill(
        usage=msgspec.structs.replace(reference, source="none"),
        cost_nano=0,
        baseline_nano=_baseline(visit, prices, reference, 0) if saves else 0,
        price=None,
        unpriced=False,
    )


def _of_tries(visit: Visit, prices: PriceBook, usage: Usage, room: int | None) -> Bill:
    """Nothing was answered."""
    abandoned, source = _abandoned(visit, prices, 0, room)
    return Bill(
        usage=usage,
        cost_nano=abandoned,
        baseline_nano=0,
        price=prices.price(visit.model, visit.ts_ms) if abandoned else None,
        unpriced=_unpriced_try(visit, prices),
        source=source,
        abandoned_nano=abandoned,
    )


def _of_answer(visit: Visit, prices: PriceBook, usage: Usage, room: int | None) -> Bill:
    if usage.busy_s is None and prices.timed(visit.model, visit.ts_ms):
        usage = msgspec.structs.replace(usage, busy_s=visit.called_s())
    price = prices.price(visit.model, visit.ts_ms)
    cost = prices.cost_nano(visit.model, usage, visit.ts_ms) if price is not None else 0
    if usage.source == "estimated" and room is not None:
        cost = min(cost, room)
    abandoned, source = _abandoned(visit, prices, cost, room)
    return Bill(
        usage=usage,
        cost_nano=cost + abandoned,
        baseline_nano=_baseline(visit, prices, usage, cost) if visit.status == "ok" and price is not None else cost,
        price=price,
        unpriced=price is None or _unpriced_try(visit, prices),
        source="estimated" if "estimated" in (source, usage.source) else usage.source,
        abandoned_nano=abandoned,
    )


def _abandoned(visit: Visit, prices: PriceBook, cost_nano: int, room: int | None) -> tuple[int, UsageSource]:
    """What abandoned tries cost beside the answer's ``cost_nano``, and how that is known.

    The time of a machine that is paid by the hour is not among it: no request is charged for it, so it is idle time.
    """
    total = 0
    source: UsageSource = "none"
    for model, usage in visit.tries():
        period = prices.period(model, visit.ts_ms)
        if period is not None and not period.sheet.usd_per_hour:
            total += period.compiled.cost_nano(usage)
            source = usage.source if source != "estimated" else source
    if source == "estimated" and room is not None:
        total = min(total, max(0, room - cost_nano))
    return total, source


def _unpriced_try(visit: Visit, prices: PriceBook) -> bool:
    """Whether something was billed that nobody knows the price of."""
    return any(prices.period(model, visit.ts_ms) is None for model, _ in visit.tries())


def _baseline(visit: Visit, prices: PriceBook, usage: Usage, otherwise: int) -> int:
    """Cost at the baseline model; where it has no price nothing is claimed as saved."""
    model = visit.policy.policy.baseline
    cost = prices.baseline_nano(model, usage, visit.ts_ms) if model is not None else None
    return otherwise if cost is None else cost


def ledger_entry(visit: Visit, amount: Bill, *, provider: str, served: Where) -> LedgerEntry:
    """The row of the books."""
    usage, decision, request, principal = amount.usage, visit.decision, visit.request, visit.principal
    return LedgerEntry(
        request_id=request.id,
        ts_ms=visit.ts_ms,
        organisation=principal.organisation,
        team=principal.team,
        key_id=principal.key_id,
        project=principal.project,
        end_user=request.user,
        tags=visit.features.tags,
        session=request.options.session,
        policy=visit.policy.label,
        rule=route_name(visit),
        requested_model=request.model,
        model=visit.hit.entry.model if visit.hit else visit.model,
        provider=provider,
        served=served,
        cache=visit.cache,
        similarity=None if visit.hit is None else visit.hit.similarity,
        cache_entry="" if visit.hit is None else visit.hit.entry.id,
        stream=request.stream,
        status=visit.status,
        http_status=visit.http_status,
        error=visit.error,
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        cached_tokens=usage.cached_tokens,
        cache_write_tokens=usage.cache_write_tokens,
        reasoning_tokens=usage.reasoning_tokens,
        usage_source=amount.source,
        busy_us=round((usage.busy_s or 0.0) * 1e6) if served == "local" else 0,
        cost_nano=amount.cost_nano,
        embedding_nano=nano_of(amount.helped, "embedder"),
        verification_nano=nano_of(amount.helped, "cross_encoder"),
        abandoned_nano=amount.abandoned_nano,
        baseline_nano=amount.baseline_nano,
        saved_nano=amount.saved_nano,
        reserved_nano=visit.reserved_nano,
        unpriced=amount.unpriced,
        incomplete=usage.incomplete,
        price_source=amount.price.source if amount.price else "",
        price_date=amount.price.date if amount.price else "",
        ttft_ms=visit.ttft_ms(),
        duration_ms=(time.perf_counter() - visit.started) * 1000,
        overhead_ms=visit.overhead_ms(),
        tokens_per_s=visit.tokens_per_s(usage),
        difficulty=decision.difficulty if decision else None,
        degraded=visit.degraded,
        consented=visit.contents.export and visit.answered,
        detail=_detail(visit, amount),
    )


def budget_left(admission: Admission | None) -> float:
    """The share that is left of the tightest budget of an admitted request; 1 where it has none."""
    known = admission.left if admission else ()
    shares = [max(0.0, nano / account.limit_nano) for account, nano in known if account.limit_nano]
    return min(shares, default=1.0)


def route_name(visit: Visit) -> str:
    """The rule that decided; ``cache`` where none was asked."""
    if visit.decision is not None:
        return visit.decision.rule
    return "cache" if visit.given else ""


def _decided_on(hit: CacheHit | None) -> dict[str, Any]:
    """What a semantic hit was served on: the cache learns from it where somebody says that it was wrong."""
    if hit is None or not hit.evidence:
        return {}
    measures = {"measures": [round(each, 4) for each in hit.measures]} if hit.measures else {}
    return {"evidence": hit.evidence, **measures}


def _detail(visit: Visit, amount: Bill) -> dict[str, Any]:
    """Every input of the decision but the text itself, so that it can be explained and replayed; and what the price of
    the request depended on that has no column.
    """
    decision = visit.decision
    apart = {name: value for name in _PRICED_APART if (value := getattr(amount.usage, name))}
    return {
        **({"usage": apart} if apart else {}),
        **({"helped": amount.helped} if amount.helped else {}),
        "features": msgspec.structs.replace(visit.features, last_user_text=""),
        "local_only": visit.local_only,
        **({"experiment": visit.trial} if visit.trial is not None else {}),
        "decision": decision,
        **({} if visit.request.options.quality is None else {"quality": visit.request.options.quality}),
        **({"live": dict(visit.live)} if visit.live else {}),
        **({"warm": warm} if (warm := visit.warm) else {}),
        **({"confidence": visit.confidence} if visit.confidence is not None else {}),
        **({"raw_confidence": visit.raw_confidence} if visit.raw_confidence is not None else {}),
        **({"budget_left": budget_left(visit.admission)} if visit.policy.reads_budget else {}),
        "attempts": visit.attempts,
        **_decided_on(visit.hit),
    }
