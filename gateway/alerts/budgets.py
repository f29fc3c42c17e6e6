"""What budgets hold, for their thresholds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from gateway.alerts.rules import BudgetState

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from gateway.redis_io import Keys


async def of_keys(redis: Redis, keys: Keys, records: Iterable[Mapping[str, Any]]) -> list[BudgetState]:
    """The budgets of API keys, from their definitions and Redis' counters."""
    wanted = [record for record in records if record["budget_nano"] is not None and record["revoked_ms"] is None]
    pipe = redis.pipeline(transaction=False)
    for record in wanted:
        pipe.hget(keys.budget(record["id"]), "spent")
    spent = await pipe.execute() if wanted else []
    return [
        BudgetState(id=record["id"], name=record["name"], limit_nano=record["budget_nano"], spent_nano=int(nano or 0))
        for record, nano in zip(wanted, spent, strict=True)
    ]
