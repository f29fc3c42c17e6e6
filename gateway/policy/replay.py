"""What a policy would have made of requests that were answered under another one. Nobody is called.

A row of the ledger holds every input of its decision but the text: features, score, which targets could not be asked,
how the others were doing, what the conversation had cached where. Tokens are taken to be the same elsewhere. A stored
answer stays one unless the new policy switches its tier off; what other cache settings would have found is not known.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import msgspec

from gateway.errors import GatewayError
from gateway.policy.dial import DIALLED, UNMEASURED, Dial, slid, without
from gateway.policy.engine import CompiledPolicy
from gateway.policy.model import PINNED
from gateway.policy.situation import Situation, identities, priced
from gateway.pricing import PriceBook
from gateway.types import SHADOW_KEY, Decision, Features, Frozen, LedgerEntry, Live, Score, Usage

# Reasons that a policy gave, which another one may not give; all others are why a target could not be asked.
_OF_POLICY = re.compile(
    r"not in gateway\.yaml|local only|lacks |context of |may cost |would wait |first token expected |budget exhausted"
)
# What a prompt without it has: for features that an older gateway did not log.
_ABSENT: dict[str, Any] = {
    **dict.fromkeys(("prompt_tokens", "max_tokens", "turns", "messages", "constraints", "words"), 0),
    **dict.fromkeys(("system_tokens", "last_user_tokens"), 0),
    **dict.fromkeys(("language", "privacy", "question", "key", "team", "model"), ""),
    **dict.fromkeys(("needs", "tags"), ()),
    **dict.fromkeys(("code", "maths", "stream"), False),
    "quality": 5,
}
_UNKNOWN = Live()
_SERVED = ("ok", "incomplete", "cancelled", "crashed")


class Told(Frozen, frozen=True, kw_only=True):
    """Where a request went and where it would go, by rule and first target; '' where it is refused.

    ``cost_nano``: None where the new target's price is not known. ``quality``: predicted, new minus old; None where it
    was not predicted.
    """

    request_id: str
    ts_ms: int
    team: str
    key_id: str
    was: str
    now: str
    rule_was: str
    rule_now: str
    cost_was_nano: int
    cost_nano: int | None
    quality: float | None = None
    hit_lost: bool = False

    @property
    def flipped(self) -> bool:
        return self.was != self.now


class Rates(NamedTuple):
    """What was seen of a target in the period: requests, milliseconds in all, busy microseconds and tokens in all."""

    requests: int = 0
    ms: float = 0.0
    busy_us: int = 0
    tokens: int = 0


def replay(
    policy: CompiledPolicy,
    rows: Iterable[LedgerEntry],
    prices: PriceBook,
    rates: Mapping[str, Rates],
    dial: Dial = UNMEASURED,
) -> Iterator[Told]:
    """One for each row that a policy decided; ``rates`` say how long local models work for a token, ``dial`` is the one
    in force.
    """
    for row in rows:
        told = _told(policy, row, prices, rates, dial)
        if told is not None:
            yield told


def seen(rows: Iterable[LedgerEntry]) -> dict[str, Rates]:
    """The rates of every target that answered."""
    found: dict[str, Rates] = {}
    for row in rows:
        if row.status == "ok" and row.served in ("local", "hosted"):
            known = found.get(row.model, Rates())
            found[row.model] = Rates(
                known.requests + 1,
                known.ms + row.duration_ms,
                known.busy_us + row.busy_us,
                known.tokens + row.prompt_tokens + row.completion_tokens,
            )
    return found


def _told(
    policy: CompiledPolicy, row: LedgerEntry, prices: PriceBook, rates: Mapping[str, Rates], dial: Dial
) -> Told | None:
    detail = row.detail
    logged: Mapping[str, Any] | None = detail.get("decision")
    hit = row.cache in ("exact", "semantic", "coalesced") and logged is None
    if row.rule == PINNED or row.key_id == SHADOW_KEY or "features" not in detail or (logged is None and not hit):
        return None
    was = "cache" if logged is None else _first(logged)
    same = Told(
        request_id=row.request_id,
        ts_ms=row.ts_ms,
        team=row.team,
        key_id=row.key_id,
        was=was,
        now=was,
        rule_was=row.rule,
        rule_now=row.rule,
        cost_was_nano=row.cost_nano,
        cost_nano=row.cost_nano,
    )
    if hit and _still_hits(policy, row):
        return same
    try:
        decision = decide_again(policy, row, dial)
    except GatewayError:
        return msgspec.structs.replace(same, now="", rule_now="", cost_nano=0, hit_lost=hit)
    now, quality = decision.targets[0], dict(decision.quality)
    if now == was:
        return msgspec.structs.replace(same, rule_now=decision.rule)
    return msgspec.structs.replace(
        same,
        now=now,
        rule_now=decision.rule,
        cost_nano=cost_of(now, row, prices, rates) if row.status in _SERVED else 0,
        quality=quality[now] - quality[was] if now in quality and was in quality else None,
        hit_lost=hit,
    )


def decide_again(policy: CompiledPolicy, row: LedgerEntry, dial: Dial = UNMEASURED) -> Decision:
    """The decision of a logged request under a policy.

    Raises:
        GatewayError: it would be refused.
    """
    detail = row.detail
    logged: Mapping[str, Any] = detail.get("decision") or {}
    features, moved = _asked(policy, row, logged, dial)
    away = {one["model"]: one["reason"] for one in logged.get("rejected", ()) if not _OF_POLICY.match(one["reason"])}
    decision = policy.decide(
        features,
        msgspec.structs.replace(moved, quality=_pairs(logged.get("quality"))),
        unavailable=away.get,
        local_only=policy.gate(features).local_only,
        situation=_situation(policy, row, features),
    )
    if logged.get("degraded") != "budget":
        return decision
    kept = {*logged.get("targets", ())}
    return policy.for_budget(decision, kept.__contains__) or decision


def _situation(policy: CompiledPolicy, row: LedgerEntry, features: Features) -> Situation:
    live = {name: msgspec.convert(value, Live) for name, value in (row.detail.get("live") or {}).items()}
    return priced(
        policy.prices,
        policy.models.get,
        features,
        row.ts_ms,
        row.detail.get("warm") or {},
        budget_left=row.detail.get("budget_left", 1.0),
        live=lambda name: live.get(name, _UNKNOWN),
        identities=identities(row.request_id, row.session, row.end_user, row.key_id),
    )


def _asked(policy: CompiledPolicy, row: LedgerEntry, logged: Mapping[str, Any], dial: Dial) -> tuple[Features, Score]:
    """Where the client named no position of the dial, it is the policy's."""
    features, difficulty = _features(row.detail["features"]), logged.get("difficulty") or row.difficulty or 0.0
    scorer, wanted = logged.get("scorer") or "rules", policy.policy.cost_quality
    if "quality" in row.detail or features.quality == wanted:
        return features, Score(difficulty=difficulty, scorer=scorer)
    neutral = without(difficulty, logged.get("contributions") or (), DIALLED)
    moved = slid(Score(difficulty=neutral, scorer=scorer), dial, wanted)
    return msgspec.structs.replace(features, quality=wanted), moved


