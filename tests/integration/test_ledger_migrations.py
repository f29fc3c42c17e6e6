"""Books of an older version, brought to the newest with every row and every dollar."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, text

from gateway.ledger import migrations, months
from gateway.ledger.answers import Period
from gateway.ledger.store import SqlStore
from gateway.types import DAY_MS, LedgerEntry
from tests.support.ledger import NOON, entry
from tests.support.postgres import emptied

NEW = {
    "project",
    "busy_us",
    "embedding_nano",
    "verification_nano",
    "abandoned_nano",
    "incomplete",
    "consented",
    "feedback",
}


@pytest.fixture(params=["sqlite", "postgresql"])
async def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite+aiosqlite:///{tmp_path / 'ledger.sqlite3'}"
    return await emptied(request.getfixturevalue("postgres"))


def first_version(connection: Connection, entries: list[LedgerEntry]) -> None:
    """The books as revision 0001 had them."""
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    config.attributes["connection"] = connection
    command.upgrade(config, "0001")
    for one in entries:
        row = {name: value for name, value in msgspec.structs.asdict(one).items() if name not in NEW}
        row |= {"tags": msgspec.json.encode(one.tags).decode(), "detail": msgspec.json.encode(one.detail).decode()}
        names = ", ".join(row)
        connection.execute(text(f"INSERT INTO ledger ({names}) VALUES ({', '.join(f':{name}' for name in row)})"), row)


async def test_rows_of_the_first_version_are_kept_and_counted(url: str) -> None:
    entries = [
        entry(f"r{number:02}", ts_ms=NOON + number * 3 * DAY_MS, cost_nano=number, tags=("a",), detail={"n": number})
        for number in range(30)
    ]
    store = SqlStore(url)
    async with store._engine.begin() as connection:
        await connection.run_sync(first_version, entries)

    await store.migrate()
    await store.migrate()

    assert list(reversed(await store.recent(100))) == entries
    assert (await store.totals(Period(0, 2**41))).cost_nano == sum(range(30))
    assert await store.verify() == []
    page = await store.rows(Period(0, 2**41), {"model": ("local-small",)}, limit=100)
    assert len(page.rows) == 30
    assert await store.append([entries[0], entry("new", ts_ms=NOON + 200 * DAY_MS)]) == 1
    await store.close()


async def test_books_without_a_row_are_migrated_too(url: str) -> None:
    store = SqlStore(url)
    async with store._engine.begin() as connection:
        await connection.run_sync(first_version, [])
    await store.migrate()
    assert await store.recent() == []
    assert await store.append([entry("r1")]) == 1
    await store.close()


@pytest.mark.parametrize(("kept", "begin"), [(1, 1_764_547_200_000), (12, 1_735_689_600_000), (13, 1_733_011_200_000)])
def test_whole_months_are_counted_back_from_the_running_one(kept: int, begin: int) -> None:
    assert months.months_before(NOON, kept) == begin
    assert months.bounds(months.month_of(begin))[0] == begin
