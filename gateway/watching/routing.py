"""Keeps the hours of routing in Redis, counted from the books by the background process, and reports from them.

An hour is counted while it runs, once it is over, and again a day later for the ratings that came after.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import msgspec

from gateway.ledger.answers import Period
from gateway.types import HOUR_MS
from gateway.watching.drift import BEFORE_HOURS, LATELY_HOURS, Report, report
from gateway.watching.hours import Hour, counted

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from gateway.config import MonitoringConfig
    from gateway.ledger.store import SqlStore
    from gateway.redis_io import Keys
    from gateway.types import LedgerEntry

ROWS_MAX = 5000
"""Rows of an hour that are looked at, the first ones: enough for shares."""
KEPT_MS = (LATELY_HOURS + BEFORE_HOURS + 1) * HOUR_MS
_MISSED_MAX = 12
_BATCH = 500


async def keep(redis: Redis, keys: Keys, store: SqlStore, config: MonitoringConfig, now_ms: int) -> Report:
    """Count what is due, and make the report that :func:`latest` reads.

    Raises:
        LedgerAway, redis.RedisError: try again later.
    """
    this = now_ms - now_ms % HOUR_MS
    known = await _hours(redis, keys)
    missed = [start for start in range(this - KEPT_MS + HOUR_MS, this, HOUR_MS) if start not in known]
    due = {this, this - HOUR_MS, this - LATELY_HOURS * HOUR_MS, *missed[-_MISSED_MAX:]}
    for start in sorted(due):
        known[start] = counted(start, await _rows(store, start))
        await redis.hset(_name(keys), str(start), msgspec.json.encode(known[start]))
    if old := [str(start) for start in known if start < this - KEPT_MS]:
        await redis.hdel(_name(keys), *old)
    found = report(known.values(), now_ms, config)
    await redis.set(f"{_name(keys)}:report", msgspec.json.encode(found))
    return found


async def _rows(store: SqlStore, start_ms: int) -> list[LedgerEntry]:
    rows: list[LedgerEntry] = []
    async for some in store.scan(Period(start_ms, start_ms + HOUR_MS), batch=_BATCH):
        rows += some
        if len(rows) >= ROWS_MAX:
            break
    return rows


async def _hours(redis: Redis, keys: Keys) -> dict[int, Hour]:
    held: Any = await redis.hgetall(_name(keys))
    found = {}
    for start, value in held.items():
        with contextlib.suppress(msgspec.MsgspecError):  # another version's: counted again
            found[int(start)] = msgspec.json.decode(value, type=Hour)
    return found


async def latest(redis: Redis, keys: Keys) -> Report | None:
    """The last day beside the week before it, as it was counted last. Raises redis.RedisError."""
    value: Any = await redis.get(f"{_name(keys)}:report")
    with contextlib.suppress(msgspec.MsgspecError):  # another version's
        return msgspec.json.decode(value, type=Report) if value else None
    return None


def _name(keys: Keys) -> str:
    return f"{keys.prefix}routing"
