"""Making the rollups anew from the rows, day by day."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import Connection, delete, func, select

from gateway.ledger import memory, pages, writing
from gateway.ledger.rollups import COMBINED, CUTS, FACTS, Facts, fold
from gateway.ledger.statements import many
from gateway.ledger.tables import rollup_day, rollup_hour
from gateway.types import DAY_MS

_CHUNK = 10_000


def days(connection: Connection, since_ms: int, until_ms: int) -> range:
    """The days of a time between the first and the last that has rows or hours; without rows none can be verified."""
    hours = rollup_hour.c
    times = [select(table.c.ts_ms) for table in pages.tables(connection, since_ms, until_ms)]
    times += [
        select(hours.start_ms).where(hours.cut == cut.number) for cut in CUTS
    ]  # named, an index leads to the ends
    ends: list[int] = []
    for query in times:
        [time] = query.selected_columns
        for end in (func.min(time), func.max(time)):
            ends += [at for at in connection.execute(query.with_only_columns(end)).scalars() if at is not None]
    first, last = (max(min(ends), since_ms), min(max(ends), until_ms - 1)) if ends else (0, -1)
    return range(first - first % DAY_MS, last + 1, DAY_MS)


def rebuild_day(connection: Connection, day: int) -> None:
    """Make a day's rollups from its rows, and let each row carry its series."""
    hours, days_ = fold(_facts(connection, day))
    for table in (rollup_hour, rollup_day):
        within = (
            table.c.cut.in_([cut.number for cut in CUTS]),
            table.c.start_ms >= day,
            table.c.start_ms < day + DAY_MS,
        )
        connection.execute(delete(table).where(*within))
    ids = writing.series_ids(connection, hours.keys() | days_.keys())
    writing.add_cells(connection, "rollup_hour", hours, ids)
    writing.add_cells(connection, "rollup_day", days_, ids)
    _restate_series(connection, day, ids)
    memory.changed(connection, [day])


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
