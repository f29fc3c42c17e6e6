"""Books as a company's would be: teams with keys, keys with users and habits.

A tenth of the days is written as the writer writes; the others are copies of it, made in the database, rollups too.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator

import msgspec
from sqlalchemy import Connection

from gateway.ledger import months
from gateway.ledger.rollups import DAY_MS
from gateway.ledger.store import SqlStore
from gateway.ledger.tables import ledger, rollup_day, rollup_hour
from gateway.types import LedgerEntry, Status, Where

A_DAY = 111_111
"""Requests a day: ten million in 90 days."""
TEAMS, KEYS_EACH, USERS_EACH = 12, 12, 70
BATCH = 5_000
_MODELS: tuple[tuple[str, Where, int], ...] = (
    ("local-small", "local", 0),
    ("gpt-4o-mini", "hosted", 21_000),
    ("claude", "hosted", 900_000),
)
_RULES = ("easy", "tools", "hard", "stays-here")
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


def entries(rows: int, until_ms: int, chance: random.Random) -> Iterator[LedgerEntry]:
    """The ``rows`` requests before ``until_ms``, ``A_DAY`` of them a day, in the order of time."""
    step = DAY_MS / A_DAY
    begin = until_ms - rows * step
    for number in range(rows):
        team = int(chance.random() ** 2 * TEAMS)
        key = int(chance.random() ** 2 * KEYS_EACH)
        model, served, price = _MODELS[(key + int(chance.random() * 1.3)) % 3]
        hit = chance.random() < 0.2
        prompt, completion = chance.randrange(20, 1500), chance.randrange(1, 500)
        cost = 0 if hit else (prompt + 4 * completion) * price // 1000
        decision = {"rule": _RULES[key % 4], "targets": [model, "claude"], "difficulty": 0.41}
        yield LedgerEntry(
            request_id=f"req_{number:024x}",
            ts_ms=int(begin + number * step),
            team=f"team-{team}",
            key_id=f"key-{team}-{key}",
            project=f"project-{team % 4}" if key % 3 == 0 else "",
            end_user=f"user-{team}-{key}-{int(chance.random() ** 2 * USERS_EACH)}" if key % 2 else "",
            tags=(f"tag-{key}",) if key % 2 == 0 else (),
            policy="default@5c1f0e9ab2d7",
            rule="cache" if hit else _RULES[key % 4],
            requested_model="auto",
            model=model,
            provider="openai",
            served="cache" if hit else served,
            cache=chance.choice(("exact", "semantic")) if hit else "miss",
            stream=True,
            status=_STATUSES[int(chance.random() * 100)],
            prompt_tokens=prompt,
            completion_tokens=completion,
            usage_source="none" if hit else "reported",
            cost_nano=cost,
            baseline_nano=(prompt + 4 * completion) * 21,
            saved_nano=(prompt + 4 * completion) * 21 - cost,
            reserved_nano=cost * 3,
            price_source="map",
            price_date="2026-01-01",
            ttft_ms=chance.lognormvariate(5, 0.8),
            duration_ms=chance.lognormvariate(7, 0.8),
            overhead_ms=2.5,
            tokens_per_s=60.0,
            difficulty=0.41,
            detail={"features": _FEATURES, "local_only": False, "decision": decision, "attempts": []},
        )


async def fill(store: SqlStore, days: int, until_ms: int, tell: Callable[[str, float], None]) -> float:
    """Rows for ``days`` days. Returns the CPU of this process that a written row took, in microseconds."""
    some = max(1, days // 10)
    spent, done, batch = 0.0, 0, list[bytes]()
    for entry in entries(some * A_DAY, until_ms - (days - some) * DAY_MS, random.Random(7)):
        batch.append(msgspec.json.encode(entry))
        if len(batch) == BATCH:
            spent += await _write(store, batch)
            done += len(batch)
            batch = []
            tell("writing", done / (some * A_DAY))
    spent += await _write(store, batch)
    copies = days // some - 1
    for copy in range(1, copies + 1):
        await store._write(_copy, copy, copy * some * DAY_MS)
        tell("copying", copy / copies)
    return spent / (some * A_DAY) * 1e6


async def _write(store: SqlStore, batch: list[bytes]) -> float:
    began = time.process_time()
    await store.append_encoded(batch)
    return time.process_time() - began


def _copy(connection: Connection, number: int, shift_ms: int) -> None:
    """All rows of the first tenth again, ``shift_ms`` later, and their cells."""
    first = "request_id LIKE 'req_0%'"
    ends = connection.exec_driver_sql(f"SELECT min(ts_ms), max(ts_ms) FROM ledger WHERE {first}").one()
    days = range(ends[0] + shift_ms, ends[1] + shift_ms, DAY_MS)
    wanted = {months.month_of(at) for at in (*days, ends[1] + shift_ms)}
    months.ensure(connection, wanted)
    columns = ", ".join(ledger.c.keys())
    given = columns.replace("request_id", f"'req_{number}' || substr(request_id, 6)")
    given = given.replace("ts_ms", f"ts_ms + {shift_ms}", 1)
    for name in sorted(wanted):
        since, until = months.bounds(name)
        within = f"ts_ms >= {since - shift_ms} AND ts_ms < {until - shift_ms} AND {first}"
        connection.exec_driver_sql(f"INSERT INTO {name} ({columns}) SELECT {given} FROM ledger WHERE {within}")
    for table in (rollup_hour, rollup_day):
        columns = ", ".join(table.c.keys())
        given = columns.replace("start_ms", f"start_ms + {shift_ms}")
        within = f"start_ms <= {ends[1]}"
        connection.exec_driver_sql(
            f"INSERT INTO {table.name} ({columns}) SELECT {given} FROM {table.name} WHERE {within}"
        )
