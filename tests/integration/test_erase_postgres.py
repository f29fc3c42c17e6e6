"""Somebody is erased from PostgreSQL: also from the bytes of its files, which keep what was deleted."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec
import pytest
from sqlalchemy import text

from gateway.budget.definitions import Budget
from gateway.budget.levels import FIELD
from gateway.erase import Eraser
from gateway.ledger.answers import Period
from gateway.ledger.store import SqlStore
from gateway.redis_io import client
from gateway.types import Content
from tests.support.ledger import NOON, entry, key_record
from tests.support.postgres import emptied
from tests.support.redis_server import RedisServer

EVER = Period(0, 1 << 52)
MONTH_MS = 31 * 86_400_000
WHO = {"user": "planted-user-4711", "key": "planted-key-4711"}


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    started = RedisServer(tmp_path).start()
    yield started
    started.kill()


@pytest.fixture
async def store(postgres: str) -> AsyncIterator[SqlStore]:
    made = SqlStore(await emptied(postgres))
    await made.migrate()
    yield made
    await made.close()


async def planted(store: SqlStore, who: str, name: str) -> None:
    """In rows of two months, contents, rollups, statistics and definitions."""
    field = "end_user" if who == "user" else "key_id"
    theirs = [
        entry(f"{month}-{number}", ts_ms=NOON + month * MONTH_MS + number, cost_nano=7, **{field: name})
        for month in (0, 1)
        for number in range(120)
    ]
    others = [entry(f"other-{number}", ts_ms=NOON + number, key_id="somebody-else") for number in range(120)]
    await store.append([*theirs, *others])
    kept = Content(request_id="0-0", ts_ms=NOON, expires_ms=1 << 50, prompt=b"a", answer=b"b")
    await store.put_contents([msgspec.structs.replace(kept, **{field: name})])
    await store.put_key(key_record(name, name=f"{name}-is-called-so"))
    budget = Budget(id="b1", scope="user" if who == "user" else "key", subject=name)
    await store.put_definition(f"{FIELD}b1", msgspec.json.encode(budget).decode())


async def on_disk(store: SqlStore, name: str) -> list[str]:
    """Files of tables, indices and catalogues in which it can be read."""
    async with store._engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        await connection.execute(text("ANALYZE"))
        await connection.execute(text("CHECKPOINT"))
        folder = Path(str((await connection.execute(text("SHOW data_directory"))).scalar()))
    files = [*(folder / "base").rglob("*"), *(folder / "global").rglob("*")]
    return [path.name for path in files if path.is_file() and name.encode() in path.read_bytes()]


@pytest.mark.parametrize("who", ["user", "key"])
async def test_it_is_in_none_of_its_files(store: SqlStore, redis_server: RedisServer, tmp_path: Path, who: str) -> None:
    name = WHO[who]
    await planted(store, who, name)
    if who == "user":
        await store.drop_key(name)
    before, seen = await store.totals(EVER), await on_disk(store, name)
    assert len(seen) > 4
    redis = client(redis_server.url)

    report = await Eraser(redis, store, tmp_path / "data").erase("user" if who == "user" else "key", name)

    await redis.aclose()
    assert (report.rows, report.contents, report.left) == (240, 1, ())
    assert await on_disk(store, name) == []
    assert await store.totals(EVER) == before
    assert await store.verify() == []
    assert await store.definitions() == {}
