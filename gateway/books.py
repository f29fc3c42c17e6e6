"""The three Redis trips of a request, and the way on when Redis is away: admit, reserve, settle."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

import msgspec

from gateway.budget import limits, reservations
from gateway.budget.limits import Admission, Intent
from gateway.budget.reservations import CacheWrite, Settlement
from gateway.errors import BudgetExhausted, Overloaded, RateLimited, RedisAway
from gateway.types import NANO

if TYPE_CHECKING:
    from gateway.budget.spool import Spool
    from gateway.metrics import Metrics
    from gateway.redis_io import Keys, RedisLink
    from gateway.types import LedgerEntry, Price, Principal
    from gateway.visit import Visit

_log = logging.getLogger(__name__)
_LIMIT_NAMES = {"rpm": "requests per minute", "tpm": "tokens per minute", "concurrency": "concurrent requests"}


class Reservation(msgspec.Struct, frozen=True):
    """What to hold of a budget, in nano-dollars, for which target at which price (None: unpriced)."""

    amount_nano: int
    price_of: tuple[str, Price | None]


class Books:
    """Admission, reservation and settlement of this worker's requests. What must finish runs as a tracked task."""

    def __init__(self, link: RedisLink, keys: Keys, spool: Spool, metrics: Metrics, worker: str) -> None:
        self.link, self.keys, self.spool, self.metrics, self.worker = link, keys, spool, metrics, worker
        self._tasks: set[asyncio.Task[None]] = set()

    async def admit(self, visit: Visit, *, look_up: bool, reserve: Reservation | None = None) -> Admission:
        """Trip 1; with ``reserve``, trip 2 in the same call.

        Raises:
            RateLimited: RPM, TPM or concurrency.
            Overloaded: Redis is away and the policy denies what cannot be checked.
        """
        context = visit.context if look_up else None
        try:
            admission = await limits.admit(
                self.link,
                self.keys,
                visit.principal,
                visit.request.id,
                self._intent(visit, reserve.price_of if reserve else None),
                tokens=visit.features.prompt_tokens,
                exact=context.exact if context else None,
                normal=context.normal if context else None,
                reserve_nano=reserve.amount_nano if reserve else None,
            )
        except RedisAway:
            return self._unchecked(visit)
        if admission.refused:
            what = _LIMIT_NAMES[admission.refused]
            error = RateLimited(
                f"the limit of {what} of this key is reached; try again in {admission.retry_after:.1f} s",
                code=f"{admission.refused}_limit_exceeded",
                retry_after=admission.retry_after,
            )
            error.headers = ratelimit_headers(visit.principal, admission)
            raise error
        if reserve and admission.reserved:
            visit.reserved_nano = reserve.amount_nano
        return admission

    def _unchecked(self, visit: Visit) -> Admission:
        self.metrics.redis_away()
        rule = visit.policy.policy.on_redis_down
        if rule == "deny" or (rule is None and visit.principal.budget_nano is not None):
            message = "budgets and limits cannot be checked at the moment"
            raise Overloaded(message, code="limits_unavailable", retry_after=1.0)
        return Admission(known=False)

    async def reserve(self, visit: Visit, wanted: Reservation) -> bool:
        """Trip 2: take ``wanted`` (more) for this request. False: the budget has not enough left."""
        intent = self._intent(visit, wanted.price_of)
        total = visit.reserved_nano + wanted.amount_nano
        try:
            granted = await reservations.reserve(
                *(self.link, self.keys, visit.principal, visit.request.id, intent),
                add_nano=wanted.amount_nano,
                total_nano=total,
            )
        except RedisAway:
            self._unchecked(visit)
            granted = True
        if granted:
            visit.reserved_nano = total
        return granted

    def _intent(self, visit: Visit, target: tuple[str, Price | None] | None) -> Intent:
        model, price = target or ("", None)
        return Intent(
            worker=self.worker,
            key_id=visit.principal.key_id,
            team=visit.principal.team,
            ts_ms=visit.ts_ms,
            policy=visit.policy.label,
            rule=visit.decision.rule if visit.decision else "",
            requested=visit.request.model,
            model=model,
            price_source=price.source if price else "",
            price_date=price.date if price else "",
        )

    async def settle(self, visit: Visit, entry: LedgerEntry, store: CacheWrite | None) -> None:
        """Trip 3, or the spool on disk where Redis is away. Never raises."""
        admission = visit.admission
        settlement = Settlement(
            entry=entry,
            budgeted=visit.principal.budget_nano is not None,
            intent=admission is not None and admission.known,
            tokens=entry.completion_tokens if visit.principal.tpm else 0,
            store=store,
        )
        try:
            await reservations.settle(self.link, self.keys, settlement)
        except RedisAway:
            self.metrics.redis_away()
            # The answer itself is not put on disk for the cache's sake.
            await self.spool.append(msgspec.structs.replace(settlement, store=None))

    async def replay_spool(self) -> int:
        """Settle what was spooled while Redis was away. Raises RedisAway."""
        return await self.spool.replay(lambda one: reservations.settle(self.link, self.keys, one))

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run to its end whatever becomes of the request it belongs to."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a settlement failed", exc_info=error)

    async def drain(self) -> None:
        """Wait for everything spawned."""
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)


def exhausted(visit: Visit) -> BudgetExhausted:
    """The 402 of a key whose budget is used up."""
    budget = visit.principal.budget_nano or 0
    return BudgetExhausted(f"the budget of key '{visit.principal.name}' (${budget / NANO:.2f}) is exhausted")


def ratelimit_headers(principal: Principal, admission: Admission) -> list[tuple[str, str]]:
    """OpenAI's ``x-ratelimit-*`` for the limits this key has."""
    headers: list[tuple[str, str]] = []
    for name, limit, left, reset in (
        ("requests", principal.rpm, admission.requests_left, admission.requests_reset),
        ("tokens", principal.tpm, admission.tokens_left, admission.tokens_reset),
    ):
        if limit is not None and left is not None:
            headers += [
                (f"x-ratelimit-limit-{name}", str(limit)),
                (f"x-ratelimit-remaining-{name}", str(left)),
                (f"x-ratelimit-reset-{name}", f"{reset:.3f}s"),
            ]
    return headers
