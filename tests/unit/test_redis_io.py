"""The hot-path connection, over a real Redis that is killed, hung, filled up and restarted."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import hiredis
import psutil
import pytest
from redis.asyncio import Redis

from gateway import redis_io
from gateway.budget.levels import own
from gateway.budget.limits import Intent, admit
from gateway.config import GatewayConfig, RedisConfig, Settings
from gateway.errors import RedisAway
from gateway.redis_io import Keys, RedisLink, Script, client, redis_url
from gateway.types import Principal
from tests.support.pace import allowed
from tests.support.redis_server import RedisServer
from tests.support.tcp_redis import TcpRedis
from tests.support.waiting import until


@asynccontextmanager
async def linked(url: str, timeout_s: float = 0.5) -> AsyncIterator[RedisLink]:
    made = RedisLink(url, timeout_s=timeout_s)
    await made.start(5.0)
    assert made.connected
    yield made
    await made.close()


async def outcomes(calls: list[Any]) -> list[Any]:
    return await asyncio.gather(*calls, return_exceptions=True)


async def test_concurrent_calls_get_their_own_replies_in_order(link: RedisLink) -> None:
    await link.call("HSET", "h", *(part for n in range(500) for part in (f"f{n}", f"v{n}")))

    replies = await asyncio.gather(*(link.call("HGET", "h", f"f{n}") for n in range(500)))

    assert replies == [f"v{n}".encode() for n in range(500)]


async def test_calls_of_one_turn_of_the_loop_leave_in_one_write(link: RedisLink, redis: Redis) -> None:
    async def calls_and_reads() -> int:
        return int((await redis.info("stats"))["total_reads_processed"])

    before = await calls_and_reads()
    await asyncio.gather(*(link.call("INCR", "n") for _ in range(300)))
    assert await link.call("GET", "n") == b"300"
    # 300 INCRs, the GET and the two INFOs; Redis reads 16 KiB at a time
    assert await calls_and_reads() - before <= 5


async def test_a_call_that_was_cancelled_does_not_shift_the_replies_of_the_others(link: RedisLink) -> None:
    calls = [asyncio.ensure_future(link.call("ECHO", f"m{n}")) for n in range(6)]
    await asyncio.sleep(0)
    calls[2].cancel()

    replies = await outcomes(list(calls))

    assert isinstance(replies.pop(2), asyncio.CancelledError)
    assert replies == [b"m0", b"m1", b"m3", b"m4", b"m5"]


async def test_a_wrong_command_is_a_bug_and_no_outage(link: RedisLink) -> None:
    await link.call("SET", "text", "x")
    with pytest.raises(hiredis.ReplyError, match="WRONGTYPE"):
        await link.call("HGET", "text", "f")
    assert await link.call("GET", "text") == b"x"


async def test_a_script_is_loaded_where_redis_does_not_have_it(link: RedisLink, redis: Redis) -> None:
    script = Script("return {KEYS[1], ARGV[1], ARGV[2]}")
    for _ in range(2):
        assert await link.run(script, ("k",), "a", b"\x00\xff") == [b"k", b"a", b"\x00\xff"]
        await redis.script_flush()
    with pytest.raises(hiredis.ReplyError, match="no such thing"):
        await link.run(Script("return redis.error_reply('ERR no such thing')"), ())


async def test_scripts_are_loaded_with_the_connection(own_redis: RedisServer) -> None:
    known = Script("return 'known'")
    other = client(own_redis.url)
    link = RedisLink(own_redis.url, scripts=(known,))
    await link.start(5.0)
    assert await other.script_exists(known.sha) == [True]
    assert await link.run(known, ()) == b"known"
    await link.close()
    await other.aclose()


async def test_a_connection_that_breaks_fails_all_its_calls_at_once_and_mends_itself(own_redis: RedisServer) -> None:
    async with linked(own_redis.url) as link:
        redis = client(own_redis.url)
        blocked = [asyncio.ensure_future(link.call("BLPOP", "nothing", "0")) for _ in range(50)]
        await asyncio.sleep(0)
        began = time.monotonic()
        await redis.client_kill_filter(_type="normal", skipme=True)

        replies = await outcomes(list(blocked))

        assert time.monotonic() - began < allowed(0.4)
        assert all(isinstance(reply, RedisAway) for reply in replies)
        await until(lambda: link.connected)
        assert await link.call("PING") == b"PONG"
        await redis.aclose()


async def test_whoever_is_told_of_the_break_may_call_again_at_once_and_is_answered(own_redis: RedisServer) -> None:
    """The moment between the loss of a connection and its being noticed must not swallow a call for ever."""
    async with linked(own_redis.url) as link:

        async def persistent() -> str:
            try:
                await link.call("BLPOP", "nothing", "0")
            except RedisAway:
                try:
                    await link.call("PING")
                except RedisAway:
                    return "told twice"
            return "answered"

        calls = [asyncio.ensure_future(persistent()) for _ in range(5)]
        await asyncio.sleep(0.05)
        own_redis.kill()
        async with asyncio.timeout(30):
            assert set(await outcomes(list(calls))) == {"told twice"}


async def test_a_killed_redis_is_refused_at_once_and_found_again(own_redis: RedisServer) -> None:
    async with linked(own_redis.url) as link:
        await link.call("SET", "kept", "1")
        own_redis.kill()
        await until(lambda: not link.connected)
        began = time.monotonic()
        with pytest.raises(RedisAway):
            await link.call("GET", "kept")
        assert time.monotonic() - began < allowed(0.5)
        own_redis.start()
        await until(lambda: link.connected)
        assert await link.call("GET", "kept") == b"1"


async def test_a_hung_redis_is_away_within_twice_the_timeout_and_leaves_no_sockets_behind(
    own_redis: RedisServer,
) -> None:
    async with linked(own_redis.url, timeout_s=0.1) as link:
        os.kill(own_redis.pid, signal.SIGSTOP)
        try:
            began = time.monotonic()
            replies = await outcomes([link.call("PING") for _ in range(20)])
            took = time.monotonic() - began
            sockets = len(psutil.Process().net_connections("unix"))
            await asyncio.sleep(1.0)  # several tries to connect, each of them given up
            assert len(psutil.Process().net_connections("unix")) - sockets <= 1
        finally:
            os.kill(own_redis.pid, signal.SIGCONT)
        assert all(isinstance(reply, RedisAway) for reply in replies)
        assert took <= allowed(0.25)
        await until(lambda: link.connected)
        assert await link.call("PING") == b"PONG"


async def test_a_full_redis_counts_as_away_also_inside_a_script(own_redis: RedisServer) -> None:
    redis = client(own_redis.url)
    async with linked(own_redis.url) as link:
        await redis.config_set("maxmemory", "1")
        with pytest.raises(RedisAway, match="OOM"):
            await link.call("SET", "a", "b")
        intent = Intent(worker="w", key_id="k", ts_ms=1)
        with pytest.raises(RedisAway, match="OOM"):
            await admit(link, Keys(), own(Principal(key_id="k", rpm=5)), "r1", intent, tokens=1)
    await redis.aclose()


async def test_a_read_only_replica_counts_as_away(own_redis: RedisServer) -> None:
    redis = client(own_redis.url)
    async with linked(own_redis.url) as link:
        await redis.replicaof("127.0.0.1", "1")
        with pytest.raises(RedisAway, match="READONLY"):
            await link.run(Script("return redis.call('SET', KEYS[1], '1')"), ("a",))
    await redis.aclose()


async def test_the_backlog_is_bounded(link: RedisLink, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_io, "_PENDING_MAX", 10)
    replies = await outcomes([link.call("PING") for _ in range(15)])
    assert replies[:10] == [b"PONG"] * 10
    assert all(isinstance(reply, RedisAway) and "pending" in str(reply) for reply in replies[10:])


async def test_nothing_is_waited_for_where_there_is_no_redis(tmp_path: Path) -> None:
    link = RedisLink(f"unix://{tmp_path}/nobody.sock")
    await link.start(0.05)
    with pytest.raises(RedisAway, match="not connected"):
        await link.call("PING")
    await link.close()
    await RedisLink("unix:///nobody").close()


async def test_a_url_with_user_password_and_database_over_tcp(tmp_path: Path) -> None:
    with TcpRedis(tmp_path, password="p@ss:w/rd") as server:
        redis = client(server.url(db=3))
        async with linked(server.url(db=3)) as link:
            await link.call("SET", "where", "three")
        async with linked(server.url(user="default", db=3)) as link:
            assert await link.call("GET", "where") == b"three"
        async with linked(server.url(db=0)) as link:
            assert await link.call("GET", "where") is None
        assert await redis.get("where") == b"three"
        await redis.aclose()


async def test_a_wrong_password_is_never_connected(tmp_path: Path) -> None:
    with TcpRedis(tmp_path, password="right") as server:
        link = RedisLink(server.url(password="wrong"))
        await link.start(0.3)
        assert not link.connected
        await link.close()


def test_everything_kept_for_an_organisation_lies_on_one_cluster_slot() -> None:
    names = Keys("acme")
    made = [
        *(value for name, value in vars(names).items() if name != "prefix"),
        *(getattr(names, method)("x") for method in ("limits", "running", "budget", "once", "alive", "missing")),
        *(getattr(names, method)("x") for method in ("exact", "normal", "vectors")),
    ]
    assert len(set(made)) == len(made)
    assert all(name.startswith("fg:{acme}:") for name in made)
    assert Keys().prefix == "fg:{default}:"


def test_where_redis_is(tmp_path: Path) -> None:
    def settings(url: str | None) -> Settings:
        config = GatewayConfig(redis=RedisConfig(url=url))
        return Settings(config=config, file="", data_dir=tmp_path, models_dir=tmp_path, policies_dir=tmp_path)

    assert redis_url(settings("redis://there:1/2")) == "redis://there:1/2"
    assert redis_url(settings(None)).startswith("unix:///")
    assert redis_url(settings(None)).endswith("/redis.sock")
