"""The values that pass between the stages of a request, frozen.

``bytes → ChatRequest → Admission → CacheHit | Decision → chunks → Outcome → LedgerEntry``

Money is an integer number of nano-dollars (1 USD = 10**9) wherever it is stored, ``Decimal`` where it is computed.
Times are seconds (float) where measured with ``time.perf_counter``, epoch milliseconds (int) where stored.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any, Literal

import msgspec

Scope = Literal["key", "team", "shared"]
CacheTier = Literal["exact", "semantic", "miss", "bypass", "coalesced"]
CacheDirective = Literal["default", "no-cache", "no-store", "only-if-cached"]
UsageSource = Literal["reported", "estimated", "none"]
Status = Literal["ok", "error", "incomplete", "cancelled", "crashed"]
Where = Literal["local", "hosted", "cache", "none"]

NANO = 1_000_000_000
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
SHADOW_KEY = "shadow"
"""The ``key_id`` of requests that are made for comparison only."""


class Frozen(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=False):
    """Base of every value that passes between stages: immutable and keyword-only."""


Role = Literal["user", "viewer", "admin"]


class Allowed(Frozen, frozen=True, kw_only=True):
    """What may be asked for, as shell patterns (``gpt-4o*``); an empty list allows everything. ``tags`` are those of
    the request's own header.
    """

    models: tuple[str, ...] = ()
    policies: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()


class Principal(Frozen, frozen=True, kw_only=True):
    """Who is asking. ``key_id`` is ``anonymous`` for the loopback principal, which has no limits and no budget.

    ``allowed``: of the organisation, the team and the key, of which all must agree. ``role`` opens ``/admin``.
    """

    key_id: str
    organisation: str = "default"
    team: str = ""
    name: str = ""
    tags: tuple[str, ...] = ()
    rpm: int | None = None
    tpm: int | None = None
    concurrency: int | None = None
    budget_nano: int | None = None
    project: str = ""
    allowed: tuple[Allowed, ...] = ()
    role: Role = "user"
    admin: bool = False

    def may_use(self, what: Literal["models", "policies", "tags"], name: str) -> bool:
        """Whether everyone above this key, and the key itself, lets it ask for that."""
        return not self.allowed or all(_matches(getattr(one, what), name) for one in self.allowed)


def _matches(patterns: tuple[str, ...], name: str) -> bool:
    return not patterns or any(fnmatchcase(name, pattern) for pattern in patterns)


class RequestOptions(Frozen, frozen=True, kw_only=True):
    """What the caller asked for in ``x-gateway-*`` request headers."""

    cache: CacheDirective = "default"
    cache_ttl_s: float | None = None
    tags: tuple[str, ...] = ()
    quality: int | None = None
    session: str = ""
    deadline_ms: int | None = None
    forward_headers: tuple[tuple[str, str], ...] = ()


class ChatRequest(Frozen, frozen=True, kw_only=True):
    """One chat completion as it came.

    ``fields`` maps each top-level key of the body to its bytes as the client wrote them, so that what this gateway has
    never heard of is forwarded byte for byte. ``messages`` is the decoded conversation. ``apart``: what the client's
    own format says and no field of a chat does; requests that differ in it share no stored answer.
    """

    id: str
    model: str
    messages: list[dict[str, Any]]
    fields: dict[str, msgspec.Raw]
    stream: bool = False
    include_usage: bool = False
    max_tokens: int | None = None
    n: int = 1
    logprobs: bool = False
    user: str = ""
    options: RequestOptions = RequestOptions()
    body_bytes: int = 0
    apart: str = ""


class Features(Frozen, frozen=True, kw_only=True):
    """What the policy may look at, computed once from a request; pure. Field meanings: ``docs/policies.md``.

    Every field except ``last_user_text`` is a CEL variable of the same name.
    """

    prompt_tokens: int
    max_tokens: int
    turns: int
    messages: int
    needs: tuple[str, ...]
    tags: tuple[str, ...]
    language: str
    code: bool
    maths: bool
    privacy: str
    question: str
    constraints: int
    words: int
    stream: bool
    quality: int
    system_tokens: int
    last_user_tokens: int
    key: str
    team: str
    model: str
    about_now: bool = False
    year: int = 0
    last_user_text: str = ""


class Score(Frozen, frozen=True, kw_only=True):
    """A difficulty in 0 (any model can) … 1 (only the best), and what it is made of, strongest first.

    ``quality``: how likely each configured model is to answer well, where that is predicted.
    """

    difficulty: float
    contributions: tuple[tuple[str, float], ...] = ()
    scorer: str = "rules"
    quality: tuple[tuple[str, float], ...] = ()


class Live(Frozen, frozen=True, kw_only=True):
    """How a target has been doing of late: milliseconds to the first token (None: not known), the share of its calls
    that failed, and the seconds a request would wait for it now.
    """

    ttft_ms: float | None = None
    error_rate: float = 0.0
    wait_s: float = 0.0


class Price(Frozen, frozen=True, kw_only=True):
    """What a model costs. USD per million tokens, as decimal strings would be lossless: the numbers are ``Decimal``s
    kept by :mod:`gateway.pricing`; this is their stored form with provenance.
    """

    input: str
    output: str
    cached_input: str
    cache_write: str
    source: str
    date: str
    usd_per_hour: str = "0"


class Usage(Frozen, frozen=True, kw_only=True, omit_defaults=True):
    """Tokens of one upstream call, as OpenAI counts: ``prompt_tokens`` and ``completion_tokens`` include their parts.

    Parts of the prompt, none in two of them: ``cached_tokens``, ``cache_write_tokens`` (of which
    ``cache_write_1h_tokens`` are kept for an hour), ``audio_input_tokens``, ``image_input_tokens``. Parts of the
    completion: ``reasoning_tokens``, ``audio_output_tokens``, ``image_output_tokens``. ``tier`` is the service tier
    that answered, "" the standard one. ``busy_s`` is the time computed for this request, None where unknown.
    ``incomplete``: upstream's counts do not add up, and the rest was priced as the plainest of its kind.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    source: UsageSource = "reported"
    busy_s: float | None = None
    cache_write_1h_tokens: int = 0
    audio_input_tokens: int = 0
    image_input_tokens: int = 0
    audio_output_tokens: int = 0
    image_output_tokens: int = 0
    tier: str = ""
    incomplete: bool = False


