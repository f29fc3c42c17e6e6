"""What it all cost and saved, net: the books' rows, and what machines cost while nobody asked them anything.

A request on a local or self-hosted model is charged the time the model computed for it. The machine costs its
``usd_per_hour`` all day; the difference is the *idle* line, and busy + idle = wall hours × rate, to the nano-dollar.
Saved = what the baseline would have cost − all of that: answers, embeddings, verification, abandoned tries and idle.
There is no gross figure. Money is nano-dollars.
"""

from __future__ import annotations

import calendar
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING

from gateway.config import ModelConfig
from gateway.ledger.answers import Measures, Period, Where
from gateway.types import DAY_MS, HOUR_MS, NANO, Frozen

if TYPE_CHECKING:
    from gateway.ledger.standing import Hour
    from gateway.ledger.store import SqlStore

FORECAST_DAYS = 7
_MONTH_DAYS = 30
_MODELS_MAX = 1000
_ELSEWHERE = ("hosted", "local", "none")


class Machine(Frozen, frozen=True, kw_only=True):
    """What one model's machine came to: ``busy_nano`` + ``idle_nano`` = ``wall_nano``.

    ``break_even_per_day``: requests a day like those it had, from which on it is cheaper than the baseline; None where
    it had none, or the baseline would have cost nothing.
    """

    model: str
    nano_per_hour: int
    wall_ms: int
    wall_nano: int
    busy_nano: int
    idle_nano: int
    requests: int
    baseline_nano: int
    break_even_per_day: int | None

    @property
    def busy_share(self) -> float | None:
        """How much of it was charged to requests, 0 … 1."""
        return self.busy_nano / self.wall_nano if self.wall_nano else None

    @property
    def requests_per_day(self) -> float:
        return self.requests * DAY_MS / self.wall_ms if self.wall_ms else 0.0


class EndUsers(Frozen, frozen=True, kw_only=True):
    """Requests that named their end user. ``revenue_nano``: the plan's price for this period, 30 days a month."""

    count: int
    cost_nano: int
    revenue_nano: int | None

    @property
    def each_nano(self) -> int:
        """What an end user cost on average."""
        return self.cost_nano // self.count if self.count else 0

    @property
    def margin_nano(self) -> int | None:
        return None if self.revenue_nano is None else self.revenue_nano - self.cost_nano


class Statement(Frozen, frozen=True, kw_only=True):
    """A period. ``requests_nano`` is what requests cost, of which ``embedding_nano`` … ``abandoned_nano`` are parts."""

    since_ms: int
    until_ms: int
    requests: int
    tokens: int
    baseline_nano: int
    requests_nano: int
    embedding_nano: int
    verification_nano: int
    abandoned_nano: int
    machines: tuple[Machine, ...]
    end_users: EndUsers

    @property
    def idle_nano(self) -> int:
        return sum(machine.idle_nano for machine in self.machines)

    @property
    def cost_nano(self) -> int:
        """Everything: what requests cost, and idle machines."""
        return self.requests_nano + self.idle_nano

    @property
    def saved_nano(self) -> int:
        """Net; below zero where the baseline alone would have been cheaper."""
        return self.baseline_nano - self.cost_nano

    @property
    def per_million_tokens_nano(self) -> int | None:
        return self.cost_nano * 1_000_000 // self.tokens if self.tokens else None

    @property
    def per_thousand_requests_nano(self) -> int | None:
        return self.cost_nano * 1000 // self.requests if self.requests else None

    def waterfall(self) -> list[tuple[str, int]]:
        """From the baseline down to what was saved; the steps between add up."""
        answers = self.requests_nano - self.embedding_nano - self.verification_nano - self.abandoned_nano
        return [
            ("baseline", self.baseline_nano),
            ("answers", -answers),
            ("embedding", -self.embedding_nano),
            ("verification", -self.verification_nano),
            ("abandoned tries", -self.abandoned_nano),
            ("idle machines", -self.idle_nano),
            ("saved", self.saved_nano),
        ]


class Forecast(Frozen, frozen=True, kw_only=True):
    """A calendar month (UTC): spent so far, and in all if it goes on as on the last whole days (None: none yet)."""

    spent_nano: int
    day_nano: int
    total_nano: int | None


def rates(models: Iterable[ModelConfig]) -> dict[str, int]:
    """Nano-dollars an hour of the models whose machine costs something."""
    return {model.name: int(Decimal(str(model.usd_per_hour)) * NANO) for model in models if model.usd_per_hour > 0}


async def keep_count(store: SqlStore, models: Sequence[ModelConfig], now_ms: int, *, hours: int = 2) -> None:
    """Bring the idle lines of the last ``hours`` up to date: called once a minute by the background process.

    Raises:
        LedgerAway
    """
    charges = rates(models)
    if charges:
        this = now_ms - now_ms % HOUR_MS
        starts = [this - back * HOUR_MS for back in range(hours)]
        await store.keep_standing(charges, now_ms, {start: await _busy(store, start) for start in starts})


async def _busy(store: SqlStore, start_ms: int) -> dict[str, int]:
    """What requests of one hour were charged for computing, by model: not for embedding or for others' tries."""
    period = Period(start_ms, start_ms + HOUR_MS)
    found = await store.breakdown(period, "model", {"served": _ELSEWHERE}, limit=_MODELS_MAX)
    return {group.name: _computing(group.measures) for group in found.groups}


