"""The dashboard's numbers as JSON, read from the rollups at most once a second however many pages are open."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from gateway.ledger.reports import dollars, encode, period
from gateway.protocols import LedgerStore
from gateway.types import LedgerEntry

PERIODS = ("today", "7d", "30d")
RECENT = 50
_FRESH_S = 1.0
_SHOWN = (
    *("request_id", "ts_ms", "key_id", "tags", "requested_model", "model", "rule", "policy", "served", "cache"),
    *("stream", "status", "http_status", "error", "prompt_tokens", "completion_tokens", "usage_source"),
    *("cost_nano", "saved_nano", "unpriced", "ttft_ms", "duration_ms", "degraded"),
)


class Feed:
    """What ``/dashboard/data.json`` answers, kept for a second."""

    def __init__(self, read_store: Callable[[], Awaitable[LedgerStore]]) -> None:
        self._read_store = read_store
        self._reading = asyncio.Lock()
        self._kept: dict[str, tuple[float, bytes]] = {}

    async def json(self, name: str) -> bytes:
        """The body for one of ``PERIODS``. Raises :class:`gateway.ledger.errors.LedgerAway`."""
        async with self._reading:
            at, body = self._kept.get(name, (0.0, b""))
            if not body or time.monotonic() - at > _FRESH_S:
                body = await self._read(name)
                self._kept[name] = (time.monotonic(), body)
            return body

    async def _read(self, name: str) -> bytes:
        store = await self._read_store()
        now_ms = int(time.time() * 1000)
        summary = await store.summary(*period(name, now_ms))
        recent = [_shown(entry) for entry in await store.recent(RECENT)]
        return encode({"at_ms": now_ms, "period": name, **dollars(summary), "recent": dollars(recent)})


def _shown(entry: LedgerEntry) -> dict[str, Any]:
    row = msgspec.structs.asdict(entry)
    return {name: row[name] for name in _SHOWN}
