"""Taking back what answers taught that are taken out: the outcomes of their requests, on every worker.

What expires or is evicted leaves its outcomes behind (numbers, no text); what somebody purges or erases does not.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from gateway.cache import exact
from gateway.cache.lessons import Made
from gateway.cache.posterior import Observation
from gateway.redis_io import Keys

if TYPE_CHECKING:
    from redis.asyncio import Redis

_BATCH = 500
_EVENTS_KEPT = 20_000


async def forget_entries(redis: Redis, keys: Keys, ids: Sequence[str]) -> int:
    """The outcomes that stored answers had a part in, of either side. Raises redis.RedisError."""
    held: Any = await redis.hmget(keys.sizes, list(ids)) if ids else []
    values: Any = await redis.mget([keys.exact(entry_id) for entry_id in ids]) if ids else []
    entries = [entry for value in values if value and (entry := exact.decode(value)) is not None]
    partitions = {where.decode().partition(":")[2] for where in held if where}
    return await forget(redis, keys, {(entry.created_ms, entry.model) for entry in entries}, partitions)


async def forget(redis: Redis, keys: Keys, made: Collection[Made], partitions: Collection[str] | None = None) -> int:
    """The outcomes of these requests; ``partitions``: None for all. Returns how many. Raises redis.RedisError."""
    if not made:
        return 0
    forgotten = 0
    async for name in _lists(redis, keys, partitions):
        values: Any = await redis.lrange(name, 0, -1)
        gone = [value for value in values if _of(value, made)]
        for value in gone:
            await redis.lrem(name, 0, value)
        if gone:
            partition = name.removeprefix(keys.outcomes(""))
            await redis.xadd(keys.events, {"unlearn": partition}, maxlen=_EVENTS_KEPT, approximate=True)
        forgotten += len(gone)
    if forgotten:
        await _forget_events(redis, keys, made)
    return forgotten


async def _lists(redis: Redis, keys: Keys, partitions: Collection[str] | None) -> AsyncIterator[str]:
    if partitions is not None:
        for partition in partitions:
            yield keys.outcomes(partition)
        return
    async for name in redis.scan_iter(match=f"{keys.outcomes('')}*", count=1000):
        yield name.decode()


async def _forget_events(redis: Redis, keys: Keys, made: Collection[Made]) -> None:
    """They were told to all workers, too."""
    after = "-"
    while True:
        some: Any = await redis.xrange(keys.events, min=after, count=_BATCH)
        if not some:
            return
        gone = [message_id for message_id, fields in some if _of(fields.get(b"outcome", b""), made)]
        if gone:
            await redis.xdel(keys.events, *gone)
        after = f"({some[-1][0].decode()}"


def _of(value: bytes, made: Collection[Made]) -> bool:
    try:
        observation = msgspec.msgpack.decode(value, type=Observation)
    except (msgspec.DecodeError, UnicodeDecodeError):  # of another version, or no outcome
        return False
    return any(tuple(each) in made for each in observation.made)