def _computing(measures: Measures) -> int:
    apart = measures.embedding_nano + measures.verification_nano + measures.abandoned_nano
    return measures.cost_nano - apart


async def statement(store: SqlStore, since_ms: int, until_ms: int, *, plan_price_usd: float | None = None) -> Statement:
    """The books of a period, widened to whole hours. Raises LedgerAway."""
    period = Period(since_ms, until_ms)
    total = await store.totals(period)
    hours = await store.standing_days(period.since_ms, period.until_ms)
    groups: Mapping[str, Measures] = {}
    if hours:
        found = await store.breakdown(period, "model", {"served": ("local", "hosted")}, limit=_MODELS_MAX)
        groups = {group.name: group.measures for group in found.groups}
    return Statement(
        since_ms=period.since_ms,
        until_ms=period.until_ms,
        requests=total.requests,
        tokens=total.prompt_tokens + total.completion_tokens,
        baseline_nano=total.baseline_nano,
        requests_nano=total.cost_nano,
        embedding_nano=total.embedding_nano,
        verification_nano=total.verification_nano,
        abandoned_nano=total.abandoned_nano,
        machines=machines(hours, groups),
        end_users=await _end_users(store, period, plan_price_usd),
    )


def machines(hours: Iterable[Hour], served: Mapping[str, Measures]) -> tuple[Machine, ...]:
    """Hours (or days), oldest first, added up by model; ``served``: what each model answered in them."""
    by_model: dict[str, list[Hour]] = {}
    for hour in hours:
        by_model.setdefault(hour.model, []).append(hour)
    return tuple(_machine(model, mine, served.get(model, Measures())) for model, mine in sorted(by_model.items()))


def _machine(model: str, hours: Sequence[Hour], served: Measures) -> Machine:
    rate = hours[-1].nano_per_hour
    return Machine(
        model=model,
        nano_per_hour=rate,
        wall_ms=sum(hour.wall_ms * hour.count for hour in hours),
        wall_nano=sum(hour.wall_nano for hour in hours),
        busy_nano=sum(hour.busy_nano for hour in hours),
        idle_nano=sum(hour.idle_nano for hour in hours),
        requests=served.requests,
        baseline_nano=served.baseline_nano,
        break_even_per_day=break_even(rate, served.requests, served.baseline_nano),
    )


def break_even(nano_per_hour: int, requests: int, baseline_nano: int) -> int | None:
    """Requests a day that would have cost as much at the baseline as the machine costs a day; rounded up."""
    return -(-24 * nano_per_hour * requests // baseline_nano) if requests and baseline_nano > 0 else None


async def _end_users(store: SqlStore, period: Period, plan_price_usd: float | None) -> EndUsers:
    found = await store.breakdown(period, "end_user", limit=1)
    cost = sum(group.measures.cost_nano for group in found.groups) + found.rest.cost_nano
    revenue = None
    if plan_price_usd is not None:
        share = Decimal(period.until_ms - period.since_ms) / (_MONTH_DAYS * DAY_MS)
        revenue = int(Decimal(str(plan_price_usd)) * NANO * found.distinct * share)
    return EndUsers(count=found.distinct, cost_nano=cost, revenue_nano=revenue)


async def forecast(store: SqlStore, now_ms: int, where: Where | None = None) -> Forecast:
    """Where this month's spending is heading: from now on as much a day as on the last whole days, a week at most.

    Of everything, idle machines are part; of what ``where`` narrows it to, they are not: nobody in it asked for them.
    """
    since_ms, until_ms = month(now_ms)
    today = now_ms - now_ms % DAY_MS
    week = Period(today - FORECAST_DAYS * DAY_MS, today)
    idle = {} if where else await _idle(store, min(since_ms, week.since_ms), until_ms)
    spent = (await store.totals(Period(since_ms, until_ms), where)).cost_nano
    spent += sum(nano for start, nano in idle.items() if start >= since_ms)
    lately = await store.timeline(week, None, where, step_ms=DAY_MS, brief=True)
    days = list(zip(lately.starts, lately.lines[0].points, strict=True))
    began = next((n for n, (at, point) in enumerate(days) if point.requests or idle.get(at)), len(days))
    whole = [point.cost_nano + idle.get(at, 0) for at, point in days[began:]]
    day = sum(whole) // len(whole) if whole else 0
    total = spent + day * (until_ms - now_ms) // DAY_MS if whole else None
    return Forecast(spent_nano=spent, day_nano=day, total_nano=total)


async def _idle(store: SqlStore, since_ms: int, until_ms: int) -> dict[int, int]:
    """What idle machines cost, by the day."""
    found: dict[int, int] = {}
    for hours in await store.standing_days(since_ms, until_ms):
        found[hours.start_ms] = found.get(hours.start_ms, 0) + hours.idle_nano
    return found


def month(now_ms: int) -> tuple[int, int]:
    """The calendar month (UTC) around a moment, as epoch milliseconds."""
    now = datetime.fromtimestamp(now_ms / 1000, UTC)
    first = datetime(now.year, now.month, 1, tzinfo=UTC)
    since_ms = int(first.timestamp() * 1000)
    return since_ms, since_ms + calendar.monthrange(now.year, now.month)[1] * DAY_MS
