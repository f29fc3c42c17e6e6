"""What a reader keeps of days that are over, and that it forgets it as soon as one of them changes."""

from __future__ import annotations

import gc
import random
import time
import tracemalloc
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, text

from gateway.ledger import reading
from gateway.ledger.answers import Period
from gateway.ledger.memory import Memory, held_bytes
from gateway.ledger.store import SqlStore
from gateway.ledger.tables import rollup_day, rollup_hour
from gateway.types import DAY_MS, HOUR_MS
from tests.support.ledger import entry

TODAY = int(time.time() * 1000) // DAY_MS * DAY_MS
WEEK = Period(TODAY - 6 * DAY_MS, TODAY + DAY_MS)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite+aiosqlite:///{tmp_path / 'ledger.sqlite3'}"


async def everything(reader: SqlStore) -> list[Any]:
    """The same questions a page asks, so that each is answered from memory the second time."""
    return [
        await reader.totals(WEEK),
        await reader.totals(WEEK, {"model": ("m1",)}),
        await reader.breakdown(WEEK, "key_id", limit=1),
        await reader.breakdown(WEEK, "tag"),
        await reader.timeline(WEEK, "model", limit=1),
        await reader.split(WEEK, "rule"),
        await reader.split(WEEK, "end_user", order="requests", limit=2, lines=1),
    ]


async def test_what_is_kept_is_what_a_new_reader_finds(url: str) -> None:
    writer, reader, chance = SqlStore(url), SqlStore.reader(url), random.Random(5)
    await writer.migrate()
    number = 0
    # A row of today, late rows, feedback on an old row and an erasure: the reader follows each.
    for change in ("late", "today", "late", "rated", "erased", "rebuilt"):
        if change in ("late", "today"):
            number += 1
            back = 0 if change == "today" else chance.randrange(1, 6) * DAY_MS
            about = {
                "model": f"m{number % 2}",
                "key_id": f"k{number % 3}",
                "tags": ("a",),
                "end_user": f"u{number % 2}",
            }
            await writer.append([entry(f"r{number}", ts_ms=TODAY - back, cost_nano=chance.randrange(10**9), **about)])
        elif change == "rated":
            await writer.rate({"r1": -1.0})
        elif change == "erased":
            await writer.erase(end_user="u1")
        else:
            await writer.rebuild()
        fresh = SqlStore.reader(url)
        assert await everything(reader) == await everything(fresh), change
        assert await everything(reader) == await everything(fresh), change
        await fresh.close()
    await writer.close()
    await reader.close()


