"""The ledger's benchmark fills what it says, asks what can be answered, and its books verify."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.ledger.answers import Period
from gateway.ledger.rollups import DAY_MS
from gateway.ledger.store import SqlStore
from tests.bench.ledger import fill as filling
from tests.bench.ledger.__main__ import UNTIL_MS
from tests.bench.ledger.questions import ask, questions


async def filled(folder: Path, days: int) -> None:
    store = SqlStore(f"sqlite+aiosqlite:///{folder / 'ledger.sqlite3'}")
    await store.migrate()
    told: list[tuple[str, float]] = []
    cost = await filling.fill(store, days, UNTIL_MS, lambda what, done: told.append((what, done)))
    assert cost > 0
    assert told[-1] == ("copying", 1.0)
    since = UNTIL_MS - days * DAY_MS
    for day in range(since, UNTIL_MS, DAY_MS):
        assert abs((await store.totals(Period(day, day + DAY_MS))).requests - filling.A_DAY) <= 1
    assert (await store.totals(Period(since, UNTIL_MS))).requests == days * filling.A_DAY
    timed = await ask(store, UNTIL_MS)
    assert {each.question for each in timed} == questions(UNTIL_MS).keys()
    assert await store.verify() == []
    await store.close()


async def test_a_small_ledger_is_filled_and_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filling, "A_DAY", 40)
    await filled(tmp_path, 20)


@pytest.mark.soak
@pytest.mark.timeout(1800)
async def test_a_million_rows_verify(tmp_path: Path) -> None:
    await filled(tmp_path, 10)
