"""The ledger's benchmark fills what it says, asks what can be answered, and its books verify."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.ledger.answers import Period
from gateway.ledger.store import SqlStore
from gateway.types import DAY_MS, HOUR_MS
from tests.bench.ledger import fill as filling
from tests.bench.ledger.questions import ask, questions

UNTIL_MS = 1_780_272_000_000 + 9 * HOUR_MS
"""2026-06-01, 09:00 UTC"""


async def filled(folder: Path, days: int) -> SqlStore:
    url, told = f"sqlite+aiosqlite:///{folder / 'ledger.sqlite3'}", list[str]()
    made = await filling.fill(url, days, UNTIL_MS, lambda what, done: told.append(what))
    assert made.written_us > 0
    assert list(dict.fromkeys(told))[-2:] == ["copying", "indexing"]
    store = SqlStore.reader(url)
    today = UNTIL_MS - UNTIL_MS % DAY_MS
    whole = (await store.totals(Period(today - days * DAY_MS, today))).requests
    assert abs(whole - days * filling.A_DAY) <= 0.1 * days * filling.A_DAY
    assert made.rows == (await store.totals(Period(0, UNTIL_MS))).requests
    assert sum([len(some) async for some in store.scan(Period(0, UNTIL_MS), batch=50_000)]) == made.rows
    span = filling.WRITTEN * DAY_MS
    some = [await store.totals(Period(today - n * span, today - (n - 1) * span)) for n in (1, 2)]
    assert some[0] == some[1]
    assert await store.verify() == []
    return store


async def test_a_small_ledger_is_filled_and_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filling, "A_DAY", 96)
    store = await filled(tmp_path, 8)
    timed = await ask(store, UNTIL_MS)
    assert {each.question for each in timed} == questions(UNTIL_MS).keys()
    await store.close()


@pytest.mark.soak
@pytest.mark.timeout(1800)
async def test_a_million_rows_verify(tmp_path: Path) -> None:
    store = await filled(tmp_path, 9)
    await store.close()
