"""Rows for people to look at and for exports, by keyset: the thousandth page costs what the first does.

Where a question is narrow (a key with three requests in a month of millions), the rollups say on which days there is
anything at all, so that only those are looked through.
"""

from __future__ import annotations

from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Connection, Select, Table, and_, false, func, literal_column, or_, select

from gateway.ledger import months
from gateway.ledger.answers import Dimension, Page, Period, Where
from gateway.ledger.reading import cut_for, named, sparse
from gateway.ledger.rollups import COMBINED, EVERY, Cut
from gateway.ledger.rows import entry_of, shortened
from gateway.ledger.statements import is_sqlite
from gateway.ledger.tables import ENTRY_COLUMNS, ledger, rollup_day, rollup_hour, series
from gateway.types import DAY_MS, HOUR_MS, LedgerEntry

# Up to this share of all rows, those in question are fetched by their series; beyond it, newest first until enough.
_SPARSE = 0.02
_STRIDES = (1, 7, 31, 1 << 20)
"""Days to look back at a time: mostly the last one has a page's worth of rows."""

Mark = tuple[int, str]
"""Time and request id of the row that a page follows."""


def newest(connection: Connection, period: Period, where: Where, after: str | None, limit: int) -> Page:
    """One page. Raises ValueError for an ``after`` that no page gave."""
    mark = parse_mark(after) if after is not None else (period.until_ms, "")
    until = min(period.until_ms, mark[0] + 1)
    since, sparse, more = period.since_ms, False, False
    if where and "end_user" not in where:  # their rows have an index of their own
        since, sparse, more = _look(connection, Period(period.since_ms, until), where, limit)
        since = max(since, period.since_ms)
    found: list[LedgerEntry] = []
    for table in reversed(tables(connection, since, until)):
        query = _chosen(table, since, until, where, sparse=sparse).where(_before(table, mark))
        query = query.order_by(table.c.ts_ms.desc(), table.c.request_id.desc()).limit(limit - len(found))
        found += [entry_of(dict(row._mapping)) for row in connection.execute(query)]
        if len(found) == limit:
            return Page(tuple(found), f"{found[-1].ts_ms}-{found[-1].request_id}")
    return Page(tuple(found), f"{since}-" if more else None)


def oldest(connection: Connection, period: Period, where: Where, after: Mark | None, limit: int) -> list[LedgerEntry]:
    """The next ``limit`` rows in the order of time, after a row."""
    since = max(period.since_ms, after[0]) if after else period.since_ms
    found: list[LedgerEntry] = []
    for table in tables(connection, since, period.until_ms):
        query = _chosen(table, since, period.until_ms, where, sparse=False)
        if after:
            query = query.where(_after(table, after))
        query = query.order_by(table.c.ts_ms, table.c.request_id).limit(limit - len(found))
        found += [entry_of(dict(row._mapping)) for row in connection.execute(query)]
        if len(found) == limit:
            break
    return found


def parse_mark(text: str) -> Mark:
    at, dash, request_id = text.partition("-")
    if not dash or not at.isdecimal() or len(at) > 15:
        raise ValueError(f"'{text}' does not say where to go on")
    return int(at), request_id


def tables(connection: Connection, since_ms: int, until_ms: int) -> list[Table]:
    """Where the rows of a time are, oldest first: months in SQLite, the one table in PostgreSQL."""
    if not is_sqlite(connection):
        return [ledger]
    return [months.table(name) for name in months.within(connection, since_ms, until_ms)]


def _before(table: Table, mark: Mark) -> ColumnElement[bool]:
    at, request_id = mark
    return and_(table.c.ts_ms <= at, or_(table.c.ts_ms < at, table.c.request_id < request_id))


def _after(table: Table, mark: Mark) -> ColumnElement[bool]:
    at, request_id = mark
    return and_(table.c.ts_ms >= at, or_(table.c.ts_ms > at, table.c.request_id > request_id))


def _chosen(table: Table, since: int, until: int, where: Where, *, sparse: bool) -> Select[Any]:
    query = select(*(table.c[name] for name in ENTRY_COLUMNS)).where(table.c.ts_ms >= since, table.c.ts_ms < until)
    combined = {name: values for name, values in where.items() if name in COMBINED}
    if combined:
        # The plus keeps the index on the series out of it: newest first is quicker where many rows are wanted.
        column: ColumnElement[int] = table.c.series if sparse else literal_column("+series")
        query = query.where(column.in_(_series(EVERY, combined)))
    if "project" in where:
        query = query.where(table.c.project.in_(list(where["project"])))
    if "end_user" in where:
        users = [shortened(value) for value in where["end_user"]]
        query = query.where(table.c.end_user.in_(users))
        if all(users):
            query = query.where(table.c.end_user != "")  # what the index is limited to
    if "tag" in where:
        query = query.where(or_(false(), *(_tagged(table, tag) for tag in where["tag"])))
    return query


def _tagged(table: Table, tag: str) -> ColumnElement[bool]:
    """Tags are a JSON array in text: what is looked for is the string as it stands there."""
    return table.c.tags.contains(msgspec.json.encode(tag).decode(), autoescape=True)


def _series(cut: Cut, where: Where) -> Select[Any]:
    chosen = select(series.c.id).where(series.c.cut == cut.number)
    return chosen.where(*(series.c[name].in_(list(values)) for name, values in where.items()))


def _look(connection: Connection, period: Period, where: Where, limit: int) -> tuple[int, bool, bool]:
    """How far back to go for a page: ``(since_ms, sparse, more)``; ``more``: there is something before that."""
    alone: list[Dimension] = [name for name in ("tag", "project") if name in where]
    narrow = where
    if alone:
        narrow = {name: where[name] for name in where if name in ("organisation", "team", alone[0])}
    until, wanted = period.until_ms, 0
    for days in _STRIDES:
        since = max(period.since_ms, until - until % DAY_MS - days * DAY_MS)
        for start, count in _counts(connection, Period(since, until), narrow):
            wanted += count
            if wanted > limit:
                everything = sum(count for _, count in _counts(connection, Period(start, period.until_ms), {}))
                return start, wanted <= _SPARSE * everything, start > period.since_ms
        until = since
        if since == period.since_ms:
            break
    return period.since_ms, True, False


def _counts(connection: Connection, period: Period, where: Where) -> list[tuple[int, int]]:
    """Requests by day (by hour where rows are not indexed by what is asked), the latest first."""
    cut = cut_for(where)
    width = HOUR_MS if {"tag", "project"} & set(where) else DAY_MS
    table = rollup_hour if width == HOUR_MS else rollup_day
    since = period.since_ms - period.since_ms % width
    query = select(table.c.start_ms, func.sum(table.c.requests)).where(table.c.cut == cut.number)
    chosen = _series(cut, where) if where else None
    if chosen is not None and sparse(connection, cut.number, chosen):
        query = query.where(named(table, since, period.until_ms))
    else:
        query = query.where(table.c.start_ms >= since, table.c.start_ms < period.until_ms)
    if chosen is not None:
        query = query.where(table.c.series.in_(chosen))
    rows = connection.execute(query.group_by(table.c.start_ms).order_by(table.c.start_ms.desc()))
    return [(start, int(count)) for start, count in rows]
