"""What becomes of a finished answer in the cache."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from gateway.budget.reservations import CacheWrite
from gateway.cache import exact, replay
from gateway.types import CacheEntry

if TYPE_CHECKING:
    from gateway.types import LedgerEntry
    from gateway.visit import Visit


def cache_write(visit: Visit, entry: LedgerEntry) -> CacheWrite | None:
    """What settling stores: a complete, clean answer of reported usage; else None."""
    context, whole = visit.context, visit.status in ("ok", "cancelled") and visit.complete
    if not visit.store or not whole or context is None or visit.usage is None:
        return None
    body = replay.fold(visit.kept, visit.usage) if visit.request.stream else visit.kept[0]
    if body is None or not replay.replayable(body):
        return None
    stored = CacheEntry(
        id=context.exact,
        body=body,
        model=visit.model,
        usage=visit.usage,
        created_ms=visit.ts_ms,
        prompt=context.question,
        cost_nano=entry.cost_nano,
    )
    value = exact.encode(stored)
    if value is None:
        return None
    ttl_ms = max(1, int((visit.request.options.cache_ttl_s or visit.policy.policy.cache.ttl_s) * 1000))
    return CacheWrite(
        digest=context.exact,
        normal=context.normal,
        partition=context.partition,
        value=value,
        ttl_ms=ttl_ms,
        expires_ms=int(time.time() * 1000) + ttl_ms,
    )
