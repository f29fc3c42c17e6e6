"""The three Redis trips of a request, and the way on when Redis is away: admit, reserve, settle."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from gateway import keeping
from gateway.budget import limits, reservations
from gateway.budget.accounts import open_accounts
from gateway.budget.levels import Account, Levels, Tree
from gateway.budget.limits import Admission, Hold, Intent, Limit
from gateway.budget.reservations import CacheWrite, Settlement, Short, charged_to
from gateway.errors import BudgetExhausted, Overloaded, RateLimited, RedisAway

if TYPE_CHECKING:
    from gateway.budget.spool import Spool
    from gateway.metrics import Metrics
    from gateway.redis_io import Keys, RedisLink
    from gateway.sealing import Seal
    from gateway.types import LedgerEntry, Price
    from gateway.visit import Visit

T = TypeVar("T")

SCRIPTS = (limits.LOOK_UP, limits.ADMIT, reservations.RESERVE, reservations.SETTLE, reservations.SETTLE_UNLIMITED)
"""What the trips run."""

_log = logging.getLogger(__name__)
_OPENED_MAX = 20_000
_LIMIT_NAMES = {"rpm": "requests per minute", "tpm": "tokens per minute", "concurrency": "concurrent requests"}


class Reservation(msgspec.Struct, frozen=True):
    """What to hold, in nano-dollars, for which target at which price (None: unpriced).

    ``models``: the worst case of each target that may be tried, for the budgets of models.
    """

    amount_nano: int
    price_of: tuple[str, Price | None]
    models: tuple[tuple[str, int], ...] = ()


class Books:
    """Admission, reservation and settlement of this worker's requests. What must finish runs as a tracked task."""

    def __init__(self, link: RedisLink, keys: Keys, spool: Spool, metrics: Metrics, worker: str) -> None:
        self.link, self.keys, self.spool, self.metrics, self.worker = link, keys, spool, metrics, worker
        self.tree = Tree()
        self.seal: Seal | None = None
        self._opened: dict[str, None] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def load_budgets(self) -> None:
        """Read the definitions of all budgets. Raises RedisAway."""
        pairs = await self.link.call("HGETALL", self.keys.definitions)
        self.tree.load(dict(zip(pairs[::2], pairs[1::2], strict=True)))

    async def admit(self, visit: Visit, *, look_up: bool, reserve: Reservation | None = None) -> Admission:
        """Trip 1; with ``reserve``, trip 2 in the same call. An account that is new to this worker is opened with it.

        Raises:
            RateLimited: RPM, TPM or concurrency.
            Overloaded: Redis is away and the policy denies what cannot be checked.
        """
        context = visit.context if look_up else None
        try:
            visit.levels = self._levels(visit)
            if not self.tree.loaded:
                await self.load_budgets()
                visit.levels = self._levels(visit)
            hold = self._hold(visit, reserve) if reserve else None
            admission = await self._opened_for(
                self._accounts(visit, hold),
                lambda: limits.admit(
                    self.link,
                    self.keys,
                    visit.levels,
                    visit.request.id,
                    self._intent(visit, reserve.price_of if reserve else None),
                    tokens=visit.features.prompt_tokens,
                    exact=context.exact if context else None,
                    normal=context.normal if context else None,
                    hold=hold,
                ),
                lambda admission: admission.refused == limits.MISSING,
            )
        except RedisAway:
            return self._unchecked(visit)
        if admission.refused:
            raise _limited(admission)
        if hold and admission.reserved:
            visit.hold, visit.reserved_nano = hold, hold.total_nano
        visit.short = _exhausted_by(admission)
        return admission

    def _levels(self, visit: Visit) -> Levels:
        """The tag of an experiment's arm is not its client's: no budget of tags is charged for it."""
        own = visit.trial.tag if visit.trial else None
        tags = visit.features.tags if own is None else tuple(tag for tag in visit.features.tags if tag != own)
        return self.tree.levels(visit.principal, visit.request.user, tags, visit.ts_ms)

    def _accounts(self, visit: Visit, hold: Hold | None) -> Iterable[Account]:
        return (*visit.levels.accounts, *(account for account, _ in hold.parts)) if hold else visit.levels.accounts

    def _hold(self, visit: Visit, wanted: Reservation) -> Hold:
        parts = [(account, wanted.amount_nano) for account in visit.levels.accounts if account.hard]
        for model, amount in wanted.models:
            of_model = self.tree.of_model(visit.principal.organisation, model, visit.ts_ms)
            parts += [(account, amount) for account in of_model if account.hard]
        return Hold(wanted.amount_nano, tuple(parts))

    async def _opened_for(
        self, accounts: Iterable[Account], call: Callable[[], Awaitable[T]], missing: Callable[[T], bool]
    ) -> T:
        """``call``, with the accounts that are new to this worker opened before, in the same round trip.

        Raises:
            RedisAway: also where Redis has lost an account, or does not know its budget (yet).
        """
        for _ in range(2):
            fresh = [account for account in accounts if account.name not in self._opened]
            if fresh:
                opening = open_accounts(self.link, self.keys, fresh, int(time.time() * 1000))
                known, reply = await asyncio.gather(opening, call())
                if known:
                    self._opened |= dict.fromkeys(account.name for account in fresh)
                while len(self._opened) > _OPENED_MAX:
                    del self._opened[next(iter(self._opened))]
            else:
                reply = await call()
            if not missing(reply):
                return reply
            for account in accounts:
                self._opened.pop(account.name, None)
        raise RedisAway("a budget's account is not there")

    def _unchecked(self, visit: Visit) -> Admission:
        self.metrics.redis_away()
        rule = visit.policy.policy.on_redis_down
        budgeted = visit.principal.budget_nano is not None or any(account.hard for account in visit.levels.accounts)
        if rule == "deny" or (rule is None and budgeted):
            message = "budgets and limits cannot be checked at the moment"
            raise Overloaded(message, code="limits_unavailable", retry_after=1.0)
        return Admission(known=False)

    async def reserve(self, visit: Visit, wanted: Reservation) -> bool:
        """Trip 2: take ``wanted`` (more) for this request. False: ``visit.short`` says which budget has too little."""
        add = self._hold(visit, wanted)
        total = visit.hold.more(add)
        try:
            visit.short = await self._opened_for(
                self._accounts(visit, add),
                lambda: reservations.reserve(
                    *(self.link, self.keys, visit.request.id, self._intent(visit, wanted.price_of)),
                    add=add,
                    total=total,
                ),
                lambda short: short is not None and short.account is None,
            )
        except RedisAway:
            self._unchecked(visit)
            visit.short = None
        if visit.short is None:
            visit.hold, visit.reserved_nano = total, total.total_nano
        return visit.short is None

    def fits(self, visit: Visit, wanted: Reservation) -> bool:
        """Whether what the accounts had left, when one was too short, is enough for this."""
        left = {account.name: nano for account, nano in visit.short.left} if visit.short else {}
        return all(amount <= left.get(account.name, amount) for account, amount in self._hold(visit, wanted).parts)

    def short_for_all(self, visit: Visit) -> bool:
        """Whether what is too short is a budget of the request, whichever model answers it."""
        return visit.short is None or visit.short.account in visit.levels.accounts

    def _intent(self, visit: Visit, target: tuple[str, Price | None] | None) -> Intent:
        model, price = target or ("", None)
        return Intent(
            worker=self.worker,
            organisation=visit.principal.organisation,
            key_id=visit.principal.key_id,
            team=visit.principal.team,
            project=visit.principal.project,
            end_user=visit.request.user,
            tags=visit.features.tags,
            ts_ms=visit.ts_ms,
            policy=visit.policy.label,
            rule=visit.decision.rule if visit.decision else "",
            requested=visit.request.model,
            model=model,
            price_source=price.source if price else "",
            price_date=price.date if price else "",
            charges=self._charges(visit, model),
            running=tuple(rate.name for rate in visit.levels.rates if rate.concurrency),
        )

    def _charges(self, visit: Visit, model: str) -> tuple[tuple[str, str, str], ...]:
        accounts = visit.levels.accounts
        if model:
            accounts += self.tree.of_model(visit.principal.organisation, model, visit.ts_ms)
        return charged_to(*accounts) if accounts else ()

    async def settle(self, visit: Visit, entry: LedgerEntry, store: CacheWrite | None) -> None:
        """Trip 3, or the spool on disk where Redis is away. Never raises."""
        admission = visit.admission
        settlement = Settlement(
            entry=entry,
            intent=admission is not None and admission.known,
            charges=self._charges(visit, "" if visit.given else visit.model),
            rates=tuple((rate.name, rate.tpm > 0) for rate in visit.levels.rates if rate.tpm or rate.concurrency),
            tokens=entry.completion_tokens,
            store=store,
            content=await keeping.kept(visit, entry, self.seal) if visit.contents.keeps else None,
        )
        await self._settle(settlement)

    async def enter(self, entry: LedgerEntry) -> None:
        """A row that no request stands behind; no budget is charged for it. Never raises."""
        await self._settle(Settlement(entry=entry, intent=False))

    async def _settle(self, settlement: Settlement) -> None:
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
        task = asyncio.get_running_loop().create_task(work)
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


