"""What becomes of a finished answer in the cache."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from gateway.budget.reservations import CacheWrite
from gateway.cache import exact, replay, staleness
from gateway.cache.eviction import worth
from gateway.cache.storable import storable
from gateway.types import CacheEntry

if TYPE_CHECKING:
    from gateway.types import LedgerEntry
    from gateway.visit import Visit

_BUDGET = "budget"


def cache_write(visit: Visit, entry: LedgerEntry) -> CacheWrite | None:
    """What settling stores: a complete, clean answer of reported usage; else None.

    What a spent budget left to a lesser model is no answer for the time after.
    """
    context, whole = visit.context, visit.status in ("ok", "cancelled") and visit.complete
    if not visit.store or not whole or context is None or visit.usage is None or visit.degraded == _BUDGET:
        return None
    body = replay.fold(visit.kept, visit.usage) if visit.request.stream else visit.kept[0]
    if body is None or not storable(body):
        return None
    stored = CacheEntry(
        id=context.exact,
        body=body,
        model=visit.model,
        usage=visit.usage,
        created_ms=visit.ts_ms,
        prompt=context.question,
        cost_nano=entry.cost_nano,
        key_id=entry.key_id,
        tags=entry.tags,
    )
    value = exact.encode(stored)
    if value is None:
        return None
    now_ms, ttl_ms = int(time.time() * 1000), max(1, int(_lifetime_s(visit) * 1000))
    return CacheWrite(
        digest=context.exact,
        normal=context.normal,
        partition=context.partition,
        value=value,
        ttl_ms=ttl_ms,
        expires_ms=now_ms + ttl_ms,
        worth=worth(max(entry.cost_nano, entry.baseline_nano), len(value), now_ms),
    )


def _lifetime_s(visit: Visit) -> float:
    """What the client says holds as it is; the policy's time, less where the question is about now."""
    asked = visit.request.options.cache_ttl_s
    return asked or staleness.lifetime_s(visit.features.last_user_text, visit.policy.policy.cache.ttl_s)
