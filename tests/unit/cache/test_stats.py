"""How similarities are counted, and when they are said to have shifted."""

from __future__ import annotations

import msgspec
import pytest
from redis.asyncio import Redis

from gateway.cache.posterior import Observation
from gateway.cache.stats import BUCKETS, KEPT_DAYS, PSI_ALARM, Checked, bounds, bucket, checked, forget_days, psi
from gateway.redis_io import Keys

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
    assert await checked(redis, keys) == Checked(checked=0, wrong=0, low=0.0, high=1.0)
    for number in range(200):
        seen = Observation(f"o{number}", (1.0,), same=number % 50 != 0, audited=number % 2 == 0)
        await redis.rpush(keys.outcomes(f"p{number % 3}"), msgspec.msgpack.encode(seen))
    await redis.rpush(keys.outcomes("p0"), b"another version's")

    found = await checked(redis, keys)

    assert (found.checked, found.wrong) == (100, 4)
    assert found.low == pytest.approx(0.0157, abs=0.001)
    assert found.high == pytest.approx(0.0984, abs=0.001)


async def test_old_days_are_forgotten(redis: Redis, keys: Keys) -> None:
    now = 100 * DAY_MS
    await redis.hset(keys.days, mapping={"100:19": 1, f"{100 - KEPT_DAYS}:19": 1, f"{99 - KEPT_DAYS}:19": 1})
    assert await forget_days(redis, now, keys) == 1
    assert sorted(await redis.hkeys(keys.days)) == [b"100:19", b"86:19"]
    assert await forget_days(redis, now, keys) == 0
