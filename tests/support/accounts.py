"""Requests as budgets see them, without a gateway around: for tests of limits and reservations."""

from __future__ import annotations

from typing import Any

import msgspec
from redis.asyncio import Redis

from gateway.budget.accounts import open_accounts
from gateway.budget.levels import Account, Levels, own
from gateway.budget.limits import Hold, Intent
from gateway.budget.reservations import CacheWrite, Settlement, charged_to
from gateway.redis_io import Keys, RedisLink
from gateway.types import LedgerEntry, Principal
from tests.support.ledger import NOON, entry

KEYS = Keys()


def principal(**changes: Any) -> Principal:
    return Principal(**({"key_id": "k1"} | changes))


def intent(**changes: Any) -> Intent:
    fields: dict[str, Any] = {"worker": "w1", "key_id": "k1", "ts_ms": NOON}
    return Intent(**(fields | changes))


def charged(levels: Levels) -> tuple[tuple[str, str, str], ...]:
    """The accounts of a request, as its intent and its settlement name them."""
    return charged_to(*levels.accounts)


def held(amount: int, *accounts: Account) -> Hold:
    """The same amount of each account."""
    return Hold(amount, tuple((account, amount) for account in accounts))


def settlement(
    request_id: str, cost: int = 0, levels: Levels | None = None, *, store: CacheWrite | None = None, **changes: Any
) -> Settlement:
    """Of an admitted request of a key with a budget and a token limit, unless ``levels`` say otherwise."""
    on = levels or own(principal(budget_nano=1, tpm=1))
    rates = tuple((rate.name, rate.tpm > 0) for rate in on.rates)
    about: dict[str, Any] = {"intent": True, "charges": charged(on), "rates": rates} | changes
    return Settlement(entry=entry(request_id, cost_nano=cost), store=store, **about)


async def opened(link: RedisLink, levels: Levels, **ceilings: int) -> Levels:
    """``levels`` with every account open; ``ceilings`` are limits by budget, nano-dollars."""
    for budget_id, limit in ceilings.items():
        await link.call("HSET", KEYS.ceilings, budget_id, str(limit))
    assert await open_accounts(link, KEYS, levels.accounts, NOON)
    return levels


async def key_with(link: RedisLink, budget_nano: int, **limits: Any) -> Levels:
    """A key with a budget of its own, opened."""
    return await opened(link, own(principal(budget_nano=budget_nano, **limits)), k1=budget_nano)


async def budget(redis: Redis, account: str = "k1") -> dict[str, int]:
    """The amounts of an account, nano-dollars; {} where it is not open."""
    held: Any = await redis.hgetall(KEYS.budget(account))
    return {name: int(held[name.encode()]) for name in ("left", "reserved", "spent", "limit") if held}


async def ledger(redis: Redis) -> list[LedgerEntry]:
    """The rows on their way to SQL."""
    messages: Any = await redis.xrange(KEYS.ledger)
    return [msgspec.json.decode(fields[b"e"], type=LedgerEntry) for _, fields in messages]
