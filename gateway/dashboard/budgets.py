"""What budgets hold at the moment, read from Redis by the worker that is asked."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import msgspec

from gateway.budget import windows
from gateway.budget.accounts import Opened, amounts_of, opened
from gateway.budget.definitions import EACH, Budget
from gateway.budget.levels import FIELD, Account, of_key
from gateway.types import NANO

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from gateway.redis_io import Keys

SHOWN_MAX = 200
_MILD, _USED_UP = 0.8, 1.0
_DIMENSIONS = {"key": "key_id", "user": "end_user"}
_WINDOWS = {windows.TOTAL: "in all", "hour": "this hour", "day": "today", "week": "this week", "month": "this month"}


async def held(redis: Redis, keys: Keys, records: Iterable[Mapping[str, Any]], key_id: str) -> list[dict[str, Any]]:
    """Every budget on money with what it holds, the most used first; with ``key_id`` those of that key only.

    ``records``: the definitions of keys, which may have a budget written on them.

    Raises:
        RedisError, OSError: Redis is away.
    """
    fields: Any = await redis.hgetall(keys.definitions)
    budgets = [
        msgspec.json.decode(value, type=Budget) for name, value in fields.items() if name.startswith(FIELD.encode())
    ]
    budgets += [
        _written_on(record) for record in records if record["budget_usd"] is not None and not record["revoked_ms"]
    ]
    now = int(time.time() * 1000)
    accounts = _by_budget(await opened(redis, keys), now)
    shown = [
        (budget, name, about)
        for budget in budgets
        if budget.limit_nano is not None
        for name, about in accounts.get(budget.id) or [_unopened(budget, now)]
        if about.subject != EACH and (not key_id or (budget.scope == "key" and about.subject == key_id))
    ][:SHOWN_MAX]
    held = await amounts_of(redis, keys, [_account(budget, name, about, now) for budget, name, about in shown])
    rows = [_row(budget, about, each) for (budget, _, about), each in zip(shown, held, strict=True)]
    return sorted(rows, key=lambda row: -row["used"])


def _written_on(record: Mapping[str, Any]) -> Budget:
    limit = int(Decimal(str(record["budget_usd"])) * NANO)
    return of_key(record["id"], record["name"], record["organisation"], limit)


def _by_budget(accounts: Iterable[tuple[str, Opened]], now_ms: int) -> dict[str, list[tuple[str, Opened]]]:
    """The accounts of windows that have not ended."""
    found: dict[str, list[tuple[str, Opened]]] = {}
    for name, about in accounts:
        if about.until_ms is None or about.until_ms > now_ms:
            found.setdefault(about.budget, []).append((name, about))
    return found


def _unopened(budget: Budget, now_ms: int) -> tuple[str, Opened]:
    """Of a budget that nobody has used in this window: all of it is left."""
    span = windows.Span(0, None)
    if budget.window in windows.CALENDAR:
        span = windows.calendar(budget.window, budget.time_zone, now_ms)
    return budget.id, Opened(budget=budget.id, subject=budget.subject, since_ms=span.since_ms, until_ms=span.until_ms)


def _account(budget: Budget, name: str, about: Opened, now_ms: int) -> Account:
    rolling = windows.rolling_ms(budget.window)
    slice_ = str(now_ms // windows.slice_ms(rolling)) if rolling else ""
    since, until = about.since_ms, about.until_ms
    return Account(name, budget.id, about.subject, budget.label, budget.hard, since, until, slice=slice_)


def _row(budget: Budget, about: Opened, amount: Mapping[str, int]) -> dict[str, Any]:
    limit = budget.limit_nano or 0
    spent, reserved = amount.get("spent", 0), amount.get("reserved", 0)
    used = spent / limit if limit else _USED_UP
    name = budget.name or f"{budget.scope} {budget.subject}"
    return {
        "id": f"{budget.id} {about.subject}",
        "name": name if budget.subject != EACH else f"{name}: {about.subject}",
        "scope": budget.scope,
        "kind": "hard" if budget.hard else "soft",
        "window": _WINDOWS.get(budget.window, f"last {budget.window}"),
        "limit_nano": limit,
        "spent_nano": spent,
        "reserved_nano": reserved,
        "left_nano": limit - spent - reserved,
        "used": used,
        "held": reserved / limit if limit else 0.0,
        "tone": "bad" if used >= _USED_UP else "mild" if used >= _MILD else "",
        "remark": "exhausted" if used >= _USED_UP else "",
        "since_ms": about.since_ms or None,
        "until_ms": about.until_ms,
        "where": {_DIMENSIONS.get(budget.scope, budget.scope): (about.subject,)},
    }
