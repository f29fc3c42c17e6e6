"""The bounds of the cache, kept on a real Redis."""

from __future__ import annotations

import time
from typing import Any

from redis.asyncio import Redis

from gateway.budget.levels import NOTHING
from gateway.budget.limits import admit
from gateway.budget.reservations import CacheWrite, settle
from gateway.cache.eviction import HALF_LIFE_MS, drop, evict, worth
from gateway.cache.hits import Hits
from gateway.redis_io import Keys, RedisLink
from tests.support.accounts import intent, settlement

HOUR_MS = 3_600_000


async def store(
    link: RedisLink,
    keys: Keys,
    name: str,
    *,
    size: int = 10,
    ends_in_ms: int = HOUR_MS,
    saving_nano: int = 10**6,
    age_ms: int = 0,
) -> None:
    """As a settled request stores its answer."""
    now = int(time.time() * 1000)
    write = CacheWrite(
        digest=name,
        normal=f"n-{name}",
        partition="p",
        value=b"x" * size,
        ttl_ms=HOUR_MS,
        expires_ms=now + ends_in_ms,
        worth=worth(saving_nano, size, now - age_ms),
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


async def test_the_oldest_of_equals_go_first_until_the_count_holds(link: RedisLink, redis: Redis, keys: Keys) -> None:
    for n in range(20):
        await store(link, keys, f"e{n:02}", age_ms=(20 - n) * 60_000)
    assert await evict(redis, 7, 10**9, keys) == 13
    assert await left(redis, keys) == {f"e{n:02}" for n in range(13, 20)}
    assert await redis.get(keys.bytes) == b"70"
    assert await evict(redis, 7, 10**9, keys) == 0


async def test_what_saves_little_for_its_size_goes_first(link: RedisLink, redis: Redis, keys: Keys) -> None:
    await store(link, keys, "dear-small", size=100, saving_nano=10**7)
    await store(link, keys, "dear-large", size=400, saving_nano=10**7)
    await store(link, keys, "cheap-small", size=100, saving_nano=10**6)
    await store(link, keys, "cheap-large", size=400, saving_nano=10**6)

    await evict(redis, 1000, 950, keys)
    assert await left(redis, keys) == {"dear-small", "dear-large", "cheap-small"}
    await evict(redis, 1000, 550, keys)
    assert await left(redis, keys) == {"dear-small", "dear-large"}
    await evict(redis, 1, 10**9, keys)
    assert await left(redis, keys) == {"dear-small"}
    assert await redis.get(keys.bytes) == b"100"
    await evict(redis, 1000, 1, keys)
    assert await left(redis, keys) == set()


async def test_what_is_used_stays(link: RedisLink, redis: Redis, keys: Keys) -> None:
    for name in ("used", "idle"):
        await store(link, keys, name, age_ms=HOUR_MS)
    await store(link, keys, "young")
    await Hits(link, keys, lambda work: work.close()).flush()  # nothing to hand over
    hits = Hits(link, keys, lambda work: work.close())
    for _ in range(3):
        hits.note("used", 10**6)
    hits.note("unknown", 10**6)
    await hits.flush()

    assert (await redis.hgetall(keys.hits), await redis.zscore(keys.saved, "used")) == ({b"used": b"3"}, 3e6)
    await evict(redis, 2, 10**9, keys)
    assert await left(redis, keys) == {"used", "young"}
    await evict(redis, 1, 10**9, keys)
    assert await left(redis, keys) == {"used"}
    await drop(redis, ["used"], keys)
    assert not await redis.exists(keys.hits, keys.saved, keys.worth)


async def test_what_was_used_long_ago_does_not_stay_for_ever(link: RedisLink, redis: Redis, keys: Keys) -> None:
    """A hundred uses, eight half-lives ago, are worth less than one now."""
    await store(link, keys, "once-loved", age_ms=8 * HALF_LIFE_MS, saving_nano=100 * 10**6)
    await store(link, keys, "fresh")
    await evict(redis, 1, 10**9, keys)
    assert await left(redis, keys) == {"fresh"}


async def test_answers_deleted_behind_our_back_are_let_go(link: RedisLink, redis: Redis, keys: Keys) -> None:
    for n in range(60):
        await store(link, keys, f"e{n}")
    await redis.hset(keys.vectors("p"), "e7", b"vector")
    await redis.delete(*(keys.exact(f"e{n}") for n in range(59)))

    assert await evict(redis, 1000, 10**9, keys) == 59
    assert await left(redis, keys) == {"e59"}
    events: Any = await redis.xrange(keys.events)
    assert [fields for _, fields in events] == [{b"drop": b"e7", b"partition": b"p"}]


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
