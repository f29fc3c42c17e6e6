"""The bounds of the cache, kept on a real Redis."""

from __future__ import annotations

import time
from typing import Any

from redis.asyncio import Redis

from gateway.budget.levels import NOTHING
from gateway.budget.limits import admit
from gateway.budget.reservations import CacheWrite, settle
from gateway.cache.eviction import drop, evict
from gateway.redis_io import Keys, RedisLink
from tests.support.accounts import intent, settlement

HOUR_MS = 3_600_000


async def store(link: RedisLink, keys: Keys, name: str, *, size: int = 10, ends_in_ms: int = HOUR_MS) -> None:
    """As a settled request stores its answer."""
    ends = int(time.time() * 1000) + ends_in_ms
    write = CacheWrite(
        digest=name, normal=f"n-{name}", partition="p", value=b"x" * size, ttl_ms=HOUR_MS, expires_ms=ends
    )
    await admit(link, keys, NOTHING, f"r-{name}", intent(), tokens=1)
    await settle(link, keys, settlement(f"r-{name}", store=write))


async def left(redis: Redis, keys: Keys) -> set[str]:
    """Ids that are still stored, the same everywhere they are kept."""
    entries: Any = await redis.zrange(keys.entries, 0, -1)
    ids = {name.decode() for name in entries}
    sizes: Any = await redis.hkeys(keys.sizes)
    names: Any = await redis.keys(keys.exact("*"))
    answers = {name.decode().removeprefix(keys.exact("")) for name in names}
    assert ids == answers == {name.decode() for name in sizes}
    return ids


async def test_what_ends_first_goes_first_until_the_count_holds(link: RedisLink, redis: Redis, keys: Keys) -> None:
    for n in range(20):
        await store(link, keys, f"e{n:02}", ends_in_ms=HOUR_MS + n * 1000)
    assert await evict(redis, 7, 10**9) == 13
    assert await left(redis, keys) == {f"e{n:02}" for n in range(13, 20)}
    assert await redis.get(keys.bytes) == b"70"
    assert await evict(redis, 7, 10**9) == 0


async def test_bytes_are_bounded_too(link: RedisLink, redis: Redis, keys: Keys) -> None:
    for n in range(10):
        await store(link, keys, f"e{n}", size=100, ends_in_ms=HOUR_MS + n * 1000)
    await store(link, keys, "large", size=700, ends_in_ms=2 * HOUR_MS)
    await evict(redis, 1000, 1000)
    assert await left(redis, keys) == {"e7", "e8", "e9", "large"}
    assert await redis.get(keys.bytes) == b"1000"
    await evict(redis, 1000, 1)
    assert await left(redis, keys) == set()
    assert await redis.get(keys.bytes) == b"0"


async def test_what_has_expired_goes_although_there_is_room(link: RedisLink, redis: Redis, keys: Keys) -> None:
    for n in range(1_100):
        await store(link, keys, f"old{n}", ends_in_ms=-1000)
    await store(link, keys, "fresh")
    assert await evict(redis, 10_000, 10**9) == 1_100
    assert await left(redis, keys) == {"fresh"}
    assert await redis.get(keys.bytes) == b"10"


async def test_a_counter_that_is_wrong_does_not_turn_in_circles(redis: Redis, keys: Keys) -> None:
    await redis.set(keys.bytes, 10**9)
    assert await evict(redis, 5, 100) == 0


async def test_dropping_tells_all_workers_of_vectors_only(link: RedisLink, redis: Redis, keys: Keys) -> None:
    for name in ("with", "without"):
        await store(link, keys, name)
    await redis.hset(keys.vectors("p"), "with", b"vector")

    assert await drop(redis, ["with", b"without", "unknown"]) == 2

    events: Any = await redis.xrange(keys.events)
    assert [fields for _, fields in events] == [{b"drop": b"with", b"partition": b"p"}]
    assert not await redis.exists(keys.vectors("p"))
    assert await left(redis, keys) == set()
    assert await redis.get(keys.bytes) == b"0"
    assert await drop(redis, ["with"]) == 0
