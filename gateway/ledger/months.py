"""Rows by month: where a month's rows are, how a month comes and how it goes, in either database.

Nothing here waits for readers for longer than an empty table takes to be linked: PostgreSQL attaches a table made
beforehand and detaches one CONCURRENTLY; in SQLite's WAL mode readers do not notice.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING

from sqlalchemy import Connection, MetaData, Table
from sqlalchemy.schema import CreateTable
from sqlalchemy.sql import quoted_name

from gateway.ledger.errors import LedgerRefused
from gateway.ledger.tables import ledger
from gateway.types import DAY_MS

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

NAME = re.compile(r"ledger_(?P<year>\d{4})_(?P<month>\d{2})")
_FIRST_DAY, _LAST_DAY = 365 * 30 + 7, 365 * 230 + 55
"""2000-01-01 and 2200-01-01, in days since 1970."""
_LIST = {
    # The count is there to fail where nothing has been migrated yet.
    "sqlite": "SELECT name FROM sqlite_master WHERE type = 'table' AND name GLOB 'ledger_[0-9]*'"
    " AND (SELECT count(*) FROM ledger_state) >= 0 ORDER BY name",
    "postgresql": "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid"
    " WHERE i.inhparent = to_regclass('ledger') AND NOT i.inhdetachpending ORDER BY 1",
}


def month_of(ts_ms: int) -> str:
    """The name of the table that holds this moment. Raises LedgerRefused for times no gateway can have seen."""
    return _month_of_day(ts_ms // DAY_MS)


@lru_cache(1024)
def _month_of_day(day: int) -> str:
    if not _FIRST_DAY <= day < _LAST_DAY:
        raise LedgerRefused(f"no month for day {day} since 1970")
    at = datetime.fromtimestamp(day * DAY_MS // 1000, UTC)
    return f"ledger_{at.year:04}_{at.month:02}"


def bounds(name: str) -> tuple[int, int]:
    """The first millisecond of a month, and that of the next."""
    found = NAME.fullmatch(name)
    assert found, name
    year, month = int(found["year"]), int(found["month"])
    ends = datetime(year, month, 1, tzinfo=UTC), datetime(year + month // 12, month % 12 + 1, 1, tzinfo=UTC)
    return int(ends[0].timestamp() * 1000), int(ends[1].timestamp() * 1000)


def months_before(now_ms: int, count: int) -> int:
    """The beginning of the month that lies ``count`` months before the running one, epoch ms."""
    now = datetime.fromtimestamp(now_ms / 1000, UTC)
    month = now.year * 12 + now.month - 1 - count
    return int(datetime(month // 12, month % 12 + 1, 1, tzinfo=UTC).timestamp() * 1000)


def existing(connection: Connection) -> list[str]:
    """The months there are, oldest first."""
    return [str(row[0]) for row in connection.exec_driver_sql(_LIST[connection.dialect.name])]


def within(connection: Connection, since_ms: int, until_ms: int) -> list[str]:
    """The months that a time touches, oldest first."""
    spans = {name: bounds(name) for name in existing(connection)}
    return [name for name, (begin, end) in spans.items() if begin < until_ms and since_ms < end]


def ensure(connection: Connection, wanted: Iterable[str]) -> None:
    """Make the months that are missing."""
    missing = sorted(set(wanted) - set(existing(connection)))
    for name in missing:
        if connection.dialect.name == "postgresql":
            begin, end = bounds(name)
            connection.exec_driver_sql(f"CREATE TABLE {name} (LIKE ledger INCLUDING ALL)")
            connection.exec_driver_sql(
                f"ALTER TABLE ledger ATTACH PARTITION {name} FOR VALUES FROM ({begin}) TO ({end})"
            )
        else:
            _create_in_sqlite(connection, name)
    if missing and connection.dialect.name == "sqlite":
        show_all(connection)


def _create_in_sqlite(connection: Connection, name: str) -> None:
    made = ledger.to_metadata(MetaData(), name=name)
    connection.execute(CreateTable(made))
    for index in made.indexes:
        index.name = quoted_name(str(index.name).replace("ledger", name, 1), quote=False)
        index.create(connection)


def show_all(connection: Connection) -> None:
    """Make SQLite's view ``ledger`` show every month."""
    names = existing(connection)
    connection.exec_driver_sql("DROP VIEW IF EXISTS ledger")
    columns = ", ".join(ledger.c.keys())
    parts = [f"SELECT {columns} FROM {name}" for name in names] or [_nothing()]
    connection.exec_driver_sql("CREATE VIEW ledger AS " + " UNION ALL ".join(parts))


def _nothing() -> str:
    return "SELECT " + ", ".join(f"NULL AS {name}" for name in ledger.c.keys()) + " WHERE 0"  # noqa: SIM118


def over(connection: Connection, before_ms: int) -> list[str]:
    """The months that lie wholly before a moment."""
    return [name for name in existing(connection) if bounds(name)[1] <= before_ms]


def drop_from_sqlite(connection: Connection, name: str) -> None:
    connection.exec_driver_sql(f"DROP TABLE {name}")
    show_all(connection)


async def drop_from_postgresql(connection: AsyncConnection, name: str) -> None:
    """Outside a transaction, as DETACH … CONCURRENTLY asks for; one that was cut short is finished."""
    pending = "SELECT inhdetachpending FROM pg_inherits WHERE inhrelid = to_regclass($1)"
    found = (await connection.exec_driver_sql(pending, (name,))).scalar()
    if found is not None:
        how = "FINALIZE" if found else "CONCURRENTLY"
        await connection.exec_driver_sql(f"ALTER TABLE ledger DETACH PARTITION {name} {how}")
    await connection.exec_driver_sql(f"DROP TABLE IF EXISTS {name}")


@lru_cache(1024)
def table(name: str) -> Table:
    """One month of SQLite as a table of its own; the same each time, so that statements are compiled once."""
    return ledger.to_metadata(MetaData(), name=name)
