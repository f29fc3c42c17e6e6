"""How similarities are counted, and when they are said to have shifted."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import msgspec
import pytest
from redis.asyncio import Redis

from gateway.cache.hits import Hits
from gateway.cache.posterior import Observation
from gateway.cache.stats import (
    BUCKETS,
    KEPT_DAYS,
    PSI_ALARM,
    Checked,
    bounds,
    bucket,
    checked,
    forget_days,
    posterior,
    psi,
    stats,
)
from gateway.redis_io import Keys, RedisLink

DAY_MS = 86_400_000


@pytest.mark.parametrize(
    ("similarity", "number"), [(-1, 0), (0.4, 0), (0.5, 0), (0.52, 0), (0.526, 1), (0.99, 19), (1, 19)]
)
def test_a_similarity_falls_into_a_bucket(similarity: float, number: int) -> None:
    assert bucket(similarity) == number
    low, high = bounds(number)
    assert similarity < high or similarity == 1
    assert low <= similarity or number == 0


def spread(**counts: int) -> list[int]:
    return [counts.get(f"b{number}", 0) for number in range(BUCKETS)]


def test_the_same_distribution_has_not_shifted() -> None:
    found = psi(spread(b18=400, b19=600), spread(b18=2000, b19=3000))
    assert found is not None
    assert found < 0.01


def test_another_one_has() -> None:
    found = psi(spread(b18=800, b19=200), spread(b18=200, b19=800))
    assert found is not None
    assert found == pytest.approx(0.6 * 2 * 1.386, rel=0.02)
    assert found > PSI_ALARM


def test_too_few_say_nothing() -> None:
    assert psi(spread(b19=99), spread(b19=1000)) is None
    assert psi(spread(b19=1000), spread()) is None


async def test_what_audits_have_seen_is_added_up(redis: Redis, keys: Keys) -> None:
    nothing = await checked(redis, keys)
    assert (nothing.checked, nothing.wrong, nothing.low, nothing.high, nothing.promises) == (0, 0, 0.0, 1.0, ())
    for number in range(200):
        seen = Observation(f"o{number}", (1.0,), same=number % 50 != 0, audited=number % 2 == 0)
        await redis.rpush(keys.outcomes(f"p{number % 3}"), msgspec.msgpack.encode(seen))
    await redis.rpush(keys.outcomes("p0"), b"another version's")

    found = await checked(redis, keys)

    assert (found.checked, found.wrong) == (100, 4)
    assert found.low == pytest.approx(0.0157, abs=0.001)
    assert found.high == pytest.approx(0.0984, abs=0.001)


async def test_each_promise_is_held_against_its_budget(redis: Redis, keys: Keys) -> None:
    strict: dict[str, Any] = {"policy": "strict", "mode": "question", "budget": 0.01}
    loose: dict[str, Any] = {"policy": "loose", "mode": "faq", "budget": 0.2}
    for number in range(60):
        for partition, promise, same in (("p0", strict, number % 5 != 0), ("p1", loose, number % 10 != 0)):
            seen = Observation(f"o{number}", (1.0,), same=same, audited=True, said=0.992, **promise)
            await redis.rpush(keys.outcomes(partition), msgspec.msgpack.encode(seen))
    reported = Observation("rejected:r1", (1.0,), same=False)
    await redis.rpush(keys.outcomes("p0"), msgspec.msgpack.encode(reported))

    found = await checked(redis, keys)

    assert {one.policy: (one.checked, one.wrong, one.exceeded, one.closed) for one in found.promises} == {
        "strict": (60, 12, True, 1),
        "loose": (60, 6, False, 0),
    }
    assert {one.partition for one in found.partitions} == {"p0", "p1"}
    assert (sum(found.afresh), sum(found.same)) == (120, 120 - 18)
    held = await stats(redis, 100 * DAY_MS, keys)
    assert posterior(held, found) == [(0.99, 0.995, 0, 120, 102)]


async def test_hits_are_counted_by_how_sure_they_were(link: RedisLink, redis: Redis, keys: Keys) -> None:
    tasks: list[asyncio.Task[None]] = []
    hits = Hits(link, keys, lambda work: tasks.append(asyncio.ensure_future(work)))
    for p_same in (0.991, 0.992, 0.999, 1.0):
        hits.note("e", 1000, 0.97, p_same)
    await hits.flush()
    held = await stats(redis, int(time.time() * 1000), keys)
    assert [row[:3] for row in posterior(held, Checked(checked=0, wrong=0, low=0, high=1))] == [
        (0.99, 0.995, 2),
        (0.995, 1.0, 2),
    ]
    await asyncio.gather(*tasks)


async def test_old_days_are_forgotten(redis: Redis, keys: Keys) -> None:
    now = 100 * DAY_MS
    await redis.hset(keys.days, mapping={"100:19": 1, f"{100 - KEPT_DAYS}:19": 1, f"{99 - KEPT_DAYS}:19": 1})
    assert await forget_days(redis, now, keys) == 1
    assert sorted(await redis.hkeys(keys.days)) == [b"100:19", b"86:19"]
    assert await forget_days(redis, now, keys) == 0
