"""Books that are empty, over both databases: SQLite in a file and a real PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.ledger.store import SqlStore
from tests.support.postgres import emptied, migrated


@pytest.fixture(params=["sqlite", "postgresql"])
async def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database with nothing in it."""
    if request.param == "sqlite":
        return _file(tmp_path)
    return await emptied(request.getfixturevalue("postgres"))


@pytest.fixture(params=["sqlite", "postgresql"])
async def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Books without a row."""
    if request.param == "postgresql":
        return await migrated(request.getfixturevalue("postgres"))
    store = SqlStore(_file(tmp_path))
    await store.migrate()
    await store.close()
    return _file(tmp_path)


@pytest.fixture
async def store(url: str) -> AsyncIterator[SqlStore]:
    made = SqlStore(url)
    yield made
    await made.close()


def _file(folder: Path) -> str:
    return f"sqlite+aiosqlite:///{folder / 'ledger.sqlite3'}"
