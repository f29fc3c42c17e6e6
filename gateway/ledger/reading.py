"""Answers from the rollups: the narrowest cut that has a question's dimensions, summed up where the data is.

Whole days of a period come from the daily rollup and the hours before and after them from the hourly one. Sums are
the database's work; only histograms are brought here, and added up in one go.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import add, sub
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, Table, bindparam, func, literal, select, text

from gateway.ledger import histogram
from gateway.ledger.answers import Breakdown, Dimension, Group, Line, Measures, Order, Period, Timeline, Times, Where
from gateway.ledger.histogram import Histogram
from gateway.ledger.rollups import COUNTERS, CUTS, DAY_MS, DIMENSIONS, END_USER, HOUR_MS, WITH_USER, Cut
from gateway.ledger.statements import is_sqlite
from gateway.ledger.tables import rollup_day, rollup_hour, series

STEPS_MAX = 12_000
BRIEF = ("requests", "errors", "cost_nano", "baseline_nano", "saved_nano")
_MANY_VALUES = ("key_id", "tag", "end_user")
# Up to so many days (or hours), and this share of a cut's series, cells are sought one by one; beyond it, in one sweep.
_SOUGHT, _SPARSE = 200, 0.2
_NOTHING = (0,) * len(COUNTERS)
_ALL = ""
_NONE = Measures()

Sums = tuple[int, ...]
Part = tuple[Table, int, int]
Key = tuple[int, str]
"""Start of a step (0: the whole period), value of the dimension that is grouped by."""


def measures(
    sums: Sums,
    latency: Histogram | None = None,
    ttft: Histogram | None = None,
    *,
    counters: Sequence[str] = COUNTERS,
) -> Measures:
    """Counters in their order and their histograms, as they are told."""
    if sums is _NOTHING:
        return _NONE
    fields: dict[str, Any] = dict(zip(counters, sums, strict=True))
    return Measures(**fields, latency_ms=_times(latency or {}), ttft_ms=_times(ttft or {}))


def totals(connection: Connection, period: Period, where: Where) -> Measures:
    question = _Question(connection, period, None, where, None)
    key = (0, _ALL)
    return measures(question.sums().get(key, _NOTHING), *question.histograms().get(key, ({}, {})))


def breakdown(
    connection: Connection, period: Period, by: Dimension, where: Where, order: Order, limit: int
) -> Breakdown:
    question = _Question(connection, period, by, where, None)
    ranked = question.ranked(order, limit)
    times = question.histograms(ranked.names)
    groups = tuple(
        Group(name, measures(ranked.sums.get((0, name), _NOTHING), *times.get((0, name), ({}, {}))))
        for name in ranked.names
    )
    return Breakdown(by=by, groups=groups, rest=measures(ranked.rest.get(0, _NOTHING)), distinct=ranked.distinct)


def timeline(
    connection: Connection,
    period: Period,
    by: Dimension | None,
    where: Where,
    order: Order,
    limit: int,
    step_ms: int,
    brief: bool = False,
    like: Breakdown | None = None,
) -> Timeline:
    """``brief``: only the counters of ``BRIEF`` and ``order``, and no times: a third of the work. ``like``: what was
    found by the same dimension and order, whose first names these are then.
    """
    starts = _starts(period, step_ms)
    counters = tuple(dict.fromkeys((*BRIEF, order))) if brief else COUNTERS
    question = _Question(connection, period, by, where, step_ms, counters)
    known = ([group.name for group in like.groups][:limit], like.distinct) if like else None
    ranked = question.ranked(order, limit, known) if by else _Ranked([_ALL], 1, question.sums(), {})
    times = {} if brief else question.histograms(ranked.names)

    def told(sums: Sums, *both: Histogram) -> Measures:
        return measures(sums, *both, counters=counters)

    lines = tuple(
        Line(name, tuple(told(ranked.sums.get((at, name), _NOTHING), *times.get((at, name), ())) for at in starts))
        for name in ranked.names
    )
    rest = None
    if ranked.distinct > len(ranked.names):
        rest = Line(_ALL, tuple(told(ranked.rest.get(at, _NOTHING)) for at in starts))
    return Timeline(by=by, step_ms=step_ms, starts=starts, lines=lines, rest=rest)


def cut_for(dimensions: Iterable[str]) -> Cut:
    """The narrowest cut with these dimensions. Raises ValueError where rollups are not kept by them together."""
    wanted = set(dimensions)
    if unknown := wanted - set(DIMENSIONS):
        raise ValueError(f"no such dimension: {', '.join(sorted(unknown))}")
    found = next((cut for cut in CUTS if wanted <= set(cut.names)), None)
    if found is None:
        raise ValueError(f"rollups are not kept by {', '.join(sorted(wanted))} together")
    return found


def parts(period: Period, cut: Cut, step_ms: int | None) -> list[Part]:
    """A period as whole days with the hours before and after them."""
    since, until = period.since_ms, period.until_ms
    if cut.daily_only:
        return [(rollup_day, since - since % DAY_MS, until + -until % DAY_MS)]
    first, last = since + -since % DAY_MS, until - until % DAY_MS
    if first >= last or (step_ms is not None and step_ms % DAY_MS):
        return [(rollup_hour, since, until)]
    split = [(rollup_hour, since, first), (rollup_day, first, last), (rollup_hour, last, until)]
    return [part for part in split if part[1] < part[2]]


def _starts(period: Period, step_ms: int) -> tuple[int, ...]:
    if step_ms <= 0 or step_ms % HOUR_MS:
        raise ValueError("a step is a number of whole hours")
    starts = range(period.since_ms - period.since_ms % step_ms, period.until_ms, step_ms)
    if len(starts) > STEPS_MAX:
        raise ValueError(f"more than {STEPS_MAX} steps")
    return tuple(starts)


@dataclass(frozen=True, slots=True)
class _Ranked:
    """The first names, how many there are, what they come to, and what all others do, by the start of a step."""

    names: list[str]
    distinct: int
    sums: dict[Key, Sums]
    rest: dict[int, Sums]


class _Question:
    """What is asked of the cells: a period, what to group by, what to narrow to, in which steps."""

    def __init__(
        self,
        connection: Connection,
        period: Period,
        by: Dimension | None,
        where: Where,
        step_ms: int | None,
        counters: Sequence[str] = COUNTERS,
    ) -> None:
        self._connection, self._by, self._where, self._step_ms = connection, by, where, step_ms
        self._counters = counters
        self._cut = cut_for({*where, *([by] if by else [])})
        self._parts = parts(period, self._cut, step_ms)
        self._sought: dict[tuple[int, bool], bool] = {}

    def ranked(self, order: Order, limit: int, known: tuple[list[str], int] | None = None) -> _Ranked:
        """The names with the most of ``order``: in one go where a dimension has few values, else step by step."""
        if self._by in _MANY_VALUES:
            names, distinct = known or self._first(order, limit)
            sums = self.sums(names)
            return _Ranked(names, distinct, sums, self._rest(sums) if distinct > len(names) else {})
        everything, index = self.sums(), self._counters.index(order)
        amounts: dict[str, int] = {}
        for (_, name), row in everything.items():
            amounts[name] = amounts.get(name, 0) + row[index]
        names = sorted(amounts, key=lambda name: (-amounts[name], name))[:limit]
        sums, rest = {}, dict[int, Sums]()
        for (at, name), row in everything.items():
            if name in names:
                sums[at, name] = row
            else:
                rest[at] = tuple(map(add, rest.get(at, _NOTHING), row))
        return _Ranked(names, len(amounts), sums, rest)

    def _first(self, order: Order, limit: int) -> tuple[list[str], int]:
        """The names with the most of ``order``, and how many names there are."""
        amounts: dict[str, int] = {}
        for part in self._parts:
            for name, amount in self._amounts(part, order):
                amounts[name] = amounts.get(name, 0) + int(amount)
        return sorted(amounts, key=lambda name: (-amounts[name], name))[:limit], len(amounts)

    def _amounts(self, part: Part, order: Order) -> Iterable[tuple[str, Any]]:
        if self._cut is not END_USER:
            return ((name, amount) for _, name, amount in self._connection.execute(self._grouped(part, [order], None)))
        # From an index of their own: user after user, each from the first day to the last.
        join = "CROSS JOIN" if is_sqlite(self._connection) else "JOIN"
        cut = END_USER.number
        narrowed = "".join(f" AND s.{name} IN :{name}" for name in self._where)
        query = text(
            f"SELECT s.end_user, sum(r.{order}) FROM series s {join} rollup_day r ON r.series = s.id"
            f" WHERE s.cut = {cut} AND r.cut = {cut} AND r.start_ms >= :since AND r.start_ms < :until{narrowed}"
            " GROUP BY s.end_user"
        ).bindparams(*(bindparam(name, list(values), expanding=True) for name, values in self._where.items()))
        found = self._connection.execute(query, {"since": part[1], "until": part[2]})
        return ((name, amount) for name, amount in found)

    def _rest(self, shown: Mapping[Key, Sums]) -> dict[int, Sums]:
        rest = {at: row for (at, _), row in self.sums(apart=False).items()}
        for (at, _), row in shown.items():
            rest[at] = tuple(map(sub, rest.get(at, _NOTHING), row))
        return rest

    def sums(self, names: Sequence[str] | None = None, *, apart: bool = True) -> dict[Key, Sums]:
        """Counters by step and name; not ``apart``: of all names together."""
        found: dict[Key, Sums] = {}
        for part in self._parts:
            query = self._grouped(part, self._counters, names) if apart else self._together(part)
            for at, name, *row in self._connection.execute(query):
                known = found.get((at, name), _NOTHING)
                found[at, name] = tuple(map(add, known, map(int, row)))
        return found

    def histograms(self, names: Sequence[str] | None = None) -> dict[Key, tuple[Histogram, ...]]:
        """Latency and time to first token by step and name."""
        kept: dict[Key, tuple[list[bytes], list[bytes]]] = {}
        for part in self._parts:
            cells = part[0].c
            name: ColumnElement[str] = series.c[self._by] if self._by else literal(_ALL)
            query = self._cells(part, names).add_columns(self._at(part[0]), name, cells.latency, cells.ttft)
            query = query.where(func.length(cells.latency) > 0)  # there is nothing in those of what was not answered
            if self._by:
                query = query.join(series, series.c.id == cells.series)
            for at, value, latency, ttft in self._connection.execute(query):
                both = kept.setdefault((at, value), ([], []))
                both[0].append(latency)
                both[1].append(ttft)
        return {key: tuple(histogram.merged(each) for each in both) for key, both in kept.items()}

    def _grouped(self, part: Part, counters: Sequence[str], names: Sequence[str] | None) -> Select[Any]:
        """Sums by step and name: first by the series' number, which is quick, then by its name."""
        if not self._by:
            return self._together(part)
        table, at = part[0], self._at(part[0]).label("at")
        columns = [func.sum(table.c[counter]).label(counter) for counter in counters]
        inner = self._cells(part, names).add_columns(at, table.c.series, *columns)
        summed = inner.group_by(table.c.series, *([at] if self._step_ms else [])).subquery()
        name = series.c[self._by].label("name")
        outer = [func.sum(summed.c[counter]) for counter in counters]
        query = select(summed.c.at, name, *outer).join_from(summed, series, series.c.id == summed.c.series)
        return query.group_by(summed.c.at, name)

    def _together(self, part: Part) -> Select[Any]:
        at = self._at(part[0]).label("at")
        columns = [func.sum(part[0].c[counter]) for counter in self._counters]
        cut = self._cut
        if cut is END_USER and "end_user" not in self._where:
            cut = WITH_USER
        elif self._by == "key_id":  # each request has one, so that all keys together are all requests
            cut = cut_for(self._where)
        return self._cells(part, None, cut).add_columns(at, literal(_ALL), *columns).group_by(at)

    def _at(self, table: Table) -> ColumnElement[int]:
        return table.c.start_ms - table.c.start_ms % self._step_ms if self._step_ms else literal(0)

    def _cells(self, part: Part, names: Sequence[str] | None, cut: Cut | None = None) -> Select[Any]:
        """The cells in question."""
        table, since, until = part
        cells, number = table.c, (cut or self._cut).number
        narrowed = {name: list(values) for name, values in self._where.items()}
        if self._by and names is not None:
            narrowed[self._by] = [*names]
        query = select().select_from(table).where(cells.cut == number)
        if narrowed:
            chosen = select(series.c.id).where(series.c.cut == number)
            chosen = chosen.where(*(series.c[name].in_(values) for name, values in narrowed.items()))
            query = query.where(cells.series.in_(chosen))
        width = DAY_MS if table is rollup_day else HOUR_MS
        starts = range(since, until, width)
        if narrowed and len(starts) <= _SOUGHT and self._sparse(number, chosen, named=names is not None):
            # Named, the days lead straight to the few cells; between two ends, all others would be passed by.
            return query.where(cells.start_ms.in_(list(starts)))
        return query.where(cells.start_ms >= since, cells.start_ms < until)

    def _sparse(self, number: int, chosen: Select[Any], *, named: bool) -> bool:
        """Whether these are few of the cut's series; asked once."""
        known = self._sought.get((number, named))
        if known is None:
            few = self._connection.execute(select(func.count()).select_from(chosen.subquery())).scalar_one()
            all_ = select(func.count()).select_from(series).where(series.c.cut == number)
            known = few <= _SPARSE * self._connection.execute(all_).scalar_one()
            self._sought[number, named] = known
        return known


def _times(counts: Histogram) -> Times:
    p50, p95, p99 = histogram.percentiles(counts)
    under_100, under_300 = (histogram.share_under(counts, limit) for limit in (100, 300))
    return Times(p50=p50, p95=p95, p99=p99, under_100=under_100, under_300=under_300)
