"""Somebody is erased while the gateway runs: what was planted is then nowhere in the data folder, Redis or SQL."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from redis.asyncio import Redis
from typer.testing import CliRunner

from gateway.budget.accounts import catch_up, opened
from gateway.budget.definitions import Budget
from gateway.budget.levels import FIELD, NOTHING, account_of
from gateway.budget.spool import Spool
from gateway.cache import lessons
from gateway.cache.judges import teach
from gateway.cache.lessons import Lesson
from gateway.cache.posterior import Observation
from gateway.cli.app import app
from gateway.erase import Eraser
from gateway.ledger.answers import Period
from gateway.ledger.store import SqlStore
from gateway.ledger.stream import dead_key
from gateway.redis_io import Keys, client
from gateway.types import Content
from tests.support.accounts import settlement
from tests.support.gateway import Gateway, gateway, hosted
from tests.support.ledger import NOON, entry, key_record
from tests.support.upstream import Plan, Upstream
from tests.support.waiting import until

KEYS = Keys()
USER, SECRET, ANSWER = "planted-user-4711", "planted-prompt-0815", "planted-answer-2342"
EVER = Period(0, 1 << 52)
LESSON = Lesson(ts_ms=int(time.time() * 1000), tenant="", partition="p", source="explored", measures=(1.0,), same=True)
FILES = ("*.aof", "*.sqlite3*", "spool/*", "snapshots/*", "kv/**/*")


@pytest.fixture
async def running(tmp_path: Path, upstream: Upstream) -> AsyncIterator[Gateway]:
    async with gateway(tmp_path, [hosted("big", upstream.base_url)]) as started:
        (tmp_path / "data").mkdir(exist_ok=True)
        yield started


@pytest.fixture
async def store(running: Gateway) -> AsyncIterator[SqlStore]:
    made = SqlStore(f"sqlite+aiosqlite:///{running.folder / 'data' / 'ledger.sqlite3'}")
    await made.migrate()
    yield made
    await made.close()


async def everything(redis: Redis) -> bytes:
    """All that Redis would tell."""
    found = b""
    async for name in redis.scan_iter(count=1000):
        kind: Any = await redis.type(name)
        reads: dict[bytes, Any] = {
            b"string": redis.get,
            b"hash": redis.hgetall,
            b"zset": lambda key: redis.zrange(key, 0, -1),
            b"stream": redis.xrange,
            b"set": redis.smembers,
            b"list": lambda key: redis.lrange(key, 0, -1),
        }
        found += name + repr(await reads[kind](name)).encode()
    return found


def on_disk(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for pattern in FILES for path in sorted(folder.rglob(pattern)) if path.is_file())


async def asked(running: Gateway, upstream: Upstream, count: int, user: str, prompt: str) -> None:
    for number in range(count):
        upstream.enqueue(Plan(text=f"{ANSWER} {number}"))
        reply = await running.chat(f"{prompt} {number}", user=user, headers={"x-gateway-session": user})
        assert reply.status_code == 200


async def test_a_planted_user_is_nowhere_afterwards_and_the_sums_are_the_same(
    running: Gateway, upstream: Upstream, store: SqlStore
) -> None:
    redis, data = running.runtime.redis, running.folder / "data"
    await asked(running, upstream, 3, USER, SECRET)
    await asked(running, upstream, 2, "somebody-else", "another prompt")
    rows = await running.rows(5)
    theirs = [row.request_id for row in rows if row.end_user == USER]
    spool = Spool(data / "spool", "gone-worker")
    await spool.append(settlement("spooled", 9000, NOTHING, intent=False))
    line = spool.path.read_text().replace('"request_id":"spooled"', f'"request_id":"spooled","end_user":"{USER}"')
    spool.path.write_text(line)
    spool.close()
    await redis.xadd(dead_key(KEYS), {"e": msgspec.json.encode(entry("d", end_user=USER, cost_nano=5)), "reason": "x"})
    await redis.xadd(dead_key(KEYS), {"e": b"{}", "reason": "kept"})
    content = Content(
        request_id=theirs[0],
        ts_ms=NOON,
        expires_ms=1 << 50,
        prompt=SECRET.encode(),
        answer=ANSWER.encode(),
        end_user=USER,
    )
    await store.put_contents([content])
    (data / "kv" / "small").mkdir(parents=True)
    (data / "kv" / "small" / "conversation.kv").write_text(SECRET)
    (data / "snapshots").mkdir()
    (data / "snapshots" / "index.faiss").write_text(SECRET)
    held = await everything(redis)
    assert all(planted.encode() in held for planted in (USER, SECRET, ANSWER))
    assert USER.encode() in on_disk(running.folder)

    report = await Eraser(redis, store, data).erase("user", USER)

    assert (report.rows, report.contents, report.cache_entries, report.left) == (4, 1, 3, ())
    held, disk = await everything(redis), on_disk(running.folder)
    for planted in (USER, SECRET, f"{ANSWER} 2"):
        assert planted.encode() not in held, planted
        assert planted.encode() not in disk, planted
    assert b"another prompt" in held
    total = await store.totals(EVER)
    assert total.requests == 6
    assert total.cost_nano == sum(row.cost_nano for row in rows) + 9000
    assert await store.verify() == []
    assert await redis.xlen(dead_key(KEYS)) == 2
    found = (await running.get(f"/v1/requests/{theirs[0]}")).json()
    await until(lambda: forgotten(running, theirs[0]))
    assert SECRET not in json.dumps(found)


async def forgotten(running: Gateway, request_id: str) -> bool:
    """Also what a worker remembers of its latest requests."""
    return USER not in (await running.get(f"/v1/requests/{request_id}")).text


async def test_a_key_is_refused_and_forgotten(running: Gateway, upstream: Upstream, store: SqlStore) -> None:
    key = await running.key("alices-laptop", budget_usd=5, rpm=100)
    key_id = running.key_id(key)
    assert (await running.chat(SECRET, key=key)).status_code == 200
    await running.nothing_held(key)
    redis = running.runtime.redis
    assert key_id.encode() in await everything(redis)

    report = await Eraser(redis, store, running.folder / "data").erase("key", key_id)

    assert (report.rows, report.definitions, report.left) == (1, 1, ())
    assert (await running.chat("hello", key=key)).status_code == 401
    held, disk = await everything(redis), on_disk(running.folder)
    for planted in (key_id, "alices-laptop", SECRET):
        assert planted.encode() not in held, planted
        assert planted.encode() not in disk, planted
    assert [record for record in await store.keys() if record["id"] == key_id] == []
    assert (await store.totals(EVER)).requests == 1


async def test_what_the_cache_learnt_from_their_requests_goes_with_them(
    running: Gateway, upstream: Upstream, store: SqlStore
) -> None:
    await asked(running, upstream, 2, USER, SECRET)
    await asked(running, upstream, 1, "somebody-else", "another prompt")
    redis, rows = running.runtime.redis, await running.rows(3)
    for row in rows:
        made = ((row.ts_ms, row.model),)
        await lessons.note_by(redis, KEYS, msgspec.structs.replace(LESSON, tenant=row.key_id, made=made))
        outcome = Observation(f"taught-{row.request_id}", (1.0, 2.0, 1.0, 0.0, 0.0), same=True, made=made)
        await teach(redis, KEYS, f"of-{row.key_id}", outcome)

    await Eraser(redis, store, running.folder / "data").erase("user", USER)

    kept = [lesson.made async for lesson in lessons.lessons(redis, KEYS)]
    assert kept == [((row.ts_ms, row.model),) for row in rows if row.end_user != USER]
    held = await everything(redis)
    assert [f"taught-{row.request_id}".encode() in held for row in rows] == [row.end_user != USER for row in rows]


async def test_a_name_that_redis_uses_itself_erases_nothing_of_its_own(
    running: Gateway, upstream: Upstream, store: SqlStore
) -> None:
    await asked(running, upstream, 1, "default", "a prompt")
    await running.rows(1)
    redis = running.runtime.redis
    for name in ("ledger", "keys", "default", "entries", "*", "events"):
        await Eraser(redis, store, running.folder / "data").erase("user", name)
    assert await redis.exists(KEYS.events)
    assert (await running.chat("still here?")).status_code == 200


async def test_what_still_holds_the_name_is_said(running: Gateway, store: SqlStore) -> None:
    notes = running.folder / "data" / "notes.txt"
    notes.write_text(f"somebody wrote down {USER}")
    report = await Eraser(running.runtime.redis, store, running.folder / "data").erase("user", USER)
    assert report.left == (f"{notes}: the name stands in it",)


async def test_our_logs_lose_the_name_while_they_are_written(running: Gateway, store: SqlStore) -> None:
    logs = running.folder / "data" / "logs"
    logs.mkdir()
    await store.put_key(key_record("key_old", name="planted-name"))
    await store.put_key(key_record("key_new", name="shared-name"))
    (logs / "gateway.log.1").write_text("key_old and planted-name, planted-name")
    with (logs / "gateway.log").open("ab", buffering=0) as log:
        log.write(b"1 key_old called planted-name\n2 key_new called shared-name\n")
        report = await Eraser(running.runtime.redis, store, running.folder / "data").erase("key", "key_old")
        log.write(b"3\n")
    assert report.left == ()
    assert (logs / "gateway.log").read_text() == "1 ------- called ------------\n2 key_new called shared-name\n3\n"
    assert (logs / "gateway.log.1").read_text() == "------- and ------------, ------------"


async def test_budgets_in_sql_alone_go_too(running: Gateway, store: SqlStore) -> None:
    for budget in (Budget(id="b1", scope="user", subject=USER), Budget(id="b2", scope="user", subject="other")):
        await store.put_definition(f"{FIELD}{budget.id}", msgspec.json.encode(budget).decode())
    await Eraser(running.runtime.redis, store, running.folder / "data").erase("user", USER)
    assert set(await store.definitions()) == {f"{FIELD}b2"}


async def test_a_snapshot_of_redis_holds_nothing_of_what_its_streams_held(running: Gateway, store: SqlStore) -> None:
    """A stream keeps the bytes of what was deleted from it until all of their block is."""
    redis, data = running.runtime.redis, running.folder / "data"
    for number in range(5):
        about: Any = {
            "e": msgspec.json.encode(entry(f"d{number}", end_user=USER if number == 2 else "")),
            "reason": "x",
        }
        await redis.xadd(dead_key(KEYS), about)
    await redis.config_set("save", "3600 1")
    await redis.config_set("dbfilename", "dump.rdb")
    await redis.config_set("rdbcompression", "no")
    folder = running.redis.folder
    await redis.save()
    assert USER.encode() in (folder / "dump.rdb").read_bytes()
    await Eraser(redis, store, data).erase("user", USER)
    assert USER.encode() not in (folder / "dump.rdb").read_bytes()
    assert await redis.xlen(dead_key(KEYS)) == 5


def test_the_command_works_with_nothing_running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    (tmp_path / "gateway.yaml").write_text(f"data_dir: {tmp_path / 'data'}\n")
    config = ["--config", str(tmp_path / "gateway.yaml")]
    first = CliRunner().invoke(app, ["erase", "--user", USER, "--yes", "--json", *config])
    assert first.exit_code == 0, first.output
    assert json.loads(first.output)["rows"] == 0
    with sqlite3.connect(tmp_path / "data" / "ledger.sqlite3") as connection:
        assert connection.execute("SELECT count(*) FROM contents").fetchone() == (0,)
    for wrong in ([], ["--user", "a", "--key", "b"], ["--user", ""]):
        assert CliRunner().invoke(app, ["erase", "--yes", *wrong, *config]).exit_code == 2
    assert CliRunner().invoke(app, ["erase", "--user", USER, *config]).exit_code == 0  # a script is not asked
    monkeypatch.setattr("gateway.cli.options.on_terminal", lambda: True)
    refused = CliRunner().invoke(app, ["erase", "--user", USER, *config], input="n\n")
    assert (refused.exit_code, "cannot be undone" in refused.output) == (1, True)


async def test_definitions_in_sql_alone_go_too(running: Gateway, store: SqlStore) -> None:
    await store.put_key(key_record("key_old", name="planted-name"))
    redis = client(running.redis.url)
    report = await Eraser(redis, store, running.folder / "data").erase("key", "key_old")
    await redis.aclose()
    assert (report.definitions, await store.keys()) == (1, [])


async def test_budgets_of_a_user_go_with_the_user(running: Gateway, store: SqlStore) -> None:
    redis = running.runtime.redis
    own = Budget(id="b1", scope="user", subject=USER, limit_nano=1000)
    every = Budget(id="b2", scope="user", subject="*", limit_nano=50)
    team = Budget(id="b3", scope="team", subject=USER, limit_nano=50)
    for budget in (own, every, team):
        await redis.hset(KEYS.definitions, f"{FIELD}{budget.id}", msgspec.json.encode(budget))
        for subject in (USER, "somebody-else"):
            await catch_up(redis, KEYS, account_of(budget, subject, NOON), 50, {"": 7}, NOON)
    theirs = account_of(every, USER, NOON).name
    await redis.xadd(KEYS.alerts, {"kind": "exhausted", "account": theirs})
    await redis.xadd(KEYS.alerts, {"kind": "exhausted", "account": "another"})
    await Eraser(redis, store, running.folder / "data").erase("user", USER)
    assert await redis.xlen(KEYS.alerts) == 1
    assert set(await redis.hkeys(KEYS.definitions)) == {b"budget:b2", b"budget:b3"}
    left = {(about.budget, about.subject) for _, about in await opened(redis, KEYS)}
    # Budgets of one subject have one account, whoever asks; a team that has the same name is somebody else.
    assert ("b2", "somebody-else") in left
    assert {budget for budget, subject in left if subject == USER} <= {"b3"}
    assert not await redis.exists(KEYS.budget(account_of(every, USER, NOON).name))
