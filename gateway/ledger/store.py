"""The books in SQL: SQLite (aiosqlite) or PostgreSQL (asyncpg), by the same statements."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from sqlalchemy import Connection, delete, func, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.key_definition import KeyDefinition
from gateway.ledger import (
    arms,
    contents,
    definitions,
    erasing,
    migrations,
    months,
    pages,
    reading,
    rebuilding,
    standing,
    summary,
    writing,
)
from gateway.ledger.answers import (
    Breakdown,
    Difference,
    Dimension,
    Erased,
    Measures,
    Order,
    Page,
    Period,
    Timeline,
    Where,
)
from gateway.ledger.database import Threads, engine, lock_writers, overwritten, translated
from gateway.ledger.definitions import Steps
from gateway.ledger.errors import LedgerRefused
from gateway.ledger.memory import Memory
from gateway.ledger.rollups import BY_KEY, CUTS, Cut
from gateway.ledger.rows import entry_of, parse
from gateway.ledger.standing import Hour
from gateway.ledger.tables import keys, ledger, rollup_day, rollup_hour, series, state
from gateway.types import DAY_MS, HOUR_MS, Content, LedgerEntry

if TYPE_CHECKING:
    from gateway.ledger.places import Places

_T = TypeVar("_T")
_EVER = (0, 1 << 53)
# Tables beside the months of rows in which somebody's name may stand.
_NAMING = ("contents", "definitions", "keys", "rollup_day", "rollup_hour", "series")
_LISTS = ("tags", "models", "policies", "allowed_tags")


class _Key(KeyDefinition, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A row of ``keys``."""


