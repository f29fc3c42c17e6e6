"""What budgets hold, for their thresholds: those of the tree, and those written on keys."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from gateway.alerts.rules import BudgetState
from gateway.budget import windows
from gateway.budget.accounts import Opened, amounts, opened
from gateway.budget.definitions import EACH, Budget
from gateway.budget.levels import FIELD, Account

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from gateway.redis_io import Keys


async def states(redis: Redis, keys: Keys, records: Iterable[Mapping[str, Any]], now_ms: int) -> list[BudgetState]:
    """Every account that has been opened and whose window goes on. ``records``: the definitions of keys."""
    budgets = await _defined(redis, keys)
    written = {record["id"]: record for record in records if record["budget_nano"] and not record["revoked_ms"]}
    found = []
    for name, about in await opened(redis, keys):
        if about.until_ms is not None and about.until_ms <= now_ms:
            continue
        budget = budgets.get(about.budget)
        held = await amounts(redis, keys, _account(budget, name, about, now_ms))
        if held and budget is not None:
            found.append(_state(budget, name, about, held))
        elif held and about.budget in written:
            label = str(written[about.budget]["name"])
            found.append(BudgetState(id=name, name=label, limit_nano=held["limit"], spent_nano=held["spent"]))
    return found


async def _defined(redis: Redis, keys: Keys) -> dict[str, Budget]:
    fields: Any = await redis.hgetall(keys.definitions)
    prefix = FIELD.encode()
    budgets = [msgspec.json.decode(value, type=Budget) for name, value in fields.items() if name.startswith(prefix)]
    return {budget.id: budget for budget in budgets}


def _account(budget: Budget | None, name: str, about: Opened, now_ms: int) -> Account:
    """The account, and the step its rolling window is in."""
    rolling = windows.rolling_ms(budget.window) if budget else None
    slice_ = str(now_ms // windows.slice_ms(rolling)) if rolling else ""
    return Account(name, about.budget, about.subject, "", True, about.since_ms, about.until_ms, slice=slice_)


def _state(budget: Budget, name: str, about: Opened, held: Mapping[str, int]) -> BudgetState:
    label = budget.name or f"of {budget.scope} {budget.subject}"
    until = about.until_ms
    return BudgetState(
        id=name,
        name=label if budget.subject != EACH else f"{label}: {about.subject}",
        limit_nano=held["limit"],
        spent_nano=held["spent"],
        alert_at=budget.alert_at,
        resets="" if until is None else f"on {datetime.fromtimestamp(until / 1000, UTC):%Y-%m-%d %H:%M} UTC",
    )
