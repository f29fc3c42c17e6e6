"""Lessons in a real Redis: bounded, expiring, and gone where somebody is erased."""

from __future__ import annotations

import time

import pytest
from redis.asyncio import Redis

from gateway.cache import lessons
from gateway.cache.lessons import KEPT_MS, Lesson
from gateway.redis_io import Keys, RedisLink


def lesson(ts_ms: int, tenant: str = "key_a", made: tuple[tuple[int, str], ...] = ()) -> Lesson:
    return Lesson(
        ts_ms=ts_ms, tenant=tenant, partition="p", source="explored", measures=(0.9, 1.0), same=True, made=made
    )


async def held(redis: Redis, keys: Keys, since_ms: int = 0) -> list[Lesson]:
    return [each async for each in lessons.lessons(redis, keys, since_ms)]


async def test_what_is_too_old_is_gone_and_all_of_it_expires(link: RedisLink, redis: Redis, keys: Keys) -> None:
    now_ms = int(time.time() * 1000)
    await lessons.note(link, keys, lesson(now_ms - KEPT_MS - 1))
    await lessons.note_by(redis, keys, lesson(now_ms - 1000))
    await lessons.note(link, keys, lesson(now_ms))
    assert [each.ts_ms for each in await held(redis, keys)] == [now_ms - 1000, now_ms]
    assert [each.ts_ms for each in await held(redis, keys, now_ms - 10)] == [now_ms]
    assert 0 < await redis.pttl(keys.lessons) <= KEPT_MS


async def test_there_are_never_many_more_than_the_bound(
    link: RedisLink, redis: Redis, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lessons, "LESSONS_MAX", 200)
    for number in range(1_000):
        await lessons.note(link, keys, lesson(int(time.time() * 1000), f"key_{number}"))
    kept = await held(redis, keys)
    assert 200 <= len(kept) <= 400
    assert kept[-1].tenant == "key_999"


async def test_erasing_takes_those_of_a_key_and_of_requests(link: RedisLink, redis: Redis, keys: Keys) -> None:
    now_ms = int(time.time() * 1000)
    await lessons.note(link, keys, lesson(now_ms, "key_gone"))
    await lessons.note(link, keys, lesson(now_ms, "key_stays", made=((5, "big"), (7, "big"))))
    await lessons.note(link, keys, lesson(now_ms, "key_stays", made=((6, "big"),)))
    await redis.xadd(keys.lessons, {"l": b"of another version"})
    assert await lessons.forget(redis, keys, {(7, "big"), (6, "small")}, "key_gone") == 3
    assert [each.made for each in await held(redis, keys)] == [((6, "big"),)]
