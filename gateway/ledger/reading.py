"""Answers from the rollups: the narrowest cut that has a question's dimensions, summed up where the data is.

Whole days of a period come from the daily rollup and the hours before and after them from the hourly one. Sums are
the database's work; only histograms are brought here, and added up in one go.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from operator import add, sub
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Connection, Select, Table, and_, bindparam, func, literal, select, text

from gateway.ledger import histogram
from gateway.ledger.answers import Breakdown, Dimension, Group, Line, Measures, Order, Period, Timeline, Times, Where
from gateway.ledger.histogram import Histogram
from gateway.ledger.memory import Memory, Part
from gateway.ledger.rollups import COUNTERS, CUTS, DIMENSIONS, END_USER, WITH_USER, Cut
from gateway.ledger.statements import is_sqlite
from gateway.ledger.tables import MANY, rollup_day, rollup_hour, series
from gateway.types import DAY_MS, HOUR_MS

STEPS_MAX = 12_000
BRIEF = ("requests", "errors", "cost_nano", "baseline_nano", "saved_nano")
_MANY_VALUES = (*MANY, "tag")
# Up to so many days (or hours), and this share of a cut's series, cells are sought one by one; beyond it, in one sweep.
_SOUGHT, _SPARSE = 800, 0.2
_ALL_SERIES = select(func.count()).select_from(series).where(series.c.cut == bindparam("cut"))
_NOTHING = (0,) * len(COUNTERS)
_ALL = ""
_NONE = Measures()
_UNTIMED = Times()
_Found = TypeVar("_Found", bound=Mapping[Any, Any])

Sums = tuple[int, ...]
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
    return Measures(**fields, latency_ms=_times(latency), ttft_ms=_times(ttft))


def totals(connection: Connection, memory: Memory, period: Period, where: Where) -> Measures:
    question = _Question(connection, memory, period, None, where, None)
    key = (0, _ALL)
    return measures(question.sums().get(key, _NOTHING), *question.histograms().get(key, ({}, {})))


def breakdown(
    connection: Connection, memory: Memory, period: Period, by: Dimension, where: Where, order: Order, limit: int
) -> Breakdown:
    question = _Question(connection, memory, period, by, where, None)
    return _broken_down(question, by, question.ranked(order, limit))


def timeline(
    connection: Connection,
    memory: Memory,
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
    counters = tuple(dict.fromkeys((*BRIEF, order))) if brief else COUNTERS
    question = _Question(connection, memory, period, by, where, step_ms, counters)
    known = ([group.name for group in like.groups][:limit], like.distinct) if like else None
    ranked = question.ranked(order, limit, known) if by else _Ranked([_ALL], 1, question.sums(), {})
    times = {} if brief else question.histograms(ranked.names)
    return _over_time(by, _starts(period, step_ms), step_ms, ranked, counters, times)


def split(
    connection: Connection,
    memory: Memory,
    period: Period,
    by: Dimension,
    where: Where,
    order: Order,
    limit: int,
    step_ms: int,
    lines: int,
) -> tuple[Breakdown, Timeline]:
    """A breakdown by ``order``, and the brief timeline of the ``lines`` values that cost most, of the same cells."""
    if by in _MANY_VALUES:
        found = breakdown(connection, memory, period, by, where, order, limit)
        like = found if order == "cost_nano" and limit >= lines else None
        return found, timeline(
            connection, memory, period, by, where, "cost_nano", lines, step_ms, brief=True, like=like
        )
    steps = _Question(connection, memory, period, by, where, step_ms).sums()
    whole: dict[Key, Sums] = {}
    for (_, name), row in steps.items():
        whole[0, name] = tuple(map(add, whole.get((0, name), _NOTHING), row))
    question = _Question(connection, memory, period, by, where, None)
    found = _broken_down(question, by, _first_of(whole, COUNTERS.index(order), limit))
    at = [COUNTERS.index(name) for name in BRIEF]
    briefly = {key: tuple(row[index] for index in at) for key, row in steps.items()}
    ranked = _first_of(briefly, BRIEF.index("cost_nano"), lines)
    return found, _over_time(by, _starts(period, step_ms), step_ms, ranked, BRIEF, {})


def _broken_down(question: _Question, by: Dimension, ranked: _Ranked) -> Breakdown:
    times = question.histograms(ranked.names)
    groups = tuple(
        Group(name, measures(ranked.sums.get((0, name), _NOTHING), *times.get((0, name), ({}, {}))))
        for name in ranked.names
    )
    return Breakdown(by=by, groups=groups, rest=measures(ranked.rest.get(0, _NOTHING)), distinct=ranked.distinct)


def _over_time(
    by: Dimension | None,
    starts: tuple[int, ...],
    step_ms: int,
    ranked: _Ranked,
    counters: Sequence[str],
    times: Mapping[Key, tuple[Histogram, ...]],
) -> Timeline:
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


def _first_of(everything: Mapping[Key, Sums], index: int, limit: int) -> _Ranked:
    """The names with the most of the counter at ``index``, and all others together."""
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


class _Question:
    """What is asked of the cells: a period, what to group by, what to narrow to, in which steps."""

    def __init__(
        self,
        connection: Connection,
        memory: Memory,
        period: Period,
        by: Dimension | None,
        where: Where,
        step_ms: int | None,
        counters: Sequence[str] = COUNTERS,
    ) -> None:
        self._connection, self._by, self._where, self._step_ms = connection, by, where, step_ms
        self._counters = tuple(counters)
        self._cut = cut_for({*where, *([by] if by else [])})
        self._token = memory.look(connection)
        self._parts = [some for part in parts(period, self._cut, step_ms) for some in memory.split(part)]
        self._memory, self._asked = memory, (by, tuple((name, tuple(where[name])) for name in sorted(where)), step_ms)
        self._sought: dict[tuple[int, bool], bool] = {}

    def _recalled(self, part: Part, what: tuple[Any, ...], find: Callable[[], _Found]) -> _Found:
        return self._memory.get(self._token, part, (*self._asked, *what), find)

    def ranked(self, order: Order, limit: int, known: tuple[list[str], int] | None = None) -> _Ranked:
        """The names with the most of ``order``: in one go where a dimension has few values, else step by step."""
        if self._by in _MANY_VALUES:
            names, distinct = known or self._first(order, limit)
            sums = self.sums(names)
            return _Ranked(names, distinct, sums, self._rest(sums) if distinct > len(names) else {})
        return _first_of(self.sums(), self._counters.index(order), limit)

    def _first(self, order: Order, limit: int) -> tuple[list[str], int]:
        """The names with the most of ``order``, and how many names there are."""
        amounts: dict[str, int] = {}
        for part in self._parts:
            for name, amount in self._recalled(part, (order,), partial(self._amounts, part, order)).items():
                amounts[name] = amounts.get(name, 0) + amount
        return sorted(amounts, key=lambda name: (-amounts[name], name))[:limit], len(amounts)

    def _amounts(self, part: Part, order: Order) -> dict[str, int]:
        if part[0] is not rollup_day or self._by not in MANY or self._cut is not MANY[self._by]:
            found: dict[str, int] = {}
            for _, name, amount in self._connection.execute(self._grouped(part, [order], None)):
                found[name] = found.get(name, 0) + int(amount)
            return found
        # From an index of their own: one after another, each from the first day to the last.
        join = "CROSS JOIN" if is_sqlite(self._connection) else "JOIN"
        cut, by = self._cut.number, self._by
        narrowed = "".join(f" AND s.{name} IN :{name}" for name in self._where)
        query = text(
            f"SELECT s.{by}, sum(r.{order}) FROM series s {join} rollup_day r ON r.series = s.id"
            f" WHERE s.cut = {cut} AND r.cut = {cut} AND r.start_ms >= :since AND r.start_ms < :until{narrowed}"
            f" GROUP BY s.{by}"
        ).bindparams(*(bindparam(name, list(values), expanding=True) for name, values in self._where.items()))
        rows = self._connection.execute(query, {"since": part[1], "until": part[2]})
        return {name: int(amount) for name, amount in rows}

    def _rest(self, shown: Mapping[Key, Sums]) -> dict[int, Sums]:
        rest = {at: row for (at, _), row in self.sums(apart=False).items()}
        for (at, _), row in shown.items():
            rest[at] = tuple(map(sub, rest.get(at, _NOTHING), row))
        return rest

    def sums(self, names: Sequence[str] | None = None, *, apart: bool = True) -> dict[Key, Sums]:
        """Counters by step and name; not ``apart``: of all names together."""
        found: dict[Key, Sums] = {}
        what = (apart, None if names is None else tuple(names), self._counters)
        for part in self._parts:
            for key, row in self._recalled(part, what, partial(self._sums, part, names, apart)).items():
                found[key] = tuple(map(add, known, row)) if (known := found.get(key)) else row
        return found

    def _sums(self, part: Part, names: Sequence[str] | None, apart: bool) -> dict[Key, Sums]:
        query = self._grouped(part, self._counters, names) if apart else self._together(part)
        return {(at, name): tuple(map(int, row)) for at, name, *row in self._connection.execute(query)}

    def histograms(self, names: Sequence[str] | None = None) -> dict[Key, tuple[Histogram, ...]]:
        """Latency and time to first token by step and name."""
        found: dict[Key, tuple[Histogram, ...]] = {}
        for part in self._parts:
            some = self._recalled(
                part, (None if names is None else tuple(names),), partial(self._histograms, part, names)
            )
            for key, both in some.items():
                mine = found.setdefault(key, ({}, {}))
                for into, other in zip(mine, both, strict=True):
                    histogram.merge(into, other)
        return found

    def _histograms(self, part: Part, names: Sequence[str] | None) -> dict[Key, tuple[Histogram, ...]]:
        cells = part[0].c
        name: ColumnElement[str] = series.c[self._by] if self._by else literal(_ALL)
        query = self._cells(part, names).add_columns(self._at(part[0]), name, cells.latency, cells.ttft)
        query = query.where(func.length(cells.latency) > 0)  # there is nothing in those of what was not answered
        if self._by:
            query = query.join(series, series.c.id == cells.series)
        kept: dict[Key, tuple[list[bytes], list[bytes]]] = {}
        for at, value, latency, ttft in self._connection.execute(query):
            both = kept.setdefault((at, value), ([], []))
            both[0].append(latency)
            both[1].append(ttft)
        return {key: tuple(histogram.merged(each) for each in both) for key, both in kept.items()}

    def _grouped(self, part: Part, counters: Sequence[str], names: Sequence[str] | None) -> Select[Any]:
        """Sums by step and name: by the series' number first, unless nearly every cell has its own step and number."""
        if not self._by:
            return self._together(part)
        table, at, name = part[0], self._at(part[0]).label("at"), series.c[self._by].label("name")
        columns = [func.sum(table.c[counter]).label(counter) for counter in counters]
        if self._step_ms:
            query = self._cells(part, names).add_columns(at, name, *columns)
            return query.join(series, series.c.id == table.c.series).group_by(at, name)
        summed = self._cells(part, names).add_columns(at, table.c.series, *columns).group_by(table.c.series).subquery()
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
        if self._step_ms == _width(table):
            return table.c.start_ms  # the order that cells are in
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
        if narrowed and self._sparse(number, chosen, named=names is not None):
            return query.where(named(table, since, until))
        return query.where(cells.start_ms >= since, cells.start_ms < until)

    def _sparse(self, number: int, chosen: Select[Any], *, named: bool) -> bool:
        """Whether these are few of the cut's series; asked once."""
        known = self._sought.get((number, named))
        if known is None:
            known = self._sought[number, named] = sparse(self._connection, number, chosen)
        return known


def sparse(connection: Connection, cut: int, chosen: Select[Any]) -> bool:
    """Whether ``chosen`` are so few of a cut's series that each cell is better sought by itself."""
    few = connection.execute(select(func.count()).select_from(chosen.subquery())).scalar_one()
    return bool(few <= _SPARSE * connection.execute(_ALL_SERIES, {"cut": cut}).scalar_one())


def named(table: Table, since: int, until: int) -> ColumnElement[bool]:
    """The days (or hours) of a time by name, which leads straight to few cells: between two ends all others would be
    passed by. Too many to name are not.
    """
    starts = range(since, until, _width(table))
    if len(starts) > _SOUGHT:
        return and_(table.c.start_ms >= since, table.c.start_ms < until)
    return table.c.start_ms.in_(list(starts))


def _width(table: Table) -> int:
    return DAY_MS if table is rollup_day else HOUR_MS


def _times(counts: Histogram | None) -> Times:
    if not counts:
        return _UNTIMED
    p50, p95, p99 = histogram.percentiles(counts)
    under_100, under_300 = (histogram.share_under(counts, limit) for limit in (100, 300))
    return Times(p50=p50, p95=p95, p99=p99, under_100=under_100, under_300=under_300)
