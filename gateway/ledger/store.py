"""The books in SQL: SQLite (aiosqlite) or PostgreSQL (asyncpg), by the same statements."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from sqlalchemy import Connection, Table, delete, func, insert, select, union
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger import migrations, reading, reports, writing
from gateway.ledger.answers import Breakdown, Dimension, Measures, Order, Page, Period, Timeline, Where
from gateway.ledger.database import engine, lock_writers, translated
from gateway.ledger.errors import LedgerRefused
from gateway.ledger.rollups import DAY_MS, DIMENSIONS, HOUR_MS, Cell, Place, differences, fold
from gateway.ledger.tables import ROLLUPS, keys, ledger, rollup_day, rollup_hour, series
from gateway.types import LedgerEntry

_COUNTED = (
    *("request_id", "ts_ms", "duration_ms", "ttft_ms", "usage_source", "unpriced"),
    *("prompt_tokens", "completion_tokens", "cached_tokens", "cost_nano", "baseline_nano", "saved_nano"),
)


class KeyDefinition(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is kept of an API key, by ``hash``: SHA-256 of the key in hex; the key itself is kept nowhere.

    A rotated key has two definitions of one ``id``.
    """

    id: str
    hash: str
    created_ms: int
    prefix: str = ""
    name: str = ""
    organisation: str = "default"
    team: str = ""
    tags: tuple[str, ...] = ()
    rpm: int | None = None
    tpm: int | None = None
    concurrency: int | None = None
    budget_nano: int | None = None
    expires_ms: int | None = None
    revoked_ms: int | None = None


class SqlStore:
    """:class:`gateway.protocols.LedgerStore` over SQLAlchemy Core.

    Every method raises :class:`LedgerAway` where the database is locked, unreachable or not migrated yet, and
    :class:`LedgerRefused` where it will never take a value.
    """

    def __init__(self, url: str, *, writer: bool = True) -> None:
        self._engine = engine(url, writer=writer)

    @classmethod
    def reader(cls, url: str) -> SqlStore:
        """A store that only reads; any process may hold one. It neither makes nor changes the database."""
        return cls(url, writer=False)

    async def migrate(self) -> None:
        async with self._writing() as connection:
            await connection.run_sync(migrations.upgrade)

    async def append(self, entries: Sequence[LedgerEntry]) -> int:
        if not entries:
            return 0
        async with self._writing() as connection:
            return await connection.run_sync(writing.append, entries)

    async def get(self, request_id: str) -> LedgerEntry | None:
        async with self._reading() as connection:
            found = await connection.execute(select(ledger).where(ledger.c.request_id == request_id))
            row = found.first()
        return None if row is None else writing.from_row(row)

    async def recent(self, limit: int = 50) -> list[LedgerEntry]:
        newest = select(ledger).order_by(ledger.c.ts_ms.desc(), ledger.c.request_id.desc()).limit(limit)
        async with self._reading() as connection:
            rows = (await connection.execute(newest)).all()
        return [writing.from_row(row) for row in rows]

    async def summary(self, since_ms: int, until_ms: int) -> Mapping[str, Any]:
        """See :func:`gateway.ledger.reports.summary`. A period begins and ends on the hour: it is widened to that."""
        since, until = since_ms - since_ms % HOUR_MS, until_ms + -until_ms % HOUR_MS
        cells: list[tuple[Place, Cell]] = []
        async with self._reading() as connection:
            for table, start, end in _parts(since, until):
                cells += await connection.run_sync(_cells, table, start, end)
        return reports.summary(cells, since, until)

    async def totals(self, period: Period, where: Where | None = None) -> Measures:
        """What the requests of a period come to."""
        return reading.measures(cell for _, _, cell in await self._chosen(period, where or {}))

    async def breakdown(
        self, period: Period, by: Dimension, where: Where | None = None, *, order: Order = "cost_nano", limit: int = 20
    ) -> Breakdown:
        """The first ``limit`` values of ``by``, most of ``order`` first."""
        return reading.breakdown(await self._chosen(period, where or {}), by, order, limit)

    async def timeline(
        self,
        period: Period,
        by: Dimension | None = None,
        where: Where | None = None,
        *,
        order: Order = "cost_nano",
        limit: int = 8,
        step_ms: int | None = None,
    ) -> Timeline:
        """Measures over time, in steps of an hour up to two days and of a day beyond, unless ``step_ms`` says which."""
        step = step_ms or (HOUR_MS if period.until_ms - period.since_ms <= 2 * DAY_MS else DAY_MS)
        return reading.timeline(await self._chosen(period, where or {}), period, by, order, limit, step)

    async def rows(
        self, period: Period, where: Where | None = None, *, after: str | None = None, limit: int = 50
    ) -> Page:
        """Rows of a period, newest first, from where the page before left off (``after`` = its ``next``)."""
        async with self._reading() as connection:
            return await connection.run_sync(reading.page, period, where or {}, after, limit)

    async def _chosen(self, period: Period, where: Where) -> list[reading.Placed]:
        cells: list[tuple[Place, Cell]] = []
        async with self._reading() as connection:
            for table, start, end in _parts(period.since_ms, period.until_ms):
                cells += await connection.run_sync(_cells, table, start, end)
        return reading.narrowed(cells, where)

    async def spent(self) -> dict[str, int]:
        """Nano-dollars each key has spent since the books began."""
        sums = select(series.c.key_id, func.sum(rollup_day.c.cost_nano)).join_from(rollup_day, series)
        async with self._reading() as connection:
            rows = await connection.execute(sums.group_by(series.c.key_id))
            return {key_id: int(nano) for key_id, nano in rows}

    async def put_key(self, record: Mapping[str, Any]) -> None:
        try:
            definition = msgspec.convert(record, KeyDefinition)
        except msgspec.ValidationError as error:
            raise LedgerRefused(f"not the definition of a key: {error}") from None
        row = msgspec.structs.asdict(definition) | {"tags": msgspec.json.encode(definition.tags).decode()}
        async with self._writing() as connection:
            await connection.execute(delete(keys).where(keys.c.hash == definition.hash))
            await connection.execute(insert(keys), [row])

    async def keys(self) -> list[dict[str, Any]]:
        async with self._reading() as connection:
            rows = await connection.execute(select(keys).order_by(keys.c.created_ms, keys.c.hash))
            return [dict(row._mapping) | {"tags": msgspec.json.decode(row.tags)} for row in rows]

    async def verify(self) -> list[dict[str, Any]]:
        """Where the rollups do not equal the rows, as ``{table, start_ms, series, rows, rollup}``; empty when right."""
        wrong: list[dict[str, Any]] = []
        async with self._reading(snapshot=True) as connection:
            for day in await _days(connection):
                wrong += await connection.run_sync(_verify_day, day)
        return wrong

    async def close(self) -> None:
        await self._engine.dispose()

    @asynccontextmanager
    async def _writing(self) -> AsyncIterator[AsyncConnection]:
        with translated():
            async with self._engine.begin() as connection:
                await connection.run_sync(lock_writers)
                yield connection

    @asynccontextmanager
    async def _reading(self, *, snapshot: bool = False) -> AsyncIterator[AsyncConnection]:
        with translated():
            async with self._engine.connect() as connection:
                if snapshot and connection.dialect.name == "postgresql":
                    await connection.execution_options(isolation_level="REPEATABLE READ")
                yield connection


