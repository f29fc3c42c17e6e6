"""One request on its way through the pipeline: what is learned at each step.

This is the only mutable value of a request; it never leaves the pipeline, unlike its row (:mod:`gateway.entry`).
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import msgspec

from gateway.budget.levels import NOTHING, Levels
from gateway.budget.limits import Hold
from gateway.errors import GatewayError, UpstreamError
from gateway.features import estimate_tokens, prompt_texts
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
    Live,
    Principal,
    Status,
    Usage,
)
from gateway.warmth import tokens as warm_tokens

if TYPE_CHECKING:
    from gateway.billing import Bill
    from gateway.budget.limits import Admission
    from gateway.budget.reservations import Short
    from gateway.cache.coalesce import Listener
    from gateway.cache.index import Vector
    from gateway.cache.keys import CacheContext
    from gateway.policy.compile import CompiledPolicy
    from gateway.policy.experiments import Trial
    from gateway.protocols import Helper
    from gateway.warmth import Conversation, Targets

_KEPT_BYTES = 1024 * 1024
_NOTHING_HELD = Hold()
NOTHING_KEPT = ContentsConfig()
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