def _limited(admission: Admission) -> RateLimited:
    what = _LIMIT_NAMES[admission.refused]
    error = RateLimited(
        f"the limit of {what} of {admission.level} is reached; try again in {admission.retry_after:.1f} s",
        code=f"{admission.refused}_limit_exceeded",
        retry_after=admission.retry_after,
    )
    error.headers = ratelimit_headers(admission)
    return error


def _exhausted_by(admission: Admission) -> Short | None:
    """Which account cannot pay, where trip 1 knows that already."""
    if admission.short is not None:
        return Short(admission.short, admission.left)
    empty = next((account for account, nano in admission.left if nano <= 0), None)
    return None if empty is None else Short(empty, admission.left)


def exhausted(visit: Visit) -> BudgetExhausted:
    """The 402 that says which budget has not enough left, and when it resets."""
    account = visit.short.account if visit.short else None
    if account is None:
        return BudgetExhausted("the budget has not enough left")
    message, wait_s = f"the {account.label} is exhausted", None
    if account.until_ms is not None:
        wait_s = max(0.0, account.until_ms / 1000 - time.time())
        message += f"; it resets at {datetime.fromtimestamp(account.until_ms / 1000, UTC):%Y-%m-%dT%H:%M:%SZ}"
    elif account.slice:
        wait_s = account.slice_ms / 1000
        message += "; it frees up as what was spent gets older"
    return BudgetExhausted(message, param=account.budget, retry_after=wait_s)


def ratelimit_headers(admission: Admission) -> list[tuple[str, str]]:
    """OpenAI's ``x-ratelimit-*``, of the tightest level."""
    headers: list[tuple[str, str]] = []
    told: Sequence[tuple[str, Limit | None]] = (("requests", admission.requests), ("tokens", admission.tokens))
    for name, limit in told:
        if limit is not None:
            headers += [
                (f"x-ratelimit-limit-{name}", str(limit.limit)),
                (f"x-ratelimit-remaining-{name}", str(limit.left)),
                (f"x-ratelimit-reset-{name}", f"{limit.reset_s:.3f}s"),
            ]
    return headers
