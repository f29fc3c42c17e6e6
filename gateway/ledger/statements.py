"""The writer's statements, for the driver itself: each is compiled once, and rows go to it as tuples.

SQLAlchemy's own way of binding parameters costs more a row than all the rest of writing it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import msgspec
from sqlalchemy import Connection

from gateway.ledger.rollups import COUNTERS, DIMENSIONS
from gateway.ledger.tables import ledger

SERIES_COLUMNS = ("name", "cut", *DIMENSIONS)
CELL_KEY = ("cut", "start_ms", "series")
CELL_COLUMNS = (*CELL_KEY, *COUNTERS, "latency", "ttft")


def is_sqlite(connection: Connection) -> bool:
    return connection.dialect.name == "sqlite"


def many(connection: Connection, statement: str, rows: Sequence[tuple[Any, ...]]) -> None:
    """Run a statement once a row; ``?`` stands for each value."""
    if rows:
        connection.exec_driver_sql(_numbered(statement) if not is_sqlite(connection) else statement, list(rows))


@cache
def _numbered(statement: str) -> str:
    """PostgreSQL's ``$1, $2 …`` for ``?``."""
    first, *others = statement.split("?")
    return first + "".join(f"${number}{text}" for number, text in enumerate(others, 1))


@cache
def insert(table: str, columns: tuple[str, ...]) -> str:
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"


@cache
def insert_row(table: str) -> str:
    return insert(table, tuple(ledger.c.keys()))


@cache
def add_to_cell(table: str) -> str:
    """Counters add up; histograms come whole."""
    sums = (f"{name} = {table}.{name} + excluded.{name}" for name in COUNTERS)
    changes = ", ".join((*sums, "latency = excluded.latency", "ttft = excluded.ttft"))
    return f"{insert(table, CELL_COLUMNS)} ON CONFLICT ({', '.join(CELL_KEY)}) DO UPDATE SET {changes}"


def series_ids(connection: Connection, names: Sequence[str]) -> dict[str, int]:
    """The ids of the series there are, by name."""
    if is_sqlite(connection):
        query = "SELECT name, id FROM series WHERE name IN (SELECT value FROM json_each(?))"
        rows = connection.exec_driver_sql(query, (_json(names),))
    else:
        rows = connection.exec_driver_sql("SELECT name, id FROM series WHERE name = ANY($1)", (list(names),))
    return {row[0]: row[1] for row in rows}


def put_state(connection: Connection, name: str, value: str) -> None:
    """Set one line of ``ledger_state``."""
    statement = f"{insert('ledger_state', ('name', 'value'))} ON CONFLICT (name) DO UPDATE SET value = excluded.value"
    many(connection, statement, [(name, value)])


def series_values(connection: Connection, ids: Sequence[int]) -> Sequence[Any]:
    """Id, cut and the value of every dimension, of the series there are of these."""
    query = f"SELECT id, cut, {', '.join(DIMENSIONS)} FROM series WHERE id "
    if not ids:
        return []
    if is_sqlite(connection):
        return connection.exec_driver_sql(query + "IN (SELECT value FROM json_each(?))", (_json(ids),)).all()
    return connection.exec_driver_sql(query + "= ANY($1)", (list(ids),)).all()


def statuses(connection: Connection, table: str, ids: Sequence[str], since_ms: int, until_ms: int) -> dict[str, str]:
    """``{request_id: status}`` of the rows there are already, within a time."""
    if is_sqlite(connection):
        query = f"SELECT request_id, status FROM {table} WHERE request_id IN (SELECT value FROM json_each(?))"
        rows = connection.exec_driver_sql(query, (_json(ids),))
    else:
        query = f"SELECT request_id, status FROM {table} WHERE request_id = ANY($1) AND ts_ms >= $2 AND ts_ms < $3"
        rows = connection.exec_driver_sql(query, (list(ids), since_ms, until_ms))
    return {row[0]: row[1] for row in rows}


def histograms(
    connection: Connection, table: str, places: Sequence[tuple[int, int, int]]
) -> dict[tuple[int, int, int], tuple[bytes, bytes]]:
    """What these cells have counted so far: ``{(cut, start_ms, series): (latency, ttft)}``."""
    columns = "r.cut, r.start_ms, r.series, r.latency, r.ttft"
    if is_sqlite(connection):
        parts = (f"r.{name} = json_extract(k.value, '$[{index}]')" for index, name in enumerate(CELL_KEY))
        query = f"SELECT {columns} FROM json_each(?) k CROSS JOIN {table} r ON {' AND '.join(parts)}"
        rows = connection.exec_driver_sql(query, (_json(places),))
    else:
        wanted = "unnest($1::smallint[], $2::bigint[], $3::int[]) AS k(cut, start_ms, series)"
        query = f"SELECT {columns} FROM {wanted} JOIN {table} r USING (cut, start_ms, series)"
        rows = connection.exec_driver_sql(query, tuple(map(list, zip(*places, strict=True))))
    return {(row[0], row[1], row[2]): (row[3], row[4]) for row in rows}


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
