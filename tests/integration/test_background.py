"""``python -m gateway.background`` as a real process, beside a real Redis, killed at bad moments."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import msgspec
import psutil
import pytest
from redis.asyncio import Redis

from gateway.background import HEARTBEAT, LEASE_MS
from gateway.budget.definitions import Budget
from gateway.budget.levels import account_of
from gateway.budget.limits import Hold, Intent
from gateway.budget.reservations import Settlement
from gateway.budget.spool import Spool
from gateway.ledger.answers import Period
from gateway.ledger.store import SqlStore
from gateway.redis_io import Keys, client
from tests.support.ledger import entry, key_record
from tests.support.redis_server import RedisServer
from tests.support.waiting import until

KEYS = Keys()
ROOT = Path(__file__).parents[2]
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    started = RedisServer(tmp_path).start()
    yield started
    started.kill()


@pytest.fixture
async def redis(server: RedisServer) -> AsyncIterator[Redis]:
    connection = client(server.url)
    yield connection
    await connection.aclose()


@pytest.fixture
def start(server: RedisServer, tmp_path: Path) -> Iterator[Start]:
    """Start one more background process on the same data folder."""
    text = f"redis: {{url: '{server.url}'}}\ndata_dir: {tmp_path / 'data'}\npolicies: {{dir: {ROOT / 'policies'}}}\n"
    (tmp_path / "gateway.yaml").write_text(text)
    (tmp_path / "data").mkdir()
    command = [sys.executable, "-m", "gateway.background", "--config", str(tmp_path / "gateway.yaml")]
    started: list[subprocess.Popen[str]] = []

    def begin(*, apart: bool = False) -> subprocess.Popen[str]:
        env = os.environ | {"GATEWAY_LOG": "json"}
        process = subprocess.Popen(
            command, cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True, start_new_session=apart
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        process.terminate()
    for process in started:
        try:
            process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqlStore]:
    reader = SqlStore.reader(f"sqlite+aiosqlite:///{tmp_path / 'data' / 'ledger.sqlite3'}")
    yield reader
    await reader.close()


async def worker_pid(redis: Redis) -> int:
    """The process that is at work, 0 while there is none."""
    beat = await redis.get(HEARTBEAT)
    return int(json.loads(beat)["pid"]) if beat else 0


async def at_work(redis: Redis, process: subprocess.Popen[str]) -> None:
    async def working() -> bool:
        assert process.poll() is None
        return await worker_pid(redis) == process.pid

    await until(working)


async def emptied(redis: Redis) -> None:
    async def empty() -> bool:
        return await redis.xlen(KEYS.ledger) == 0

    await until(empty)


async def send(redis: Redis, first: int, count: int) -> None:
    pipe = redis.pipeline(transaction=False)
    for number in range(first, first + count):
        pipe.xadd(KEYS.ledger, {"e": msgspec.json.encode(entry(f"r{number}", cost_nano=number))})
    await pipe.execute()


async def test_killed_again_and_again_it_writes_every_row_once(redis: Redis, start: Start, store: SqlStore) -> None:
    await send(redis, 0, 4000)
    total = 4000
    process = start()
    await at_work(redis, process)
    for patience in (0.0, 0.004, 0.012, 0.03):
        await send(redis, total, 1500)
        total += 1500
        written = await redis.xlen(KEYS.ledger)

        async def moving(before: int = written) -> bool:
            return await redis.xlen(KEYS.ledger) < before

        await until(moving)
        await asyncio.sleep(patience)
        process.kill()
        process.wait()
        await redis.delete("fg:background:lease", HEARTBEAT)
        process = start()
        await at_work(redis, process)
    await emptied(redis)
    written_at_last = await store.totals(Period(0, 2**41))
    assert (written_at_last.requests, written_at_last.cost_nano) == (total, sum(range(total)))
    assert await store.verify() == []


async def test_a_second_process_waits_and_takes_over_when_the_first_dies(
    redis: Redis, start: Start, store: SqlStore
) -> None:
    first = start()
    await at_work(redis, first)
    second = start()
    assert second.stderr is not None
    assert "waiting for its lease" in second.stderr.readline()
    assert await worker_pid(redis) == first.pid
    first.kill()
    died = time.monotonic()
    await send(redis, 0, 10)
    await at_work(redis, second)
    await emptied(redis)
    assert time.monotonic() - died < LEASE_MS / 1000 + 5
    assert len(await store.recent()) == 10


async def test_sigterm_finishes_the_batch_gives_the_lease_back_and_exits_0(
    redis: Redis, start: Start, store: SqlStore
) -> None:
    process = start()
    await at_work(redis, process)
    await send(redis, 0, 800)
    process.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(process.wait, 10) == 0
    left = await redis.xlen(KEYS.ledger)
    assert len(await store.recent(1000)) + left == 800
    assert not await redis.exists("fg:background:lease")


async def test_redis_killed_and_back_again_costs_no_row(
    server: RedisServer, redis: Redis, start: Start, store: SqlStore
) -> None:
    process = start()
    await at_work(redis, process)
    await send(redis, 0, 500)
    server.kill()
    assert process.stderr is not None
    await asyncio.to_thread(_read_until, process, "redis is away")
    server.start()
    await at_work(redis, process)
    await send(redis, 500, 500)
    await emptied(redis)
    assert len(await store.recent(2000)) == 1000
    assert process.poll() is None


def _read_until(process: subprocess.Popen[str], words: str) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        if words in line:
            return
    raise AssertionError(f"the process ended without saying {words!r}")


async def test_started_before_redis_it_waits_for_it(server: RedisServer, redis: Redis, start: Start) -> None:
    server.kill()
    process = start()
    await asyncio.to_thread(_read_until, process, "redis is away")
    server.start()
    await at_work(redis, process)


async def test_keys_and_budgets_come_back_after_redis_lost_them(redis: Redis, start: Start, store: SqlStore) -> None:
    process = start()
    await at_work(redis, process)
    record = key_record("k1", budget_nano=10_000)
    await redis.xadd(KEYS.ledger, {"k": msgspec.json.encode(record)})
    await redis.xadd(KEYS.ledger, {"e": msgspec.json.encode(entry("r1", key_id="k1", cost_nano=2_500))})
    await emptied(redis)
    await redis.flushall()

    async def rebuilt() -> bool:
        return bool(await redis.exists(KEYS.budget("k1")))

    await until(rebuilt)
    assert json.loads(await redis.hget(KEYS.api_keys, record["hash"]) or b"") == record
    assert await redis.hget(KEYS.budget("k1"), "spent") == b"2500"
    assert await redis.hget(KEYS.budget("k1"), "left") == b"7500"


async def test_budgets_of_every_kind_are_counted_again_from_the_rows(
    redis: Redis, start: Start, store: SqlStore
) -> None:
    process = start()
    await at_work(redis, process)
    now = int(time.time() * 1000)
    budgets = [
        Budget(id="day", scope="organisation", subject="default", limit_nano=10**9, window="30d"),
        Budget(id="each", scope="user", subject="*", limit_nano=10**9),
        Budget(id="tagged", scope="tag", subject="batch", limit_nano=10**9),
        Budget(id="late", scope="team", subject="red", limit_nano=10**9, created_ms=now),
    ]
    for one in budgets:
        await redis.xadd(KEYS.ledger, {"d": msgspec.json.encode(one), "field": f"budget:{one.id}"})
    await redis.xadd(KEYS.ledger, {"d": b'{"organisation":"acme"}', "field": "organisation:acme"})
    for number, (user, tags) in enumerate([("ann", ("batch",)), ("bob", ("x", "batch")), ("ann", ())]):
        made = entry(f"r{number}", cost_nano=100, end_user=user, tags=tags, ts_ms=now - 1000, team="red")
        await redis.xadd(KEYS.ledger, {"e": msgspec.json.encode(made)})
    await emptied(redis)
    await redis.flushall()

    async def known() -> bool:
        return await redis.hlen(KEYS.ceilings) == len(budgets)

    await until(known)
    accounts = {
        account_of(budgets[0], "default", now).name: 300,
        account_of(budgets[1], "ann", now).name: 200,
        account_of(budgets[1], "bob", now).name: 100,
        account_of(budgets[2], "batch", now).name: 200,
        account_of(budgets[3], "red", now).name: 0,
    }
    for name, spent in accounts.items():
        assert await redis.hmget(KEYS.budget(name), "spent", "left") == [b"%d" % spent, b"%d" % (10**9 - spent)]
    await until(lambda: redis.hexists(KEYS.definitions, "organisation:acme"))


async def test_what_dead_workers_left_becomes_rows(redis: Redis, start: Start, store: SqlStore, tmp_path: Path) -> None:
    intent = Intent(worker="gone", key_id="k1", team="", ts_ms=entry("x").ts_ms, policy="default", requested="auto")
    await redis.hset(KEYS.intents, "held", Hold(700).value + msgspec.json.encode(intent))
    spool = Spool(tmp_path / "data" / "spool", "gone")
    await spool.append(Settlement(entry=entry("spooled"), intent=False))
    spool.close()
    start()

    async def booked() -> bool:
        return await redis.hlen(KEYS.intents) == 0 and not list((tmp_path / "data" / "spool").iterdir())

    await until(booked)
    await emptied(redis)
    rows = {row.request_id: row for row in await store.recent()}
    assert rows.keys() == {"held", "spooled"}
    assert (rows["held"].status, rows["held"].cost_nano) == ("crashed", 700)


async def test_the_ledger_file_is_for_its_owner_only(redis: Redis, start: Start, tmp_path: Path) -> None:
    await at_work(redis, start())
    assert (tmp_path / "data" / "ledger.sqlite3").stat().st_mode & 0o077 == 0


def test_a_wrong_configuration_exits_1_with_file_and_line(tmp_path: Path) -> None:
    (tmp_path / "gateway.yaml").write_text("redis:\n  uri: x\n")
    command = [sys.executable, "-m", "gateway.background", "--config", str(tmp_path / "gateway.yaml")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "gateway.yaml:2" in done.stderr


async def test_it_gives_way_to_live_traffic(redis: Redis, start: Start) -> None:
    """Linux weighs sessions against each other first: niceness alone would say nothing to a worker in another one."""
    ours = _session(os.getpid())
    process = start(apart=True)
    await at_work(redis, process)
    assert psutil.Process(process.pid).nice() == min(19, psutil.Process().nice() + 5)
    if ours is not None:
        assert _session(process.pid) == 5
        assert _session(os.getpid()) == ours


def _session(pid: int) -> int | None:
    """The niceness of a process's session; None where the kernel weighs none, as in a CPU cgroup of its own (empty)."""
    enabled, group = Path("/proc/sys/kernel/sched_autogroup_enabled"), Path(f"/proc/{pid}/autogroup")
    if not enabled.exists() or enabled.read_text().strip() != "1":
        return None
    words = group.read_text().split()
    return int(words[-1]) if words else None