class SqlStore:
    """:class:`gateway.protocols.LedgerStore` over SQLAlchemy Core.

    Every method raises :class:`LedgerAway` where the database is locked, unreachable or not migrated yet, and
    :class:`LedgerRefused` where it will never take a value. What answers a question raises ValueError where the
    rollups are not kept by the dimensions it combines.
    """

    def __init__(self, url: str, *, writer: bool = True) -> None:
        self._threads = Threads()
        self._engine = engine(url, self._threads, writer=writer)
        self._memory = Memory()

    @classmethod
    def reader(cls, url: str) -> SqlStore:
        """A store that only reads; any process may hold one. It neither makes nor changes the database."""
        return cls(url, writer=False)

    async def close(self) -> None:
        """Also what a query that was cancelled has left behind."""
        await self._engine.dispose()
        await self._threads.ended()

    # Writing

    async def migrate(self) -> None:
        """Bring the schema to the newest version; rollups that a new version counts differently are made anew."""
        await self._write(migrations.upgrade)
        if await self._read(_state, "rebuild"):
            await self.rebuild()
            await self._write(_forget_state, "rebuild")

    async def append(self, entries: Sequence[LedgerEntry]) -> int:
        with translated():
            return await self.append_encoded([msgspec.json.encode(entry) for entry in entries])

    async def append_encoded(self, entries: Sequence[bytes]) -> int:
        """What :meth:`append` does, for the JSON of entries as they come from the stream."""
        try:
            rows = [parse(entry) for entry in entries]
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise LedgerRefused(f"not a ledger entry: {error}") from None
        return await self._write(writing.append, rows) if rows else 0

    async def rate(self, scores: Mapping[str, float]) -> list[str]:
        """Put feedback (−1 … 1 by request id) on rows; the last counts. Returns the requests that have no row."""
        return await self._write(writing.rate, scores)

    async def put_contents(self, kept: Sequence[Content]) -> None:
        await self._write(contents.put, kept)

    async def rebuild(self, since_ms: int = _EVER[0], until_ms: int = _EVER[1]) -> int:
        """Make the rollups of the days in a time from their rows, a day a transaction. Returns how many days."""
        days = await self.days(since_ms, until_ms)
        for day in days:
            await self._write(rebuilding.rebuild_day, day)
        return len(days)

    async def forget(self, rows_before_ms: int, now_ms: int) -> list[str]:
        """Retention: drop the months of rows that lie wholly before a moment, with their hours (days stay), and the
        contents whose time is over. Returns the months dropped. Nobody waits for it: see :mod:`gateway.ledger.months`.
        """
        over = await self._read(months.over, rows_before_ms)
        for name in over:
            for cut in CUTS:
                await self._write(_drop_hours, cut, *months.bounds(name))
            await self._drop_month(name)
        while await self._write(contents.expire, now_ms):
            pass
        return over

    async def erase(self, *, end_user: str | None = None, key_id: str | None = None) -> Erased:
        """Take an end user or a key out of the books: see :mod:`gateway.ledger.erasing`."""
        assert (end_user is None) != (key_id is None), "one of the two"
        who, name = ("end_user", end_user) if end_user is not None else ("key_id", key_id)
        erased = await self._write(erasing.erase, who, name)
        with translated():
            await overwritten(self._engine, (*_NAMING, *erased.months))
        await self._write(_forget_state, erasing.UNWRITTEN)
        return erased

    async def drop_key(self, key_id: str) -> None:
        """Forget a key's definitions; its rows are :meth:`erase`'s."""
        async with self._writing() as connection:
            await connection.execute(delete(keys).where(keys.c.id == key_id))

    async def put_key(self, record: Mapping[str, Any]) -> None:
        try:
            definition = msgspec.convert(record, _Key)
        except msgspec.ValidationError as error:
            raise LedgerRefused(f"not the definition of a key: {error}") from None
        row = msgspec.structs.asdict(definition)
        row |= {name: msgspec.json.encode(row[name]).decode() for name in _LISTS}
        async with self._writing() as connection:
            await connection.execute(delete(keys).where(keys.c.hash == definition.hash))
            await connection.execute(insert(keys), [row])

    async def put_definition(self, field: str, value: str) -> None:
        await self._write(definitions.put, field, value)

    async def keep_standing(
        self, rates: Mapping[str, int], now_ms: int, busy_nano: Mapping[int, Mapping[str, int]]
    ) -> None:
        """See :func:`gateway.ledger.standing.keep`."""
        await self._write(standing.keep, rates, now_ms, busy_nano)

    # Reading

    async def standing(self, since_ms: int, until_ms: int) -> list[Hour]:
        """What machines cost by the hour, oldest first."""
        return await self._read(standing.hours, since_ms, until_ms)

    async def standing_days(self, since_ms: int, until_ms: int) -> list[Hour]:
        """See :func:`gateway.ledger.standing.days`."""
        return await self._read(standing.days, since_ms, until_ms)

    async def get(self, request_id: str) -> LedgerEntry | None:
        async with self._reading() as connection:
            row = (await connection.execute(select(ledger).where(ledger.c.request_id == request_id))).first()
        return None if row is None else entry_of(dict(row._mapping))

    async def content(self, request_id: str) -> Content | None:
        return await self._read(contents.get, request_id)

    async def recent(self, limit: int = 50) -> list[LedgerEntry]:
        return list((await self.rows(Period(*_EVER), limit=limit)).rows)

    async def rows(
        self, period: Period, where: Where | None = None, *, after: str | None = None, limit: int = 50
    ) -> Page:
        """Rows of a period, newest first, from where the page before left off (``after`` = its ``next``)."""
        return await self._read(pages.newest, period, where or {}, after, limit)

    async def scan(
        self, period: Period, where: Where | None = None, *, batch: int = 1000
    ) -> AsyncIterator[list[LedgerEntry]]:
        """All rows of a period in the order of time, some at once. What is written meanwhile may or may not be seen."""
        after: pages.Mark | None = None
        while some := await self._read(pages.oldest, period, where or {}, after, batch):
            yield some
            after = (some[-1].ts_ms, some[-1].request_id)

    async def totals(self, period: Period, where: Where | None = None) -> Measures:
        """What the requests of a period come to."""
        return await self._read(reading.totals, self._memory, period, where or {})

    async def breakdown(
        self, period: Period, by: Dimension, where: Where | None = None, *, order: Order = "cost_nano", limit: int = 20
    ) -> Breakdown:
        """The first ``limit`` values of ``by``, most of ``order`` first."""
        return await self._read(reading.breakdown, self._memory, period, by, where or {}, order, limit)

    async def timeline(
        self,
        period: Period,
        by: Dimension | None = None,
        where: Where | None = None,
        *,
        order: Order = "cost_nano",
        limit: int = 8,
        step_ms: int | None = None,
        brief: bool = False,
        like: Breakdown | None = None,
    ) -> Timeline:
        """Measures over time, in steps of an hour up to two days and of a day beyond, unless ``step_ms`` says which.

        ``brief``: only requests, errors, cost, baseline, saved and what ``order`` says; all else is 0 or None.
        ``like``: the breakdown of the same question, where it is known: which values come first is not asked again.
        """
        step = step_ms or _step(period)
        return await self._read(
            reading.timeline, self._memory, period, by, where or {}, order, limit, step, brief, like
        )

    async def split(
        self,
        period: Period,
        by: Dimension,
        where: Where | None = None,
        *,
        order: Order = "cost_nano",
        limit: int = 20,
        lines: int = 8,
    ) -> tuple[Breakdown, Timeline]:
        """The breakdown, and the brief timeline of its ``lines`` dearest values, from one reading where it can be."""
        step = _step(period)
        return await self._read(reading.split, self._memory, period, by, where or {}, order, limit, step, lines)

    async def summary(self, since_ms: int, until_ms: int) -> Mapping[str, Any]:
        """See :func:`gateway.ledger.summary.summary`."""
        return await self._read(summary.summary, self._memory, Period(since_ms, until_ms))

    async def spent(self) -> dict[str, int]:
        """Nano-dollars each key has spent since the books began."""
        sums = select(series.c.key_id, func.sum(rollup_day.c.cost_nano)).join_from(
            rollup_day, series, series.c.id == rollup_day.c.series
        )
        async with self._reading() as connection:
            rows = await connection.execute(sums.where(rollup_day.c.cut == BY_KEY.number).group_by(series.c.key_id))
            return {key_id: int(nano) for key_id, nano in rows}

    async def keys(self) -> list[dict[str, Any]]:
        async with self._reading() as connection:
            rows = await connection.execute(select(keys).order_by(keys.c.created_ms, keys.c.hash))
            return [
                dict(row._mapping) | {name: msgspec.json.decode(row._mapping[name]) for name in _LISTS} for row in rows
            ]

    async def definitions(self) -> dict[str, str]:
        return await self._read(definitions.everything)

    async def experiment(
        self, prefix: str, by: arms.By, since_ms: int | None, until_ms: int
    ) -> tuple[int, Mapping[str, Mapping[str, arms.Sums]]]:
        """When the rows begin whose tag begins with ``prefix`` (not before ``since_ms``), and their
        :func:`gateway.ledger.arms.sums`.
        """
        began = await self._read(arms.began, prefix)
        since = max(began if began is not None else until_ms, since_ms or 0)
        return since, await self._read(arms.sums, prefix, by, since, until_ms)

    async def spent_by(self, budget: Mapping[str, Any], since_ms: int, width_ms: int | None) -> Steps:
        """See :func:`gateway.ledger.definitions.spent`."""
        return await self._read(definitions.spent, budget, since_ms, width_ms)

    async def days(self, since_ms: int = _EVER[0], until_ms: int = _EVER[1]) -> range:
        """The days (their first ms) that can be verified: from the first row to the last."""
        return await self._read(rebuilding.days, since_ms, until_ms)

    async def verify(
        self, since_ms: int = _EVER[0], until_ms: int = _EVER[1], tell: Callable[[int, int], None] | None = None
    ) -> list[Difference]:
        """Where the rollups do not say what the rows say, day by day; empty when all is right.

        A day is read as it stands at one moment, so it may be asked while rows are written. ``tell`` is called with
        the number of days done and that of all days, before the first and after each.
        """
        from gateway.ledger.places import Places

        wrong: list[Difference] = []
        days, places = await self.days(since_ms, until_ms), Places()
        for done, day in enumerate(days):
            if tell:
                tell(done, len(days))
            found = await self._verify_day(day, places := Places() if places.full else places)
            if found:  # names that were erased meanwhile are another's now
                found = await self._verify_day(day, places := Places())
            wrong += found
        if tell:
            tell(len(days), len(days))
        return wrong

    async def _verify_day(self, day: int, places: Places) -> list[Difference]:
        from gateway.ledger import verifying

        async with self._reading(snapshot=True) as connection:
            return await connection.run_sync(verifying.verify_day, day, places)

    async def _drop_month(self, name: str) -> None:
        if self._engine.dialect.name == "sqlite":
            await self._write(months.drop_from_sqlite, name)
            return
        with translated():
            async with self._engine.connect() as connection:
                await connection.execution_options(isolation_level="AUTOCOMMIT")
                await months.drop_from_postgresql(connection, name)

    async def _write(self, work: Callable[..., _T], *arguments: Any) -> _T:
        async with self._writing() as connection:
            return await connection.run_sync(work, *arguments)

    async def _read(self, work: Callable[..., _T], *arguments: Any) -> _T:
        async with self._reading() as connection:
            return await connection.run_sync(work, *arguments)

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


def _step(period: Period) -> int:
    return HOUR_MS if period.until_ms - period.since_ms <= 2 * DAY_MS else DAY_MS


def _drop_hours(connection: Connection, cut: Cut, since_ms: int, until_ms: int) -> None:
    cells = rollup_hour.c
    within = (cells.cut == cut.number, cells.start_ms >= since_ms, cells.start_ms < until_ms)
    connection.execute(delete(rollup_hour).where(*within))


def _state(connection: Connection, name: str) -> str | None:
    return connection.execute(select(state.c.value).where(state.c.name == name)).scalar()


def _forget_state(connection: Connection, name: str) -> None:
    connection.execute(delete(state).where(state.c.name == name))
