"""What a page asks of the database does not grow with the rows: counted in steps of SQLite's machine, never in time.

Two books have the same hours, teams, keys …, one ten times the requests: only what reads rows can tell them apart.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import event
from sqlalchemy.pool import Pool

from gateway.dashboard.desk import Desk
from gateway.dashboard.page import DIMENSIONS
from gateway.dashboard.reader import Form, Question
from gateway.ledger.store import SqlStore
from gateway.types import DAY_MS, HOUR_MS, LedgerEntry
from tests.support.ledger import entry

TIMES = 10
EVERY = 100
NAMED = {
    "team": "team-1",
    "key_id": "key-1",
    "model": "model-1",
    "rule": "easy",
    "policy": "default",
    "served": "local",
    "cache": "miss",
    "status": "ok",
    "tag": "tag-1",
    "project": "project-1",
    "end_user": "user-1",
}
BUDGET = {
    "id": "b",
    "name": "Team 1",
    "scope": "team",
    "kind": "hard",
    "window": "this month",
    "limit_nano": 10**12,
    "spent_nano": 10**9,
    "reserved_nano": 0,
    "left_nano": 10**12 - 10**9,
    "used": 0.001,
    "held": 0.0,
    "tone": "",
    "remark": "",
    "where": {"team": ("team-1",)},
}


def asked() -> Iterator[tuple[str, Form, dict[str, str]]]:
    """Every page by every dimension, in each form."""
    yield from (("", "html", {"period": period}) for period in ("today", "7d", "30d", "90d"))
    yield "", "json", {"period": "30d"}
    for by in DIMENSIONS:
        yield "explore", "html", {"period": "30d", "by": by}
        yield "explore", "csv", {"period": "30d", "by": by, "table": f"by_{by}"}
        yield "explore", "html", {"period": "30d", by: NAMED[by]}
        yield "requests", "html", {"period": "30d", by: NAMED[by]}
    yield "explore", "html", {"period": "7d", "by": "rule", "team": "team-1", "status": "ok"}
    yield "requests", "csv", {"period": "30d"}
    yield "requests", "html", {"period": "30d", "team": "team-1", "status": "error"}
    yield "live", "html", {}
    yield "live", "json", {"key_id": "key-1"}


def named(page: str, form: Form, query: dict[str, str]) -> str:
    return " ".join((page or "overview", form, *map("=".join, query.items())))


ASKED = {named(*question): question for question in asked()}


def rows(now_ms: int, times: int) -> Iterator[LedgerEntry]:
    """Two days, each hour with the same few kinds of requests, ``times`` of each."""
    first = now_ms - now_ms % HOUR_MS - 2 * DAY_MS
    for hour, kind, n in itertools.product(range(48), range(4), range(times)):
        yield entry(
            f"{hour:02}-{kind}-{n:03}",
            ts_ms=first + hour * HOUR_MS + n * 4 + kind,
            team=f"team-{kind % 2}",
            key_id=f"key-{kind}",
            model=f"model-{kind % 2}",
            project=f"project-{kind % 2}",
            tags=(f"tag-{kind % 2}",),
            end_user=f"user-{kind % 2}",
            cache="miss",
        )


class Counted:
    """How many times SQLite's machine has taken ``EVERY`` steps."""

    def __init__(self) -> None:
        self.steps = 0

    def step(self) -> int:
        self.steps += 1
        return 0

    def connected(self, connection: Any, _record: Any) -> None:
        connection.run_async(lambda driver: driver.set_progress_handler(self.step, EVERY))


Work = Callable[[str], Any]


@asynccontextmanager
async def books(folder: Path, times: int, now_ms: int) -> AsyncIterator[Work]:
    """What a page costs over books with ``times`` requests of each kind."""
    url = f"sqlite+aiosqlite:///{folder / f'{times}.sqlite3'}"
    store = SqlStore(url)
    await store.migrate()
    await store.append(list(rows(now_ms, times)))
    await store.close()
    counted, desk = Counted(), Desk()

    async def work(name: str) -> int:
        page, form, query = ASKED[name]
        window = {"since_ms": now_ms - 5 * DAY_MS, "until_ms": now_ms + 5 * DAY_MS}
        facts = {"budgets": [BUDGET | window], "alerts": []}
        question = Question(page=page, form=form, ledger=url, role="admin", query=query, facts=facts)
        before = counted.steps
        answer = await desk.answer(question)
        assert answer.status == 200, f"{name}: {answer.body.decode()}"
        return counted.steps - before

    event.listen(Pool, "connect", counted.connected)
    try:
        await work("live html")  # the connection, and the names of keys
        yield work
    finally:
        event.remove(Pool, "connect", counted.connected)
        await desk.close()


async def test_no_page_reads_more_where_there_are_more_rows(tmp_path: Path) -> None:
    now_ms = int(time.time() * 1000)
    async with books(tmp_path, 4, now_ms) as of_few:
        few = {name: await of_few(name) for name in ASKED}
    async with books(tmp_path, 4 * TIMES, now_ms) as of_many:
        many = {name: await of_many(name) for name in ASKED}
    assert min(few.values()) > 0
    grown = {name: (few[name], many[name]) for name in ASKED if many[name] > 1.5 * few[name] + 20}
    assert grown == {}
