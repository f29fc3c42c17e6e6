"""Books as a company's would be: teams with keys, keys with users and habits, quiet nights.

The last days are written as the writer writes; those before are copies of them, made in the database, rollups too.
SQLite is hurried meanwhile: nothing is flushed to disk, and the indexes come last.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
from sqlalchemy import Connection, event

from gateway.ledger import months
from gateway.ledger.answers import Period
from gateway.ledger.standing import standing_cost
from gateway.ledger.statements import insert, is_sqlite, many
from gateway.ledger.store import SqlStore
from gateway.ledger.tables import ledger, rollup_day, rollup_hour
from gateway.types import DAY_MS, HOUR_MS, LedgerEntry, Status, Where

A_DAY = 111_111
"""Requests a day: ten million in 90 days."""
WRITTEN = 3
"""Days that are written; the others are copied."""
TEAMS, KEYS_EACH, USERS_EACH, TAGS, MODELS = 20, 15, 70, 40, 12
BATCH = 20_000
_HURRY = ("journal_mode=OFF", "synchronous=OFF", "secure_delete=OFF", "cache_size=-400000")
_RULES = ("easy", "tools", "hard", "stays-here", "long", "code", "vision", "cheap")
_STATUSES: tuple[Status, ...] = ("ok",) * 96 + ("error", "cancelled", "cancelled", "incomplete")
_FEATURES = {
    "prompt_tokens": 412,
    "max_tokens": 1024,
    "turns": 3,
    "messages": 7,
    "needs": ["tools"],
    "tags": [],
    "language": "en",
    "privacy": "",
    "question": "how",
    "words": 61,
    "stream": True,
    "quality": 5,
    "system_tokens": 120,
    "last_user_tokens": 88,
    "model": "auto",
}
Tell = Callable[[str, float], None]


class Filled(msgspec.Struct, frozen=True):
    """How many rows there are, and what of this process's CPU one that was written took (µs), rollups included."""

    rows: int
    written_us: float


def entries(since_ms: int, until_ms: int, chance: random.Random) -> Iterator[LedgerEntry]:
    """The requests between two times, in the order of time; ids follow it."""
    number = 0
    for hour in range(since_ms - since_ms % HOUR_MS, until_ms, HOUR_MS):
        many = round(A_DAY * _busy(hour))
        for n in range(many):
            ts_ms = hour + n * HOUR_MS // many
            if since_ms <= ts_ms < until_ms:
                yield _entry(number, ts_ms, chance)
                number += 1