class Rejected(Frozen, frozen=True, kw_only=True):
    """A target that was not tried, or not at first, and why."""

    model: str
    reason: str


class Decision(Frozen, frozen=True, kw_only=True):
    """Where a request may go: ``targets`` in order of trial, never empty (an empty route is an error).

    ``last_resort``: local models the rule does not name, for when every target fails while it is called. ``arm``: the
    side of a canary or experiment. ``shadow``: models to ask as well, for comparison. ``params``: fields of the body
    that are sent instead of the client's, as JSON. ``timeout_s`` bounds the whole call. ``quality``: as
    it was predicted. ``scorer``: which one told the difficulty, and by which artefact.
    """

    rule: str
    targets: tuple[str, ...]
    last_resort: tuple[str, ...] = ()
    arm: str = ""
    shadow: tuple[str, ...] = ()
    params: tuple[tuple[str, msgspec.Raw], ...] = ()
    timeout_s: float | None = None
    local_only: bool = False
    difficulty: float | None = None
    contributions: tuple[tuple[str, float], ...] = ()
    quality: tuple[tuple[str, float], ...] = ()
    scorer: str = ""
    rejected: tuple[Rejected, ...] = ()
    unmatched: tuple[Rejected, ...] = ()
    degraded: str = ""


class Signals(Frozen, frozen=True):
    """How sure a local model was of the first ``tokens`` tokens of its answer: the mean and the least of their natural
    log-probabilities, and the share of them that it gave less than even odds.
    """

    mean_logprob: float
    min_logprob: float
    uncertain_share: float
    tokens: int


