"""A worker's copy of the vectors beside a real Redis: it holds what Redis holds, and not too much."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from redis.asyncio import Redis

from gateway.cache import codes
from gateway.cache import partitions as module
from gateway.cache.partitions import Partitions
from gateway.cache.prefilter import Marker
from gateway.redis_io import Keys

VALUE = codes.encode(np.array([0.6, 0.8], dtype=np.float32)) + Marker().of("why")


@pytest.fixture
def held() -> Iterator[Partitions]:
    made = Partitions(most=3)
    yield made
    made.close()


async def fill(redis: Redis, keys: Keys, partition: str, *entries: str) -> None:
    await redis.hset(keys.vectors(partition), mapping=dict.fromkeys(entries, VALUE))


async def test_a_refill_leaves_what_redis_holds(redis: Redis, keys: Keys, held: Partitions) -> None:
    held.add("gone", "e", VALUE)
    for entry in ("kept", "dropped"):
        held.add("p", entry, VALUE)
    await fill(redis, keys, "p", "kept", "new")
    await fill(redis, keys, "q", *(f"e{number}" for number in range(1_200)))  # more than come at once
    await held.refill(redis, keys)
    assert set(held) == {"p", "q"}
    index = held.get("p")
    assert index is not None
    assert set(index) == {"kept", "new"}
    assert len(held) == 1_202


async def test_the_least_lately_used_partition_goes_first(held: Partitions) -> None:
    for partition in "abc":
        held.add(partition, "e", VALUE)
    held.get("a")
    held.add("d", "e", VALUE)
    assert set(held) == {"a", "c", "d"}
    assert not held.may_hit("b", Marker().of("why"))


async def test_what_is_odd_once_may_be_on_its_way_and_twice_is_looked_into(
    redis: Redis, keys: Keys, held: Partitions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_CHECKED", 1)  # one partition a call, all in turn
    held.add("p", "e", VALUE)
    held.add("q", "e", VALUE)
    await fill(redis, keys, "p", "e", "not told yet")
    await fill(redis, keys, "q", "e")
    for expected in (2, 2, 3):
        await held.check(redis, keys)
        assert len(held) == expected
        await held.check(redis, keys)


async def test_garbage_in_redis_is_passed_by(redis: Redis, keys: Keys, held: Partitions) -> None:
    await redis.hset(keys.vectors("p"), mapping={"e": b"garbage"})
    await held.refill(redis, keys)
    assert len(held) == 0
    held.remove("p", "e")
    held.clear()