def _parts(since: int, until: int) -> list[tuple[Table, int, int]]:
    """A period as whole days with the hours before and after them."""
    first, last = since + -since % DAY_MS, until - until % DAY_MS
    if first >= last:
        return [(rollup_hour, since, until)]
    return [(rollup_hour, since, first), (rollup_day, first, last), (rollup_hour, last, until)]


def _cells(connection: Connection, table: Table, start: int, end: int) -> list[tuple[Place, Cell]]:
    within = select(table, *(series.c[name] for name in DIMENSIONS)).join_from(table, series)
    rows = connection.execute(within.where(table.c.start_ms >= start, table.c.start_ms < end))
    return [((row.start_ms, tuple(row[-len(DIMENSIONS) :])), writing.cell(row)) for row in rows]


async def _days(connection: AsyncConnection) -> list[int]:
    """Every day that has a row or a rollup, as the epoch milliseconds it starts at."""
    starts = [ledger.c.ts_ms, *(table.c.start_ms for table, _ in ROLLUPS)]
    rows = await connection.execute(union(*(select(start - start % DAY_MS) for start in starts)))
    return sorted(row[0] for row in rows)


def _verify_day(connection: Connection, day: int) -> list[dict[str, Any]]:
    columns = [ledger.c[name] for name in (*_COUNTED, *DIMENSIONS)]
    rows = connection.execute(select(*columns).where(ledger.c.ts_ms >= day, ledger.c.ts_ms < day + DAY_MS))
    entries = [writing.from_row(row) for row in rows]
    wrong: list[dict[str, Any]] = []
    for table, width_ms in ROLLUPS:
        found = dict(_cells(connection, table, day, day + DAY_MS))
        wrong += [{"table": table.name} | each for each in differences(fold(entries, (), width_ms), found)]
    return wrong
