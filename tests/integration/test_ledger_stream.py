"""From a real Redis stream to real SQL, in one process."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
from redis.asyncio import Redis

from gateway.ledger.answers import Period
from gateway.ledger.store import SqlStore
from gateway.ledger.stream import CONSUMER, GROUP, Drain, dead_key
from gateway.redis_io import Keys
from gateway.types import Content
from tests.support.ledger import NOON, entry, key_record
from tests.support.waiting import until

KEYS = Keys()
KEPT = Content(request_id="r1", ts_ms=NOON, expires_ms=NOON + 1, prompt=b"why?", answer=b"because")


@asynccontextmanager
async def draining(drain: Drain) -> AsyncIterator[None]:
    stop = asyncio.Event()
    task = asyncio.create_task(drain.run(stop))
    yield
    stop.set()
    await asyncio.wait_for(task, 10)


async def send(redis: Redis, *request_ids: str) -> None:
    for request_id in request_ids:
        await redis.xadd(KEYS.ledger, {"e": msgspec.json.encode(entry(request_id))})


async def emptied(redis: Redis) -> None:
    async def empty() -> bool:
        return await redis.xlen(KEYS.ledger) == 0

    await until(empty)


async def test_rows_and_keys_arrive_and_the_stream_is_left_empty(redis: Redis, store: SqlStore) -> None:
    async with draining(Drain(redis, store)):
        await send(redis, "r1", "r2")
        await redis.xadd(KEYS.ledger, {"k": msgspec.json.encode(key_record("k1"))})
        await emptied(redis)
    assert {row.request_id for row in await store.recent()} == {"r1", "r2"}
    assert await store.keys() == [key_record("k1")]
    assert (await redis.xpending(KEYS.ledger, GROUP))["pending"] == 0


async def test_what_a_dead_writer_had_taken_is_written_by_the_next(redis: Redis, store: SqlStore) -> None:
    await redis.xgroup_create(KEYS.ledger, GROUP, id="0", mkstream=True)
    await send(redis, "r1", "r2", "r3")
    await redis.xreadgroup(GROUP, CONSUMER, {KEYS.ledger: ">"}, count=2)
    async with draining(Drain(redis, store)):
        await emptied(redis)
    assert len(await store.recent()) == 3


async def test_catching_up_moves_everything_that_waits(redis: Redis, store: SqlStore) -> None:
    await send(redis, *(f"r{n}" for n in range(2500)))
    await Drain(redis, store).catch_up()
    assert await redis.xlen(KEYS.ledger) == 0
    assert len(await store.recent(3000)) == 2500


async def test_what_cannot_be_read_or_kept_is_set_aside_and_nothing_else(redis: Redis, store: SqlStore) -> None:
    huge = msgspec.json.encode(entry("huge", cost_nano=2**63))
    async with draining(Drain(redis, store)):
        for fields in (
            {"e": b"{"},
            {"e": b"\xff\xfe"},
            {"what": "ever"},
            {"k": b'{"id": 5}'},
            {"k": b"[]"},
            {"e": huge, "c": msgspec.msgpack.encode(KEPT)},
        ):
            await redis.xadd(KEYS.ledger, fields)  # type: ignore[arg-type]
            await send(redis, f"after-{await redis.xlen(KEYS.ledger)}-{len(fields)}-{id(fields)}")
        await emptied(redis)
    rows = await store.recent()
    assert len(rows) == 6
    assert all(row.request_id.startswith("after-") for row in rows)
    dead: Any = await redis.xrange(dead_key(KEYS))
    assert len(dead) == 6
    assert all(fields[b"reason"] for _, fields in dead)
    assert not any(b"c" in fields for _, fields in dead)
    assert await store.verify() == []


async def test_a_locked_database_delays_rows_and_loses_none(redis: Redis, store: SqlStore, tmp_path: Path) -> None:
    lock = sqlite3.connect(tmp_path / "ledger.sqlite3", isolation_level=None)
    lock.execute("BEGIN IMMEDIATE")
    drain = Drain(redis, store)
    async with draining(drain):
        await send(redis, "r1")
        await until(lambda: drain.away)
        assert "locked" in drain.away
        lock.execute("ROLLBACK")
        await emptied(redis)
    assert await store.get("r1") is not None
    assert drain.away == ""
    lock.close()


async def test_stopping_while_the_database_is_locked_keeps_the_rows_in_redis(
    redis: Redis, store: SqlStore, tmp_path: Path
) -> None:
    lock = sqlite3.connect(tmp_path / "ledger.sqlite3", isolation_level=None)
    lock.execute("BEGIN IMMEDIATE")
    drain = Drain(redis, store)
    await send(redis, "r1")
    async with draining(drain):
        await until(lambda: drain.away)
    lock.execute("ROLLBACK")
    lock.close()
    assert await redis.xlen(KEYS.ledger) == 1
    await drain.catch_up()
    assert await store.get("r1") is not None


async def test_a_message_deleted_by_hand_while_pending_does_no_harm(redis: Redis, store: SqlStore) -> None:
    await redis.xgroup_create(KEYS.ledger, GROUP, id="0", mkstream=True)
    await send(redis, "r1", "r2")
    taken: Any = await redis.xreadgroup(GROUP, CONSUMER, {KEYS.ledger: ">"})
    messages = next(iter(taken.values())) if isinstance(taken, dict) else taken[0][1]
    await redis.xdel(KEYS.ledger, messages[0][0])
    await Drain(redis, store).catch_up()
    assert [row.request_id for row in await store.recent()] == ["r2"]
    assert (await redis.xpending(KEYS.ledger, GROUP))["pending"] == 0


async def test_feedback_and_contents_travel_with_the_rows(redis: Redis, store: SqlStore) -> None:
    with_it: Any = {"e": msgspec.json.encode(entry("r1")), "c": msgspec.msgpack.encode(KEPT)}
    await redis.xadd(KEYS.ledger, with_it)
    await redis.xadd(KEYS.ledger, with_it)  # as after a crash of the writer
    await send(redis, "r2")
    for score in (1, -0.5):
        await redis.xadd(KEYS.ledger, {"f": msgspec.json.encode({"request_id": "r1", "score": score})})
    await redis.xadd(KEYS.ledger, {"f": b'{"request_id": "no such row", "score": 1}'})
    await redis.xadd(KEYS.ledger, {"f": b'{"request_id": "r2", "score": 7}'})
    async with draining(Drain(redis, store)):
        await emptied(redis)
    rated, plain = [await store.get(name) for name in ("r1", "r2")]
    assert rated is not None
    assert plain is not None
    assert (rated.feedback, plain.feedback) == (-0.5, None)
    assert await store.content("r1") == KEPT
    assert await redis.xlen(dead_key(KEYS)) == 1
    assert await store.verify() == []


async def test_a_client_cannot_make_a_row_too_long_for_an_index(redis: Redis, store: SqlStore) -> None:
    users = ["x" * 100_000 + end for end in ("a", "b")]
    for number, user in enumerate(users):
        row = entry(f"r{number}", end_user=user, tags=("t" * 100_000,))
        await redis.xadd(KEYS.ledger, {"e": msgspec.json.encode(row)})
    async with draining(Drain(redis, store)):
        await emptied(redis)
    ever = Period(0, 2**41)
    assert (await store.breakdown(ever, "end_user")).distinct == 2
    assert [group.measures.requests for group in (await store.breakdown(ever, "tag")).groups] == [2]
    assert len((await store.rows(ever, {"end_user": (users[1],)})).rows) == 1