def _busy(hour_ms: int) -> float:
    """The share of a day's requests that falls into an hour: most after noon."""
    bumps = [0.2 + math.exp(-(((hour - 13) / 4) ** 2)) for hour in range(24)]
    return bumps[hour_ms % DAY_MS // HOUR_MS] / sum(bumps)


def _entry(number: int, ts_ms: int, chance: random.Random) -> LedgerEntry:
    team, key = int(chance.random() ** 2 * TEAMS), int(chance.random() ** 2 * KEYS_EACH)
    at = (team + key + int(chance.random() ** 3 * 4)) % MODELS
    served: Where = "local" if at < 2 else "hosted"
    model, price = f"{'local' if at < 2 else 'model'}-{at}", (0 if at < 2 else 12_000 * at)
    hit, rule = chance.random() < 0.2, _RULES[(key + int(chance.random() ** 3 * 3)) % len(_RULES)]
    status: Status = "ok" if hit else _STATUSES[int(chance.random() * 100)]
    prompt, completion = chance.randrange(20, 1500), chance.randrange(1, 500)
    cost = 0 if hit else (prompt + 4 * completion) * price // 1000
    baseline = (prompt + 4 * completion) * 90
    decision = {"rule": rule, "targets": [model, "model-11"], "difficulty": 0.41}
    return LedgerEntry(
        request_id=f"req_{number:024x}",
        ts_ms=ts_ms,
        team=f"team-{team}",
        key_id=f"key-{team}-{key}",
        project=f"project-{team % 8}" if key % 3 == 0 else "",
        end_user=f"user-{team}-{key}-{int(chance.random() ** 2 * USERS_EACH)}" if key % 2 else "",
        tags=(f"tag-{(team + key) % TAGS}", "chat") if key % 2 == 0 else (),
        policy="default@5c1f0e9ab2d7" if key % 5 else "careful@09be11c0ffee",
        rule="cache" if hit else rule,
        requested_model="auto",
        model=model,
        provider="openai",
        served="cache" if hit else served,
        cache=chance.choice(("exact", "semantic")) if hit else "miss",
        stream=True,
        status=status,
        error="upstream_timeout: no answer within 30 s" if status == "error" else "",
        prompt_tokens=prompt,
        completion_tokens=completion,
        usage_source="none" if hit else "reported",
        busy_us=0 if hit or served != "local" else completion * 9000,
        cost_nano=cost,
        baseline_nano=baseline,
        saved_nano=baseline - cost,
        reserved_nano=cost * 3,
        price_source="map",
        price_date="2026-01-01",
        ttft_ms=chance.lognormvariate(0 if hit else 5, 0.8),
        duration_ms=chance.lognormvariate(1 if hit else 7, 0.8),
        overhead_ms=2.5,
        tokens_per_s=None if hit else chance.lognormvariate(4, 0.4),
        difficulty=chance.random(),
        feedback=chance.choice((1.0, 1.0, -1.0)) if chance.random() < 0.01 else None,
        detail={"features": _FEATURES, "local_only": False, "decision": decision, "attempts": []},
    )


async def fill(url: str, days: int, until_ms: int, tell: Tell) -> Filled:
    """Rows for ``days`` whole days and the one that ``until_ms`` is in, in a database that is empty."""
    store = SqlStore(url)
    await store.migrate()
    await store.close()
    with _hurried(SqlStore(url)) as store:
        today = until_ms - until_ms % DAY_MS
        written, spent = await _written(store, today - min(days, WRITTEN) * DAY_MS, until_ms, tell)
        await store._write(_copies, days, today, tell)
        await store._write(_machines, today - days * DAY_MS, until_ms)
        await store.close()
    store = SqlStore.reader(url)
    rows = (await store.totals(Period(until_ms - (days + 1) * DAY_MS, until_ms))).requests
    await store.close()
    return Filled(rows, spent / written * 1e6)


@contextmanager
def _hurried(store: SqlStore) -> Iterator[SqlStore]:
    def connected(connection: Any, _record: Any) -> None:
        cursor = connection.cursor()
        for pragma in _HURRY:
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    if store._engine.dialect.name == "sqlite":
        event.listen(store._engine.sync_engine, "connect", connected)
    yield store


async def _written(store: SqlStore, since_ms: int, until_ms: int, tell: Tell) -> tuple[int, float]:
    """As the writer does it. Returns how many, and the seconds of CPU of that."""
    spent, done, batch = 0.0, 0, list[bytes]()

    async def flush() -> None:
        nonlocal spent
        began = time.process_time()
        await store.append_encoded(batch)
        spent += time.process_time() - began
        batch.clear()

    for entry in entries(since_ms, until_ms, random.Random(7)):
        batch.append(msgspec.json.encode(entry))
        done += 1
        if len(batch) == BATCH:
            await flush()
            tell("writing", (entry.ts_ms - since_ms) / (until_ms - since_ms))
    await flush()
    return done, spent


def _machines(connection: Connection, since_ms: int, until_ms: int) -> None:
    """What the two local models' machines stood there for: whole hours, and one a day that a restart cut short."""
    rows = [
        (start, f"local-{n}", 40_000_000, HOUR_MS - 60_000 * (start % DAY_MS == 0), start + HOUR_MS, 13_000_000 + n)
        for start in range(since_ms, until_ms, HOUR_MS)
        for n in range(2)
    ]
    many(connection, insert("standing_cost", tuple(standing_cost.c.keys())), rows)


def _copies(connection: Connection, days: int, today: int, tell: Tell) -> None:
    """The days before ``today`` again and again, further and further back."""
    since, span = today - days * DAY_MS, min(days, WRITTEN) * DAY_MS
    columns = {table.name: ", ".join(table.c.keys()) for table in (ledger, rollup_hour, rollup_day)}
    for name, times in (("ledger", "ts_ms"), ("rollup_hour", "start_ms"), ("rollup_day", "start_ms")):
        connection.exec_driver_sql(
            f"CREATE TEMPORARY TABLE copied_{name} AS SELECT {columns[name]} FROM {name}"
            f" WHERE {times} >= {today - span} AND {times} < {today}"
        )
    wanted = {months.month_of(day) for day in range(since, today, DAY_MS)}
    months.ensure(connection, wanted)
    indexes = _without_indexes(connection, wanted)
    for copy in range(1, -(-days * DAY_MS // span)):
        back = copy * span
        given = columns["ledger"].replace("request_id", f"'req_{copy:02}' || substr(request_id, 7)")
        for month in sorted(wanted):
            begin, end = months.bounds(month)
            where = f"ts_ms >= {max(begin, since) + back} AND ts_ms < {end + back}"
            into = f"INSERT INTO {month} ({columns['ledger']})"
            given_then = given.replace("ts_ms", f"ts_ms - {back}", 1)
            connection.exec_driver_sql(f"{into} SELECT {given_then} FROM copied_ledger WHERE {where}")
        for name in ("rollup_hour", "rollup_day"):
            given_then = columns[name].replace("start_ms", f"start_ms - {back}")
            connection.exec_driver_sql(
                f"INSERT INTO {name} ({columns[name]}) SELECT {given_then} FROM copied_{name}"
                f" WHERE start_ms >= {since + back} ORDER BY cut, start_ms, series"
            )
        tell("copying", min(1.0, (back + span) / (days * DAY_MS)))
    for number, statement in enumerate(indexes, 1):
        connection.exec_driver_sql(statement)
        tell("indexing", number / len(indexes))


def _without_indexes(connection: Connection, wanted: set[str]) -> list[str]:
    """Drop the indexes of these months in SQLite; returns what makes them again."""
    if not is_sqlite(connection):
        return []
    query = "SELECT name, tbl_name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL"
    found = [row for row in connection.exec_driver_sql(query) if row[1] in wanted]
    for name, _, _ in found:
        connection.exec_driver_sql(f"DROP INDEX {name}")
    return [statement for _, _, statement in found]