def _features(logged: Mapping[str, Any]) -> Features:
    known = {name: value for name, value in logged.items() if name in Features.__struct_fields__}
    return msgspec.convert({**_ABSENT, **known}, Features)


def _pairs(value: Any) -> tuple[tuple[str, float], ...]:
    return tuple((name, float(p)) for name, p in value or ())


def _first(logged: Mapping[str, Any]) -> str:
    return str((logged.get("targets") or [""])[0])


def _still_hits(policy: CompiledPolicy, row: LedgerEntry) -> bool:
    cache = policy.policy.cache
    return cache.semantic if row.cache == "semantic" else cache.exact


def cost_of(name: str, row: LedgerEntry, prices: PriceBook, rates: Mapping[str, Rates]) -> int | None:
    """Nano-dollars of the row's tokens at another target; of the prompt it has cached what was warm there."""
    if prices.price(name, row.ts_ms) is None:
        return None
    tokens, rate = row.prompt_tokens + row.completion_tokens, rates.get(name, Rates())
    busy_s = rate.busy_us / 1e6 * tokens / rate.tokens if rate.tokens else tokens / 200
    cached = min((row.detail.get("warm") or {}).get(name, 0), row.prompt_tokens)
    usage = Usage(
        prompt_tokens=row.prompt_tokens,
        completion_tokens=row.completion_tokens,
        cached_tokens=cached,
        busy_s=busy_s,
    )
    return prices.cost_nano(name, usage, row.ts_ms)
