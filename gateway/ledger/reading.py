"""Answers folded from rollup cells."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, select, tuple_

from gateway.ledger import histogram, writing
from gateway.ledger.answers import (
    Breakdown,
    Dimension,
    Group,
    Line,
    Measures,
    Order,
    Page,
    Period,
    Timeline,
    Times,
    Where,
)
from gateway.ledger.rollups import COUNTERS, DIMENSIONS, Cell, Place
from gateway.ledger.tables import ledger

Placed = tuple[int, dict[str, str], Cell]
_EMPTY = Measures()


def narrowed(cells: Iterable[tuple[Place, Cell]], where: Where) -> list[Placed]:
    placed = [(start, dict(zip(DIMENSIONS, names, strict=True)), cell) for (start, names), cell in cells]
    return [one for one in placed if all(one[1].get(name) in values for name, values in where.items())]


def measures(cells: Iterable[Cell]) -> Measures:
    total = Cell(sums=[0] * len(COUNTERS))
    for cell in cells:
        total.add(cell)
    fields: dict[str, Any] = dict(zip(COUNTERS, total.sums, strict=True))
    return Measures(**fields, latency_ms=_times(total.latency), ttft_ms=_times(total.ttft))


def _times(counts: histogram.Histogram) -> Times:
    return Times(**dict(zip(("p50", "p95", "p99"), histogram.percentiles(counts), strict=True)))


def _grouped(placed: Iterable[Placed], by: Dimension | None) -> dict[str, list[Placed]]:
    groups: dict[str, list[Placed]] = {}
    for one in placed:
        groups.setdefault(one[1].get(by, "") if by else "", []).append(one)
    return groups


def breakdown(placed: Sequence[Placed], by: Dimension, order: Order, limit: int) -> Breakdown:
    groups = [Group(name, measures(one[2] for one in members)) for name, members in _grouped(placed, by).items()]
    groups.sort(key=lambda group: (-getattr(group.measures, order), group.name))
    first = tuple(groups[:limit])
    others = {group.name for group in groups[limit:]}
    rest = measures(cell for _, names, cell in placed if names.get(by, "") in others)
    return Breakdown(by=by, groups=first, rest=rest, distinct=len(groups))


def timeline(
    placed: Sequence[Placed], period: Period, by: Dimension | None, order: Order, limit: int, step_ms: int
) -> Timeline:
    starts = tuple(range(period.since_ms - period.since_ms % step_ms, period.until_ms, step_ms))
    if by is None:
        return Timeline(by=by, step_ms=step_ms, starts=starts, lines=(_line("", placed, starts, step_ms),), rest=None)
    names = [group.name for group in breakdown(placed, by, order, limit).groups]
    groups = _grouped(placed, by)
    others = [one for name, members in groups.items() if name not in names for one in members]
    return Timeline(
        by=by,
        step_ms=step_ms,
        starts=starts,
        lines=tuple(_line(name, groups[name], starts, step_ms) for name in names),
        rest=_line("", others, starts, step_ms) if others else None,
    )


def _line(name: str, placed: Sequence[Placed], starts: Sequence[int], step_ms: int) -> Line:
    steps: dict[int, list[Cell]] = {}
    for start, _, cell in placed:
        steps.setdefault(start - start % step_ms, []).append(cell)
    return Line(name, tuple(measures(steps[start]) if start in steps else _EMPTY for start in starts))


def page(connection: Connection, period: Period, where: Where, after: str | None, limit: int) -> Page:
    query = select(ledger).where(ledger.c.ts_ms >= period.since_ms, ledger.c.ts_ms < period.until_ms)
    for name, values in where.items():
        if name == "tag":
            continue
        query = query.where(ledger.c[name].in_(values))
    if after is not None:
        at, _, request_id = after.partition("-")
        query = query.where(tuple_(ledger.c.ts_ms, ledger.c.request_id) < (int(at), request_id))
    found = connection.execute(query.order_by(ledger.c.ts_ms.desc(), ledger.c.request_id.desc()).limit(limit)).all()
    rows = tuple(writing.from_row(row) for row in found)
    more = f"{rows[-1].ts_ms}-{rows[-1].request_id}" if len(rows) == limit else None
    return Page(rows, more)
