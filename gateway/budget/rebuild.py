"""Counters of budgets from the ledger: after Redis has lost them, and once a term in case it lost the last of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from gateway.budget import windows
from gateway.budget.accounts import catch_up
from gateway.budget.definitions import EACH, Budget
from gateway.budget.levels import account_of

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from gateway.redis_io import Keys

SpentOf = Callable[[Budget, int, int | None], Awaitable[Mapping[str, Mapping[int, int]]]]
"""Nano-dollars that rows since a time (epoch milliseconds) cost a budget's subjects, by steps of so many milliseconds
since 1970; all in step 0 where that is None."""


async def rebuild(
    redis: Redis, keys: Keys, budgets: Iterable[Budget], spent_of: SpentOf, now_ms: int, *, lost_only: bool
) -> int:
    """Open the accounts of the present windows with what the ledger knows to be spent; returns how many budgets.

    A budget is made known to admission (``Keys.ceilings``) once its counters are right. ``lost_only``: those that Redis
    knows are left alone; else they are checked too, which is safe while in use, since the ledger only lags.
    """
    known: Any = set(await redis.hkeys(keys.ceilings))
    count = 0
    for budget in budgets:
        if budget.limit_nano is None or (lost_only and budget.id.encode() in known):
            continue
        await _rebuild(redis, keys, budget, budget.limit_nano, spent_of, now_ms)
        count += 1
    return count


async def _rebuild(redis: Redis, keys: Keys, budget: Budget, limit_nano: int, spent_of: SpentOf, now_ms: int) -> None:
    since = account_of(budget, budget.subject, now_ms).since_ms
    rolling = windows.rolling_ms(budget.window)
    width = windows.slice_ms(rolling) if rolling else None
    spent = await spent_of(budget, max(since, budget.created_ms), width)
    for subject in spent if budget.subject == EACH else (budget.subject,):
        steps = spent.get(subject, {})
        by_slice = {str(step): nano for step, nano in steps.items()} if rolling else {"": sum(steps.values())}
        await catch_up(redis, keys, account_of(budget, subject, now_ms), limit_nano, by_slice, now_ms)
    await redis.hsetnx(keys.ceilings, budget.id, str(limit_nano))
