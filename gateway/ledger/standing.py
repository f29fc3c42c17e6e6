"""What a machine costs for as long as it stands there, hour by hour: the part that requests were charged and the rest.

A row is one model in one hour at one rate. ``wall_ms`` grows while the gateway runs, up to ``until_ms``; what requests
were charged (``busy_nano``) is read from the rollups. What is left is the idle line, so busy + idle = wall × rate.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any

import msgspec
from sqlalchemy import BigInteger, Column, Connection, Table, Text, bindparam, func, insert, select, update

from gateway.ledger.tables import metadata
from gateway.types import DAY_MS, HOUR_MS

# A gateway that was away for longer was switched off: its machine's cost is then not this gateway's to book.
GAP_MS = 10 * 60_000

standing_cost = Table(
    "standing_cost",
    metadata,
    Column("start_ms", BigInteger, primary_key=True, autoincrement=False),
    Column("model", Text, primary_key=True),
    Column("nano_per_hour", BigInteger, primary_key=True, autoincrement=False),
    *(Column(name, BigInteger, nullable=False) for name in ("wall_ms", "until_ms", "busy_nano")),
)
_columns = standing_cost.c


class Hour(msgspec.Struct, frozen=True, kw_only=True):
    """A model's machine in the hour from ``start_ms`` on, at ``nano_per_hour`` nano-dollars.

    It stood there for ``wall_ms`` of it, and requests were charged ``busy_nano``. Or as many hours alike as ``count``
    says, of the day from ``start_ms`` on: ``wall_ms`` is that of each, ``busy_nano`` that of all.
    """

    start_ms: int
    model: str
    nano_per_hour: int
    wall_ms: int
    busy_nano: int
    count: int = 1

    @property
    def wall_nano(self) -> int:
        """What it cost, rounded once an hour, half to even."""
        hour = Decimal(self.wall_ms * self.nano_per_hour) / HOUR_MS
        return self.count * int(hour.quantize(Decimal(1), ROUND_HALF_EVEN))

    @property
    def idle_nano(self) -> int:
        """What nobody was charged for. Below zero where more was charged in this hour than it cost: a request counts
        in the hour it came in, and may run on into the next.
        """
        return self.wall_nano - self.busy_nano


def keep(
    connection: Connection, rates: Mapping[str, int], now_ms: int, busy_nano: Mapping[int, Mapping[str, int]]
) -> None:
    """Let the clock run to ``now_ms`` for the models in ``rates`` (nano-dollars an hour), and set what requests of some
    hours were charged for each model (``busy_nano``, by the hour's start).

    May be called by two processes, and again: only time that no row has counted is added.
    """
    _count(connection, rates, now_ms)
    for start_ms, charged in busy_nano.items():
        _charge(connection, start_ms, charged)


def _count(connection: Connection, rates: Mapping[str, int], now_ms: int) -> None:
    latest = select(_columns.model, func.max(_columns.until_ms)).group_by(_columns.model)
    last = {row[0]: int(row[1]) for row in connection.execute(latest)}
    for model, rate in rates.items():
        since = last.get(model, now_ms)
        if abs(now_ms - since) > GAP_MS:
            since = now_ms
        elif now_ms < since:
            continue  # a clock that was set back: these minutes are counted
        for start, wall_ms, until in _by_hour(since, now_ms):
            _add(connection, start, model, rate, wall_ms, until)


def _by_hour(since_ms: int, until_ms: int) -> Iterable[tuple[int, int, int]]:
    """A stretch of time as (hour it is in, how much of it, its end); the moment itself where it has no length."""
    while True:
        start = since_ms - since_ms % HOUR_MS
        end = min(until_ms, start + HOUR_MS)
        yield start, end - since_ms, end
        if end >= until_ms:
            return
        since_ms = end


def _add(connection: Connection, start: int, model: str, rate: int, wall_ms: int, until: int) -> None:
    row = {"start_ms": start, "model": model, "nano_per_hour": rate}
    there = [_columns[name] == value for name, value in row.items()]
    grown = update(standing_cost).where(*there).values(wall_ms=_columns.wall_ms + wall_ms, until_ms=until)
    if not connection.execute(grown).rowcount:
        connection.execute(insert(standing_cost), [row | {"wall_ms": wall_ms, "until_ms": until, "busy_nano": 0}])


def _charge(connection: Connection, start_ms: int, busy_nano: Mapping[str, int]) -> None:
    """Where the rate changed within the hour, each rate's row bears its share of the time."""
    within = select(standing_cost).where(_columns.start_ms == start_ms).order_by(_columns.model, _columns.nano_per_hour)
    rows = [dict(row._mapping) for row in connection.execute(within)]
    changed: list[dict[str, Any]] = []
    for model in {row["model"] for row in rows}:
        mine = [row for row in rows if row["model"] == model]
        for row, busy in zip(mine, _shared(busy_nano.get(model, 0), [row["wall_ms"] for row in mine]), strict=True):
            if busy != row["busy_nano"]:
                changed.append({"at_model": model, "at_rate": row["nano_per_hour"], "busy_nano": busy})
    if changed:
        at = (_columns.start_ms == start_ms, _columns.model == bindparam("at_model"))
        connection.execute(update(standing_cost).where(*at, _columns.nano_per_hour == bindparam("at_rate")), changed)


def _shared(amount: int, weights: list[int]) -> list[int]:
    """``amount`` in whole parts by weight, nothing lost: the last takes what is left."""
    total, parts, given = sum(weights), list[int](), 0
    for weight in weights[:-1]:
        part = amount * weight // total if total else 0
        parts.append(part)
        given += part
    return [*parts, amount - given]


def hours(connection: Connection, since_ms: int, until_ms: int) -> list[Hour]:
    """The rows of a period, oldest first."""
    within = select(standing_cost).where(_columns.start_ms >= since_ms, _columns.start_ms < until_ms)
    found = connection.execute(within.order_by(_columns.start_ms, _columns.model, _columns.nano_per_hour))
    return [
        Hour(
            start_ms=row.start_ms,
            model=row.model,
            nano_per_hour=row.nano_per_hour,
            wall_ms=row.wall_ms,
            busy_nano=row.busy_nano,
        )
        for row in found
    ]


def days(connection: Connection, since_ms: int, until_ms: int) -> list[Hour]:
    """The same by the day (UTC), hours that stood equally long together: a year of them is quickly read.

    Of a day those come last that lasted longest, so that the last one has the rate that holds now.
    """
    day = _columns.start_ms - _columns.start_ms % DAY_MS
    alike = (day, _columns.model, _columns.nano_per_hour, _columns.wall_ms)
    query = select(*alike, func.sum(_columns.busy_nano), func.count()).group_by(*alike)
    query = query.order_by(day, func.max(_columns.start_ms), *alike[1:])
    found = connection.execute(query.where(_columns.start_ms >= since_ms, _columns.start_ms < until_ms))
    return [
        Hour(start_ms=start, model=model, nano_per_hour=rate, wall_ms=wall_ms, busy_nano=int(busy), count=count)
        for start, model, rate, wall_ms, busy, count in found
    ]
