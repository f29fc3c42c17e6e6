"""Definitions of budgets: made and changed here, mirrored in Redis, kept for good in SQL through the ledger stream."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import msgspec

from gateway.budget.accounts import amounts, opened, set_limit
from gateway.budget.definitions import EACH, Budget, nano
from gateway.budget.levels import FIELD, account_of
from gateway.errors import InvalidRequest, NotFound
from gateway.redis_io import Keys

if TYPE_CHECKING:
    from redis.asyncio import Redis

State = dict[str, Any]


class BudgetStore:
    """What ``/admin/budgets`` and ``gateway keys budgets`` do."""

    def __init__(self, redis: Redis, keys: Keys | None = None) -> None:
        self._redis, self._keys = redis, keys or Keys()

    async def create(self, /, **given: Any) -> dict[str, Any]:
        """A new budget, counted from now on. ``limit_usd`` is in dollars; the rest as :class:`Budget` has it.

        Raises:
            InvalidRequest: naming the field.
        """
        made = _read(given | {"id": f"bud_{secrets.token_hex(8)}", "created_ms": int(time.time() * 1000)})
        await self.put(made)
        return made.public()

    async def update(self, budget_id: str, /, **changes: Any) -> dict[str, Any]:
        """Change what may be spent, told or asked. Whom and what time it is for stays: make another one for that.

        Raises:
            NotFound, InvalidRequest
        """
        old = await self._find(budget_id)
        fixed = {"scope", "subject", "organisation", "window", "time_zone", "id", "created_ms"} & changes.keys()
        if fixed:
            raise InvalidRequest(f"{min(fixed)} cannot be changed: make a new budget", param=min(fixed))
        known = old.public()
        changed = _read(
            {name: value for name, value in (known | changes).items() if value is not None or name in changes}
        )
        if (changed.limit_nano is None) != (old.limit_nano is None):
            raise InvalidRequest("limit_usd can be changed, not added or taken away", param="limit_usd")
        await self.put(changed)
        return changed.public()

    async def delete(self, budget_id: str) -> dict[str, Any]:
        """Limit nothing by it from now on. Raises NotFound."""
        old = await self._find(budget_id)
        pipe = self._redis.pipeline(transaction=True)
        pipe.hset(self._keys.definitions, f"{FIELD}{budget_id}", b"")  # else the mirror could bring it back
        pipe.hdel(self._keys.ceilings, budget_id)
        self._tell(pipe, budget_id, b"")
        await pipe.execute()
        return old.public()

    async def list(self) -> list[Budget]:
        """Every budget but those written on keys, oldest first."""
        held: Any = await self._redis.hgetall(self._keys.definitions)
        values = [value for name, value in held.items() if value and name.startswith(FIELD.encode())]
        found = [msgspec.json.decode(value, type=Budget) for value in values]
        return sorted(found, key=lambda one: (one.created_ms, one.id))

    async def put(self, budget: Budget) -> None:
        """Write a definition as it is: on every worker within a second. Raises InvalidRequest."""
        budget.check()
        value = msgspec.json.encode(budget)
        pipe = self._redis.pipeline(transaction=True)
        pipe.hset(self._keys.definitions, f"{FIELD}{budget.id}", value)
        if budget.limit_nano is not None:
            pipe.hset(self._keys.ceilings, budget.id, str(budget.limit_nano))
        self._tell(pipe, budget.id, value)
        await pipe.execute()
        if budget.limit_nano is not None:
            await set_limit(self._redis, self._keys, budget.id, budget.limit_nano)

    def _tell(self, pipe: Any, budget_id: str, value: bytes) -> None:
        pipe.xadd(self._keys.ledger, {"d": value, "field": f"{FIELD}{budget_id}"})
        pipe.xadd(self._keys.events, {"definitions": budget_id}, maxlen=10_000, approximate=True)

    async def _find(self, budget_id: str) -> Budget:
        value: Any = await self._redis.hget(self._keys.definitions, f"{FIELD}{budget_id}")
        if not value:
            raise NotFound(f"no budget with id '{budget_id}'")
        return msgspec.json.decode(value, type=Budget)


def _read(given: dict[str, Any]) -> Budget:
    fields = dict(given)
    usd = fields.pop("limit_usd", None)
    if usd is not None:
        if isinstance(usd, bool) or not isinstance(usd, int | float):
            raise InvalidRequest("limit_usd must be a number", param="limit_usd")
        fields["limit_nano"] = nano(usd, "limit_usd")
    try:
        budget = msgspec.convert(fields, Budget)
    except msgspec.ValidationError as error:
        raise InvalidRequest(str(error)) from None
    budget.check()
    return budget


async def states(redis: Redis, keys: Keys, budgets: Iterable[Budget], now_ms: int, limit: int = 1000) -> list[State]:
    """What budgets hold in their present windows, one row for each subject that has used one, at most ``limit``.

    ``{id, name, scope, subject, hard, window, limit_nano, spent_nano, reserved_nano, left_nano, since_ms, until_ms}``.
    """
    subjects: dict[str, set[str]] = {}
    for _, about in await opened(redis, keys):
        subjects.setdefault(about.budget, set()).add(about.subject)
    wanted = [
        (budget, subject)
        for budget in budgets
        if budget.limit_nano is not None
        for subject in sorted({budget.subject} if budget.subject != EACH else subjects.get(budget.id, ()))
    ]
    return [await _state(redis, keys, budget, subject, now_ms) for budget, subject in wanted[:limit]]


async def _state(redis: Redis, keys: Keys, budget: Budget, subject: str, now_ms: int) -> State:
    account, ceiling = account_of(budget, subject, now_ms), budget.limit_nano or 0
    held = await amounts(redis, keys, account) or {"left": ceiling, "reserved": 0, "spent": 0, "limit": ceiling}
    return {
        "id": budget.id,
        "name": budget.name or f"{budget.scope} {subject}",
        "scope": budget.scope,
        "subject": subject,
        "hard": budget.hard,
        "window": "" if budget.window == "total" else budget.window,
        **{f"{name}_nano": held[name] for name in ("limit", "spent", "reserved", "left")},
        "since_ms": account.since_ms,
        "until_ms": account.until_ms,
    }
