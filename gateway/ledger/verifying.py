"""Whether the rollups say what the rows say, and making them anew from the rows where they do not."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import Connection, Table, delete, func, select

from gateway.ledger import histogram, pages, writing
from gateway.ledger.answers import Difference, Measures
from gateway.ledger.reading import measures
from gateway.ledger.rollups import COMBINED, COUNTERS, CUTS, DAY_MS, DIMENSIONS, FACTS, Cell, Cells, Facts, fold
from gateway.ledger.statements import many
from gateway.ledger.tables import rollup_day, rollup_hour, series

_CUTS = {cut.number: cut for cut in CUTS}
_OWN = {cut.number: [DIMENSIONS.index(name) for name in cut.names] for cut in CUTS}
_CHUNK = 10_000


def days(connection: Connection, since_ms: int, until_ms: int) -> range:
    """The days of a time between the first and the last that has rows or hours; without rows none can be verified."""
    ends: list[int] = []
    for start in (rollup_hour.c.start_ms, *(table.c.ts_ms for table in pages.tables(connection, since_ms, until_ms))):
        for end in (func.min(start), func.max(start)):
            ends += [at for at in connection.execute(select(end)).scalars() if at is not None]
    first, last = (max(min(ends), since_ms), min(max(ends), until_ms - 1)) if ends else (0, -1)
    return range(first - first % DAY_MS, last + 1, DAY_MS)


def verify_day(connection: Connection, day: int) -> list[Difference]:
    hours, days_ = fold(_facts(connection, day))
    return _compared(connection, rollup_hour, day, hours) + _compared(connection, rollup_day, day, days_)


def rebuild_day(connection: Connection, day: int) -> None:
    """Make a day's rollups from its rows, and let each row carry its series."""
    hours, days_ = fold(_facts(connection, day))
    for table in (rollup_hour, rollup_day):
        within = (table.c.cut.in_(list(_OWN)), table.c.start_ms >= day, table.c.start_ms < day + DAY_MS)
        connection.execute(delete(table).where(*within))
    ids = writing.series_ids(connection, hours.keys() | days_.keys())
    writing.add_cells(connection, "rollup_hour", hours, ids)
    writing.add_cells(connection, "rollup_day", days_, ids)
    _restate_series(connection, day, ids)


def _facts(connection: Connection, day: int) -> Iterator[Facts]:
    for table in pages.tables(connection, day, day + DAY_MS):
        query = select(*(table.c[name] for name in FACTS)).where(table.c.ts_ms >= day, table.c.ts_ms < day + DAY_MS)
        for some in connection.execute(query).partitions(_CHUNK):
            yield from map(tuple, some)


def _restate_series(connection: Connection, day: int, ids: dict[str, int]) -> None:
    for table in pages.tables(connection, day, day + DAY_MS):
        columns = [table.c[name] for name in ("request_id", "ts_ms", "series", *COMBINED)]
        query = select(*columns).where(table.c.ts_ms >= day, table.c.ts_ms < day + DAY_MS)
        changes = []
        for request_id, ts_ms, number, *names in connection.execute(query):
            right = ids[writing.name_of(0, tuple(names))]
            if right != number:
                changes.append((right, request_id, ts_ms))
        many(connection, f"UPDATE {table.name} SET series = ? WHERE request_id = ? AND ts_ms = ?", changes)


def _compared(connection: Connection, table: Table, day: int, expected: Cells) -> list[Difference]:
    found = _found(connection, table, day)
    return [
        Difference(
            table=table.name,
            start_ms=place[1],
            series=dict(zip(_CUTS[place[0]].names, place[2], strict=True)),
            rows=_told(expected.get(place)),
            rollup=_told(found.get(place)),
        )
        for place in sorted(expected.keys() | found.keys())
        if expected.get(place) != found.get(place)
    ]


def _found(connection: Connection, table: Table, day: int) -> Cells:
    """The cells of a day, of every cut."""
    names = [series.c[name] for name in DIMENSIONS]
    counters = [table.c[name] for name in COUNTERS]
    columns = (table.c.cut, table.c.start_ms, table.c.latency, table.c.ttft, *names, *counters)
    query = select(*columns).join_from(table, series, series.c.id == table.c.series)
    # The key begins with the cut: it is named so that a day is found without reading all others.
    query = query.where(table.c.cut.in_(list(_OWN)), table.c.start_ms >= day, table.c.start_ms < day + DAY_MS)
    cells: Cells = {}
    for cut, start, latency, ttft, *rest in connection.execute(query):
        values = tuple(rest[index] for index in _OWN[cut])
        sums = [int(amount) for amount in rest[len(names) :]]
        cells[cut, start, values] = Cell(sums, histogram.decode(latency), histogram.decode(ttft))
    return cells


def _told(cell: Cell | None) -> Measures | None:
    return None if cell is None else measures(tuple(cell.sums), cell.latency, cell.ttft)
