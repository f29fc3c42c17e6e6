"""The ledger row that a request ends as."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import msgspec

from gateway.helped import nano_of
from gateway.types import CacheHit, LedgerEntry, Where

if TYPE_CHECKING:
    from gateway.billing import Bill
    from gateway.budget.limits import Admission
    from gateway.visit import Visit

_PRICED_APART = (
    *("cache_write_1h_tokens", "audio_input_tokens", "image_input_tokens", "audio_output_tokens"),
    *("image_output_tokens", "tier"),
)


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
