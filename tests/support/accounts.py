"""A key's requests as the budget sees them, without a gateway around: for tests of limits and reservations."""

from __future__ import annotations

from typing import Any

import msgspec
from redis.asyncio import Redis

from gateway.budget.limits import Intent
from gateway.budget.reservations import CacheWrite, Settlement
from gateway.redis_io import Keys
from gateway.types import LedgerEntry, Principal
from tests.support.ledger import NOON, entry

KEYS = Keys()


def principal(**changes: Any) -> Principal:
    return Principal(**({"key_id": "k1"} | changes))


def intent(**changes: Any) -> Intent:
    fields: dict[str, Any] = {"worker": "w1", "key_id": "k1", "ts_ms": NOON}
    return Intent(**(fields | changes))


def settlement(request_id: str, cost: int = 0, *, store: CacheWrite | None = None, **changes: Any) -> Settlement:
    """Of an admitted request of a key with a budget, unless ``changes`` say otherwise."""
    about = {"budgeted": True, "intent": True, "tokens": 0} | changes
    return Settlement(entry=entry(request_id, cost_nano=cost), store=store, **about)


async def budget(redis: Redis, key_id: str = "k1") -> dict[str, int]:
    """The amounts of a key's budget, nano-dollars; {} where it has none yet."""
    held: Any = await redis.hgetall(KEYS.budget(key_id))
    amounts = {name.decode(): int(value) for name, value in held.items()}
    amounts.pop("checked", None)
    return amounts


async def ledger(redis: Redis) -> list[LedgerEntry]:
    """The rows on their way to SQL."""
    messages: Any = await redis.xrange(KEYS.ledger)
    return [msgspec.json.decode(fields[b"e"], type=LedgerEntry) for _, fields in messages]