async def test_days_that_are_over_are_read_once(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    writer, reader = SqlStore(url), SqlStore.reader(url)
    await writer.migrate()
    await writer.append([entry("old", ts_ms=TODAY - 3 * DAY_MS), entry("new", ts_ms=TODAY)])
    found = await reader.totals(WEEK)
    # Behind the writer's back, so that nobody says so.
    async with writer._engine.begin() as connection:
        await connection.exec_driver_sql("UPDATE rollup_day SET requests = requests + 10")
    assert (await reader.totals(WEEK)).requests == found.requests + 10  # today's alone
    await writer.append([entry("more", ts_ms=TODAY)])
    assert (await reader.totals(WEEK)).requests == found.requests + 11
    await writer.append([entry("late", ts_ms=TODAY - 2 * DAY_MS)])
    assert (await reader.totals(WEEK)).requests == found.requests + 22
    await writer.close()
    await reader.close()


async def test_what_is_read_beside_a_change_is_not_kept(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A transaction that began before it reads the days as they were, and may end after one that began later."""
    writer, reader, memory = SqlStore(url), SqlStore.reader(url), Memory()
    await writer.migrate()
    await writer.append([entry("first", ts_ms=TODAY - 3 * DAY_MS)])

    def ask(connection: Connection) -> int:
        return reading.totals(connection, memory, WEEK, {}).requests

    async with reader._engine.connect() as before:
        assert (await before.execute(text("SELECT count(*) FROM ledger_state"))).scalar() is not None
        await writer.append([entry("late", ts_ms=TODAY - 2 * DAY_MS)])
        async with reader._engine.connect() as after:
            # It has looked, and reads on only when the later one is done.
            token = await before.run_sync(memory.look)
            assert await after.run_sync(ask) == 2
            monkeypatch.setattr(memory, "look", lambda _: token)
            assert await before.run_sync(ask) == 1
            monkeypatch.undo()
    async with reader._engine.connect() as at_last:
        assert await at_last.run_sync(ask) == 2
    await writer.close()
    await reader.close()


class Asked(list[int]):
    """What had to be found."""

    def find(self, what: int, size: int = 1) -> dict[int, int]:
        self.append(what)
        return dict.fromkeys(range(size), what)


@pytest.mark.parametrize(("after", "days"), [(0, 1), (HOUR_MS + 1, 0)])
def test_a_day_is_over_an_hour_after_midnight(after: int, days: int) -> None:
    midnight = TODAY - 30 * DAY_MS
    memory, asked, over = Memory(clock=lambda: (midnight + after) / 1000), Asked(), midnight - days * DAY_MS
    since, until = midnight - 6 * DAY_MS, midnight + DAY_MS
    parts = memory.split((rollup_day, since, until))
    assert parts == [(rollup_day, since, over), (rollup_day, over, until)]
    for part in (*parts, *parts, (rollup_hour, since, over), (rollup_hour, since, over)):
        memory.get("", part, "a question", partial(asked.find, part[1]))
    # The days that are over once; today, and hours, each time.
    assert sorted(asked) == [since, since, since, over, over]


def test_it_is_bounded() -> None:
    one = held_bytes(Asked().find(1, 4))
    memory, asked = Memory(most_bytes=2 * one), Asked()
    for number in (1, 2, 1, 3, 1, 2):
        assert len(memory.get("", (rollup_day, 0, DAY_MS), number, partial(asked.find, number, 4))) == 4
    assert asked == [1, 2, 3, 2]


async def test_what_was_read_while_another_saw_a_change_is_not_kept(url: str) -> None:
    writer, memory, asked = SqlStore(url), Memory(), Asked()
    await writer.migrate()
    await writer.append([entry("first", ts_ms=TODAY - 3 * DAY_MS)])
    part = (rollup_day, TODAY - 3 * DAY_MS, TODAY - 2 * DAY_MS)
    async with writer._engine.connect() as connection:
        before = await connection.run_sync(memory.look)
    await writer.append([entry("late", ts_ms=TODAY - 2 * DAY_MS)])
    async with writer._engine.connect() as connection:

        def look_and_find(here: Connection) -> dict[int, int]:
            def find() -> dict[int, int]:
                memory.look(here)  # as another question does between two of this one's queries
                return asked.find(1)

            return memory.get(before, part, "a question", find)

        await connection.run_sync(look_and_find)
        after = await connection.run_sync(memory.look)
    memory.get(after, part, "a question", partial(asked.find, 2))
    assert asked == [1, 2]
    await writer.close()


def _sums(number: int) -> tuple[tuple[int, str], tuple[int, ...]]:
    return (number * 10**9, f"user-{number}"), tuple(number * 10**6 + each for each in range(14))


def _histograms(number: int) -> tuple[tuple[int, str], tuple[dict[int, int], ...]]:
    return (number * 10**9, f"user-{number}"), tuple({1000 + each: number + 1000 for each in range(9)} for _ in "ab")


@pytest.mark.parametrize("made", [_sums, _histograms])
@pytest.mark.parametrize("size", [40, 5000])
def test_it_knows_how_much_memory_it_takes(made: Callable[[int], tuple[Any, Any]], size: int) -> None:
    gc.collect()
    tracemalloc.start()
    found = dict(map(made, range(1000, 1000 + size)))
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 0.7 < held_bytes(found) / taken < 1.5


def test_nothing_takes_next_to_nothing() -> None:
    assert held_bytes({}) < 100
