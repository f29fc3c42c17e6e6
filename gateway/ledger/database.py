"""An engine for either database, and the one place where drivers' errors become :mod:`gateway.ledger.errors`."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from sqlalchemy import Connection, event, make_url
from sqlalchemy.exc import DataError, IntegrityError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from gateway.ledger.errors import LedgerAway, LedgerRefused

if TYPE_CHECKING:
    from threading import Thread

    import aiosqlite

BUSY_S = 5.0
REWRITE_S = 3600.0
_THREADS_END_S = 10.0
_BAD_VALUE = ("22", "23", "54")
# Deleted content is overwritten where it stood: an erasure has to leave nothing behind.
_WRITER_PRAGMAS = ("journal_mode=WAL", "synchronous=FULL", "secure_delete=ON", "cache_size=-65536")

_READER_PRAGMAS = ("query_only=ON", "cache_size=-32768")


class Threads:
    """aiosqlite's, one for each connection. A query that was cancelled goes on in its own and tells the event loop when
    it is over, which must be before the loop is.
    """

    def __init__(self) -> None:
        self._all: WeakSet[Thread] = WeakSet()

    def connect(self, *arguments: Any, **options: Any) -> aiosqlite.Connection:
        """As SQLAlchemy does it."""
        import aiosqlite

        made = aiosqlite.connect(*arguments, **options)
        thread: Thread = vars(made).get("_thread", made)  # itself a thread before 0.22
        thread.daemon = True
        self._all.add(thread)
        return made

    async def ended(self) -> None:
        """Wait for them, not without end."""
        for thread in [each for each in self._all if each.is_alive()]:
            await asyncio.to_thread(thread.join, _THREADS_END_S)


def engine(url: str, threads: Threads, *, writer: bool) -> AsyncEngine:
    """Connect lazily to ``sqlite+aiosqlite:///…`` or ``postgresql+asyncpg://…``."""
    if make_url(url).get_backend_name() == "sqlite":
        return _sqlite(url, threads, writer=writer)
    timeouts = {"timeout": BUSY_S, "command_timeout": 60.0}
    return create_async_engine(url, pool_size=2, max_overflow=2, pool_pre_ping=True, connect_args=timeouts)


def _sqlite(url: str, threads: Threads, *, writer: bool) -> AsyncEngine:
    """WAL, so that readers never wait; FULL, so that a row leaves Redis only once it survives a power cut.

    A writer begins IMMEDIATE: a transaction that reads first and writes later cannot be refused half way.
    """
    connecting = {"timeout": BUSY_S, "async_creator_fn": threads.connect}
    made = create_async_engine(url, pool_size=2, max_overflow=0, connect_args=connecting)

    def connected(connection: Any, _record: Any) -> None:
        connection.isolation_level = None
        cursor = connection.cursor()
        for pragma in _WRITER_PRAGMAS if writer else _READER_PRAGMAS:
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()
        connection.create_function("ln", 1, math.log)  # not every build of SQLite has it

    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writer else "BEGIN")

    event.listen(made.sync_engine, "connect", connected)
    event.listen(made.sync_engine, "begin", begin)
    return made


def lock_writers(connection: Connection) -> None:
    """One writing transaction at a time, also while two processes each believe that they are the leader."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7305219)")


async def overwritten(engine_: AsyncEngine, tables: Sequence[str]) -> None:
    """Let nothing that was deleted from ``tables`` be found in the database's files any longer.

    SQLite's log still holds pages as they were. PostgreSQL keeps dead rows, VACUUM frees their place and leaves their
    bytes, and its planner's statistics hold common values: so the tables are written anew, each locked meanwhile.
    """
    async with engine_.connect() as connection:
        if connection.dialect.name == "sqlite":
            await _checkpoint(connection)
        else:
            await _rewrite(connection, tables)


async def _rewrite(connection: AsyncConnection, tables: Sequence[str]) -> None:
    """Only a superuser may write PostgreSQL's statistics anew; others are told by a notice, and go on."""
    await connection.execution_options(isolation_level="AUTOCOMMIT")
    driver: Any = (await connection.get_raw_connection()).driver_connection
    for table in tables:
        await driver.execute(f'VACUUM (FULL, ANALYZE) "{table}"', timeout=REWRITE_S)
    await driver.execute("ANALYZE ledger", timeout=REWRITE_S)
    await driver.execute("VACUUM FULL pg_catalog.pg_statistic", timeout=REWRITE_S)


async def _checkpoint(connection: AsyncConnection) -> None:
    """Outside any transaction; it waits for readers for as long as a writer would wait for the lock."""
    driver: Any = (await connection.get_raw_connection()).driver_connection
    async with driver.execute("PRAGMA wal_checkpoint(TRUNCATE)") as cursor:
        busy, *_ = await cursor.fetchone()
    if busy:
        raise LedgerAway("somebody is reading the ledger: what was deleted is still in its log")


@contextmanager
def translated() -> Iterator[None]:
    """Raise LedgerRefused where the value itself is at fault, LedgerAway for all else: then nothing is given up."""
    try:
        yield
    except (DataError, IntegrityError, OverflowError) as error:
        raise LedgerRefused(_reason(error)) from error
    except (SQLAlchemyError, OSError) as error:
        state = str(getattr(getattr(error, "orig", None), "sqlstate", "") or "")
        raise (LedgerRefused if state.startswith(_BAD_VALUE) else LedgerAway)(_reason(error)) from error


def _reason(error: BaseException) -> str:
    """The driver's own words, without the statement and its values."""
    return str(getattr(error, "orig", None) or error).splitlines()[0]
