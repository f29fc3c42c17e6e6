"""Workers beside one another over one real Redis: what one learns, the others know."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from redis.asyncio import Redis

from gateway import events
from gateway import runtime as module
from gateway.auth import KeyStore
from gateway.cache import codes
from gateway.cache import index as index_module
from gateway.cache import partitions as partitions_module
from gateway.cache.partitions import Partitions
from gateway.cache.prefilter import Marker
from gateway.cache.segment import Segment
from gateway.errors import RedisAway, Unauthenticated
from gateway.ledger.store import SqlStore
from gateway.ledger.where import ledger_url
from gateway.metrics import Metrics
from gateway.redis_io import client
from gateway.reload import build_view
from gateway.runtime import Runtime, spool_folder
from tests.support.accounts import KEYS, ledger, settlement
from tests.support.ledger import entry
from tests.support.pace import allowed
from tests.support.packet_drop import DropRelay, drop_packets
from tests.support.redis_server import RedisServer
from tests.support.tcp_redis import TcpRedis
from tests.support.visits import settings
from tests.support.waiting import until

VECTOR = codes.encode(np.array([1, 0], dtype=np.float32)) + Marker().of("why")


@asynccontextmanager
async def worker(folder: Path, url: str) -> AsyncIterator[Runtime]:
    """A worker without its HTTP side, following the events."""
    metrics = Metrics()
    made = Runtime(build_view(settings(folder, redis={"url": url}), metrics), metrics, None)
    await made.start()
    try:
        await until(lambda: made.link.connected)
        yield made
    finally:
        await made.close()


async def refuses(one: Runtime, key: str) -> bool:
    try:
        await one.ring.principal(key)
    except Unauthenticated:
        return True
    except RedisAway:  # not known for sure yet
        return False
    return False


async def stored_vector(redis: Redis, entry_id: str) -> None:
    fields: dict[Any, Any] = {"add": entry_id, "partition": "p", "vector": VECTOR}
    await redis.xadd(KEYS.events, fields)


async def test_a_revoked_key_is_refused_by_another_worker_within_a_second(
    redis: Redis, shared_redis: RedisServer, tmp_path: Path
) -> None:
    async with worker(tmp_path, shared_redis.url) as one, worker(tmp_path, shared_redis.url) as two:
        made, other = await KeyStore(one.redis).create("a"), await KeyStore(one.redis).create("b")
        for runtime in (one, two):
            assert (await runtime.ring.principal(made["key"])).key_id == made["id"]
            await runtime.ring.principal(other["key"])
        revoked = time.monotonic()
        await KeyStore(one.redis).revoke(made["id"])
        await until(lambda: refuses(two, made["key"]))
        await until(lambda: refuses(one, made["key"]))
        assert time.monotonic() - revoked < allowed(1.0)
        assert not await refuses(two, other["key"])


async def test_an_index_that_takes_long_holds_up_no_revocation(
    redis: Redis, shared_redis: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = asyncio.Event()

    async def endless(self: Partitions, *_: object) -> None:
        begun.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(Partitions, "refill", endless)
    async with worker(tmp_path, shared_redis.url) as one:
        made = await KeyStore(one.redis).create("a")
        await one.ring.principal(made["key"])
        async with asyncio.timeout(20):
            await begun.wait()
        await KeyStore(one.redis).revoke(made["id"])
        await until(lambda: refuses(one, made["key"]))


async def test_a_key_revoked_while_redis_was_away_from_a_worker_is_refused(
    own_redis: RedisServer, tmp_path: Path
) -> None:
    async with worker(tmp_path, own_redis.url) as one:
        redis = client(own_redis.url)
        made = await KeyStore(redis).create("a")
        await one.ring.principal(made["key"])
        own_redis.kill()
        await until(lambda: not one.link.connected)
        assert not await refuses(one, made["key"])
        own_redis.start()
        await KeyStore(redis).revoke(made["id"])
        await until(lambda: refuses(one, made["key"]))
        await redis.aclose()


async def test_a_network_that_only_swallows_does_not_leave_a_worker_deaf(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "_BLOCK_MS", 100)
    monkeypatch.setattr(module, "_SOCKET_TIMEOUT_S", 0.4)
    with TcpRedis(tmp_path, password="p") as server:
        redis = client(server.url())
        async with (
            DropRelay(server.port) as relay,
            worker(tmp_path, server.url().replace(str(server.port), str(relay.port))) as one,
        ):
            made = await KeyStore(redis).create("a")
            await one.ring.principal(made["key"])
            for number in relay._sockets()[1:]:  # those that are open; new ones are let through
                drop_packets(number)
            await asyncio.sleep(0.2)  # the read that was under way when the network went comes back
            await KeyStore(redis).revoke(made["id"])
            await until(lambda: refuses(one, made["key"]))
        await redis.aclose()


async def test_an_event_that_cannot_be_applied_does_not_end_the_following(
    redis: Redis, shared_redis: RedisServer, tmp_path: Path
) -> None:
    async with worker(tmp_path, shared_redis.url) as one:
        made = await KeyStore(one.redis).create("a")
        await one.ring.principal(made["key"])
        for fields in ({"add": "e"}, {"add": "e", "partition": "p", "vector": "odd"}, {"new": "kind"}):
            await redis.xadd(KEYS.events, fields)  # type: ignore[arg-type]
        await KeyStore(one.redis).revoke(made["id"])
        await until(lambda: refuses(one, made["key"]))


async def test_cache_changes_reach_every_worker_and_a_new_one_starts_with_them(
    redis: Redis, shared_redis: RedisServer, tmp_path: Path
) -> None:
    async with worker(tmp_path, shared_redis.url) as one:
        await redis.hset(KEYS.vectors("p"), mapping={"e1": VECTOR})
        await stored_vector(redis, "e1")
        await until(lambda: one.semantic.size == 1)
        async with worker(tmp_path, shared_redis.url) as two:
            await until(lambda: two.semantic.size == 1)
            await stored_vector(redis, "e2")
            await until(lambda: one.semantic.size == two.semantic.size == 2)
            await redis.xadd(KEYS.events, {"purge": ""})
            await until(lambda: one.semantic.size == two.semantic.size == 0)


async def test_events_that_were_trimmed_away_unread_are_made_up_for(
    redis: Redis, shared_redis: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with worker(tmp_path, shared_redis.url) as one:
        await until(lambda: one._filled)
        applied, release = one._stored.apply, asyncio.Event()

        async def slow(event: Any) -> None:
            await release.wait()
            await applied(event)

        monkeypatch.setattr(one._stored, "apply", slow)
        await stored_vector(redis, "first")
        for number in range(300):  # while it is busy, more come than the stream keeps
            await redis.hset(KEYS.vectors("p"), f"e{number}", VECTOR)
            await stored_vector(redis, f"e{number}")
        await redis.xtrim(KEYS.events, maxlen=5, approximate=False)
        release.set()
        await until(lambda: one.semantic.size == 300)


async def test_what_is_deleted_behind_our_back_leaves_the_index(
    redis: Redis, shared_redis: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_CHECK_S", 0.05)
    await redis.hset(KEYS.vectors("p"), mapping={f"e{number}": VECTOR for number in range(10)})
    await redis.hset(KEYS.vectors("q"), mapping={"e": VECTOR})
    async with worker(tmp_path, shared_redis.url) as one, worker(tmp_path, shared_redis.url) as two:
        await until(lambda: one.semantic.size == two.semantic.size == 11)
        await redis.hdel(KEYS.vectors("p"), "e1", "e2")
        await until(lambda: one.semantic.size == two.semantic.size == 9)
        await redis.delete(KEYS.vectors("p"), KEYS.vectors("q"))
        await until(lambda: one.semantic.size == two.semantic.size == 0)


async def test_a_worker_that_starts_reads_the_snapshot_and_corrects_it_by_redis(
    redis: Redis, shared_redis: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for where in (index_module, partitions_module):
        monkeypatch.setattr(where, "GRAPH_FROM", 1_200)
    rows = np.random.default_rng(0).normal(size=(1_300, 8)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    values = {f"e{number}": codes.encode(row) + Marker().of("why") for number, row in enumerate(rows)}
    await redis.hset(KEYS.vectors("p"), mapping=values)  # type: ignore[arg-type]
    manifest = tmp_path / "data" / "snapshots" / "cache-index.json"
    async with worker(tmp_path, shared_redis.url) as one:
        manifest = one.view.settings.data_dir / "snapshots" / "cache-index.json"
        await until(manifest.exists, within_s=30)
    await redis.hdel(KEYS.vectors("p"), "e7")
    await redis.hset(KEYS.vectors("p"), "new", values["e7"])
    built: list[str] = []
    monkeypatch.setattr(Segment, "graph", lambda *_: built.append("a graph"))
    async with worker(tmp_path, shared_redis.url) as two:
        await until(lambda: two._filled)
        index = two.semantic.partitions.get("p")
        assert index is not None
        assert (index.graph is not None, len(index), built) == (True, 1_300, [])
        assert ("e7" in index, "new" in index) == (False, True)
        await redis.delete(KEYS.vectors("p"))
        await redis.xadd(KEYS.events, {"purge": ""})
        await until(lambda: not manifest.exists())


async def test_a_reload_is_told_to_the_other_workers_only(
    redis: Redis, shared_redis: RedisServer, tmp_path: Path
) -> None:
    await redis.xadd(KEYS.events, {"reload": "someone"})  # before anybody listens: nothing happens
    await redis.hset(KEYS.vectors("p"), mapping={"e1": VECTOR})
    async with worker(tmp_path, shared_redis.url) as one, worker(tmp_path, shared_redis.url) as two:
        reloaded: list[str] = []

        def reloads(name: str) -> Any:
            async def reload() -> None:
                reloaded.append(name)

            return reload

        await until(lambda: one.semantic.size == two.semantic.size == 1)
        one.on_reload, two.on_reload = reloads("one"), reloads("two")
        await redis.xadd(KEYS.events, {"reload": one.worker})
        await redis.xadd(KEYS.events, {"purge": ""})
        await until(lambda: one.semantic.size == two.semantic.size == 0)
        assert reloaded == ["two"]


async def test_a_worker_is_alive_from_start_to_close(redis: Redis, shared_redis: RedisServer, tmp_path: Path) -> None:
    async with worker(tmp_path, shared_redis.url) as one:
        await until(lambda: redis.exists(KEYS.alive(one.worker)))
        assert 3_000 < await redis.pttl(KEYS.alive(one.worker)) <= 6_000
    assert not await redis.exists(KEYS.alive(one.worker))
    assert one.draining


async def test_what_was_spooled_is_settled_by_itself_once_redis_is_back(own_redis: RedisServer, tmp_path: Path) -> None:
    async with worker(tmp_path, own_redis.url) as one:
        own_redis.kill()
        await until(lambda: not one.link.connected)
        await one.books.spool.append(settlement("r1", 5, intent=False))
        own_redis.start()
        redis = client(own_redis.url)
        await until(lambda: redis.xlen(KEYS.ledger))
        assert [row.request_id for row in await ledger(redis)] == ["r1"]
        await until(lambda: one.books.spool.waiting == 0)
        await redis.aclose()
    assert list(spool_folder(one.view.settings.data_dir).glob("*")) == []


async def test_a_worker_that_stops_while_redis_is_away_leaves_its_spool_behind(
    own_redis: RedisServer, tmp_path: Path
) -> None:
    async with worker(tmp_path, own_redis.url) as one:
        own_redis.kill()
        await until(lambda: not one.link.connected)
        await one.books.spool.append(settlement("r1", 5, intent=False))
    [left] = spool_folder(one.view.settings.data_dir).glob("*.jsonl")
    assert b'"r1"' in left.read_bytes()


async def test_a_worker_starts_without_redis(tmp_path: Path) -> None:
    metrics = Metrics()
    shown = build_view(settings(tmp_path, redis={"url": f"unix://{tmp_path}/nobody.sock"}), metrics)
    one = Runtime(shown, metrics, None)
    began = time.monotonic()
    await one.start(0.1)
    await one.close()
    assert time.monotonic() - began < allowed(2.0)


async def test_a_request_is_found_wherever_it_is(redis: Redis, shared_redis: RedisServer, tmp_path: Path) -> None:
    async with worker(tmp_path, shared_redis.url) as one, worker(tmp_path, shared_redis.url) as two:
        shown = one.view.settings
        shown.data_dir.mkdir(parents=True, exist_ok=True)
        store = SqlStore(ledger_url(shown))
        await store.migrate()
        await store.append([entry("in-sql")])
        await redis.xadd(KEYS.ledger, {"k": b"{}"})
        await redis.xadd(KEYS.ledger, {"e": msgspec.json.encode(entry("on-its-way", error="not in-memory"))})
        one._remember(entry("in-memory"))

        found = {name: await one.find(name) for name in ("in-memory", "in-sql", "on-its-way", "nowhere")}

        assert [name for name, row in found.items() if row is not None and row.request_id == name] == [
            "in-memory",
            "in-sql",
            "on-its-way",
        ]
        assert found["nowhere"] is None
        assert await two.find("in-memory") is None
        await store.close()


async def test_the_memory_of_requests_is_bounded(
    redis: Redis, shared_redis: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_RECENT_MAX", 3)
    async with worker(tmp_path, shared_redis.url) as one:
        for n in range(5):
            one._remember(entry(f"r{n}"))
        assert list(one._recent) == ["r2", "r3", "r4"]


async def test_looking_for_a_request_while_redis_is_away_is_no_error(own_redis: RedisServer, tmp_path: Path) -> None:
    async with worker(tmp_path, own_redis.url) as one:
        one.view.settings.data_dir.mkdir(parents=True, exist_ok=True)
        store = SqlStore(ledger_url(one.view.settings))
        await store.migrate()
        own_redis.kill()
        assert await one.find("r1") is None
        await store.close()