class Chunk(Frozen, frozen=True, kw_only=True):
    """One piece of a reply on its way to the client.

    For a stream: ``data`` is the JSON of one SSE event as upstream sent it. For a plain reply: the whole body, once.
    ``usage_only`` marks OpenAI's trailing event with empty ``choices``, which a client sees only when it asked.
    ``error`` is set when upstream reported an error inside the stream (``data`` is then that event). ``aside`` is
    what was generated besides ``text``, the first choice's: reasoning, arguments of tool calls, other choices.
    ``confidence`` (0 … 1) is a local model's own, over the first ``confident_tokens`` tokens of the answer. ``signals``
    are of its beginning, however long it is by now.
    """

    data: bytes
    text: str = ""
    aside: str = ""
    finish_reason: str | None = None
    usage: Usage | None = None
    usage_only: bool = False
    tool_calls: bool = False
    final: bool = False
    error: str = ""
    confidence: float | None = None
    confident_tokens: int = 0
    signals: Signals | None = None


class Attempt(Frozen, frozen=True, kw_only=True):
    """One upstream call that was made, whether or not it answered.

    ``usage`` is of one that was abandoned: what may be billed for it, though nobody gets its answer. Where that is
    estimated its prompt is the request's.
    """

    model: str
    started_ms: int
    duration_ms: float
    status: int | None = None
    error: str = ""
    usage: Usage | None = None


class CacheEntry(Frozen, frozen=True, kw_only=True):
    """A stored answer: ``body`` is a plain ``chat.completion``, ``usage`` what it cost when it was made.

    ``key_id`` and ``tags`` are those of the request that it was made for.
    """

    id: str
    body: bytes
    model: str
    usage: Usage
    created_ms: int
    prompt: str = ""
    cost_nano: int = 0
    key_id: str = ""
    tags: tuple[str, ...] = ()


class CacheHit(Frozen, frozen=True, kw_only=True):
    """An answer found in the cache and how it was found. ``p_same``: how likely it answers the question asked, by
    ``evidence``; ``measures``: what the verifier went by.
    """

    entry: CacheEntry
    tier: CacheTier
    similarity: float = 1.0
    p_same: float = 1.0
    evidence: tuple[float, ...] = ()
    measures: tuple[float, ...] = ()


class LedgerEntry(Frozen, frozen=True, kw_only=True, omit_defaults=True):
    """Exactly one for each admitted request: the row of the books. Column names of the SQL table are these names.

    ``cost_nano`` is everything the request cost; ``embedding_nano``, ``verification_nano`` and ``abandoned_nano``
    (tries that were billed and not used) are the parts of it that bought no answer. ``saved_nano`` is net: baseline −
    cost. ``busy_us`` is how long a local model computed. ``incomplete``: upstream's usage is known to lack a part.
    ``consented``: the content may leave through an export. ``feedback`` (−1 … 1) comes later, if ever.
    """

    request_id: str
    ts_ms: int
    organisation: str = "default"
    team: str = ""
    key_id: str = "anonymous"
    project: str = ""
    end_user: str = ""
    tags: tuple[str, ...] = ()
    session: str = ""
    policy: str = ""
    rule: str = ""
    requested_model: str = ""
    model: str = ""
    provider: str = ""
    served: Where = "none"
    cache: CacheTier = "miss"
    similarity: float | None = None
    cache_entry: str = ""
    stream: bool = False
    status: Status = "ok"
    http_status: int = 200
    error: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    usage_source: UsageSource = "none"
    busy_us: int = 0
    cost_nano: int = 0
    embedding_nano: int = 0
    verification_nano: int = 0
    abandoned_nano: int = 0
    baseline_nano: int = 0
    saved_nano: int = 0
    reserved_nano: int = 0
    unpriced: bool = False
    incomplete: bool = False
    price_source: str = ""
    price_date: str = ""
    ttft_ms: float | None = None
    duration_ms: float = 0.0
    overhead_ms: float = 0.0
    tokens_per_s: float | None = None
    difficulty: float | None = None
    degraded: str = ""
    consented: bool = False
    feedback: float | None = None
    detail: dict[str, Any] = {}


class Content(Frozen, frozen=True, kw_only=True):
    """A prompt and its answer, kept only where a policy says so, until ``expires_ms``.

    They are stored as they come: whoever hands them over has redacted or encrypted them, and says how in ``form``
    (``plain``, ``redacted``, ``encrypted:<key id>``).
    """

    request_id: str
    ts_ms: int
    expires_ms: int
    prompt: bytes
    answer: bytes
    form: str = "plain"
    organisation: str = "default"
    team: str = ""
    key_id: str = ""
    end_user: str = ""
