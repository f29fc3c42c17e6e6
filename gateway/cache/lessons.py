"""What own traffic showed about pairs of questions, kept for `gateway cache train`: measures and an outcome, no text.

A stream in Redis, bounded by number and by age. Each lesson names the moments and models of the two requests it came
from, which is how erasing finds those of a person.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Collection
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from gateway.redis_io import Keys, RedisLink, Script
from gateway.types import DAY_MS, Frozen

if TYPE_CHECKING:
    from redis.asyncio import Redis

LESSONS_MAX = 20_000
KEPT_MS = 30 * DAY_MS
_PAGE = 500
Source = Literal["explored", "audited", "judged", "reported", "rejected"]
Made = tuple[int, str]
"""When a request came, and which model answered."""

_NOTE = Script(
    """
redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[2], '*', 'l', ARGV[1])
redis.call('XTRIM', KEYS[1], 'MINID', ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return 1
"""
)


class Lesson(Frozen, frozen=True, kw_only=True):
    """Whether one answer served both of two questions. ``tenant``: the key that asked. ``measures``: those of
    :mod:`gateway.cache.verifier`. ``source``: a fresh answer (one in doubt, one that was checked, one a model judged),
    a caller's feedback, or an operator's rejection.
    """

    ts_ms: int
    tenant: str
    partition: str
    source: Source
    measures: tuple[float, ...]
    same: bool
    made: tuple[Made, ...] = ()


def _arguments(lesson: Lesson) -> tuple[bytes, str, str, str]:
    oldest = max(0, lesson.ts_ms - KEPT_MS)
    return msgspec.msgpack.encode(lesson), str(LESSONS_MAX), str(oldest), str(KEPT_MS)


async def note(link: RedisLink, keys: Keys, lesson: Lesson) -> None:
    """Keep a lesson. Raises RedisAway."""
    await link.run(_NOTE, (keys.lessons,), *_arguments(lesson))


async def note_by(redis: Redis, keys: Keys, lesson: Lesson) -> None:
    """As `note`, off the way of a request. Raises redis.RedisError."""
    await redis.eval(_NOTE.source, 1, keys.lessons, *_arguments(lesson))


async def lessons(redis: Redis, keys: Keys, since_ms: int = 0) -> AsyncIterator[Lesson]:
    """Those not too old, oldest first. Raises redis.RedisError."""
    since_ms = max(since_ms, int(time.time() * 1000) - KEPT_MS)
    async for _, lesson in _scan(redis, keys):
        if lesson is not None and lesson.ts_ms >= since_ms:
            yield lesson


async def forget(redis: Redis, keys: Keys, made: Collection[Made], tenant: str | None = None) -> int:
    """Erase the lessons of these requests, and a key's. Returns how many. Raises redis.RedisError."""
    gone = [
        message_id
        async for message_id, lesson in _scan(redis, keys)
        if lesson is None or lesson.tenant == tenant or any(tuple(each) in made for each in lesson.made)
    ]
    if gone:
        await redis.xdel(keys.lessons, *gone)
    return len(gone)


async def _scan(redis: Redis, keys: Keys) -> AsyncIterator[tuple[Any, Lesson | None]]:
    """Id and lesson; None for bytes another version wrote."""
    after = "-"
    while True:
        some: Any = await redis.xrange(keys.lessons, min=after, count=_PAGE)
        if not some:
            return
        for message_id, fields in some:
            try:
                yield message_id, msgspec.msgpack.decode(fields[b"l"], type=Lesson)
            except (msgspec.DecodeError, UnicodeDecodeError, KeyError):
                yield message_id, None
        after = f"({some[-1][0].decode()}"
