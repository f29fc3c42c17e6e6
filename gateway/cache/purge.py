"""Taking stored answers out, on every worker: some by whose they are, what they are tagged, their age or id; or all."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

from gateway.cache import exact
from gateway.cache.eviction import drop
from gateway.cache.lessons import Lesson, note_by
from gateway.redis_io import Keys
from gateway.types import DAY_MS, CacheEntry, Frozen

if TYPE_CHECKING:
    from redis.asyncio import Redis

_BATCH = 200
_EVENTS_KEPT = 20_000


class Which(Frozen, frozen=True, kw_only=True):
    """Entries that are all of what is set; nothing set: every entry. ``before_ms``: made before that time."""

    key: str | None = None
    tag: str | None = None
    entry: str | None = None
    before_ms: int | None = None

    def fits(self, entry: CacheEntry) -> bool:
        return (
            self.key in (None, entry.key_id)
            and (self.tag is None or self.tag in entry.tags)
            and self.entry in (None, entry.id)
            and (self.before_ms is None or entry.created_ms < self.before_ms)
        )


class Purged(Frozen, frozen=True, kw_only=True):
    """How many entries of how many bytes; ``dry_run``: they are still there."""

    entries: int
    bytes: int
    dry_run: bool = False


async def purge(redis: Redis, which: Which, *, dry_run: bool = False, keys: Keys | None = None) -> Purged:
    """Remove, or count only. Raises redis.RedisError."""
    keys = keys or Keys()
    if which == Which():
        return await _purge_all(redis, keys, dry_run=dry_run)
    entries = size = 0
    async for found in _fitting(redis, keys, which):
        size += sum(length for _, length in found)
        ids = [entry_id for entry_id, _ in found]
        entries += len(ids) if dry_run or not ids else await _take_out(redis, keys, ids)
    return Purged(entries=entries, bytes=size, dry_run=dry_run)


async def _take_out(redis: Redis, keys: Keys, ids: Sequence[str]) -> int:
    from gateway.cache.forgetting import forget_entries  # brings numpy, which the command line can do without

    await forget_entries(redis, keys, ids)
    return await drop(redis, ids, keys)


async def _fitting(redis: Redis, keys: Keys, which: Which) -> AsyncIterator[list[tuple[str, int]]]:
    """Ids and sizes, a batch at a time."""
    if which.entry is not None:
        yield await _read(redis, keys, [which.entry], which)
        return
    held: Any = await redis.zrange(keys.entries, 0, -1)
    for start in range(0, len(held), _BATCH):
        yield await _read(redis, keys, [entry_id.decode() for entry_id in held[start : start + _BATCH]], which)


async def _read(redis: Redis, keys: Keys, ids: Sequence[str], which: Which) -> list[tuple[str, int]]:
    values: Any = await redis.mget([keys.exact(entry_id) for entry_id in ids])
    read = [(entry_id, value, exact.decode(value)) for entry_id, value in zip(ids, values, strict=True) if value]
    return [(entry_id, len(value)) for entry_id, value, entry in read if entry is not None and which.fits(entry)]


async def _purge_all(redis: Redis, keys: Keys, *, dry_run: bool) -> Purged:
    """Everything, also what was left over or lost its place in the lists, and what was learnt from it."""
    purged = Purged(
        entries=await redis.zcard(keys.entries), bytes=int(await redis.get(keys.bytes) or 0), dry_run=dry_run
    )
    if dry_run:
        return purged
    await redis.delete(keys.entries, keys.sizes, keys.bytes, keys.worth, keys.saved, keys.hits)
    for prefix in (keys.exact(""), keys.normal(""), keys.vectors(""), keys.outcomes("")):
        names = []
        async for name in redis.scan_iter(match=f"{prefix}*", count=1000):
            names.append(name)
            if len(names) == _BATCH:
                await redis.unlink(*names)
                names = []
        if names:
            await redis.unlink(*names)
    await redis.xadd(keys.events, {"purge": "1"}, maxlen=_EVENTS_KEPT, approximate=True)
    return purged


class WrongHit(Frozen, frozen=True, kw_only=True):
    """A request that was answered with an entry, wrongly: its row's. ``evidence`` and ``measures``: what that hit was
    decided on; () where it was no semantic one.
    """

    request_id: str
    key_id: str
    ts_ms: int
    model: str
    evidence: tuple[float, ...] = ()
    measures: tuple[float, ...] = ()


async def reject(
    redis: Redis,
    entry_id: str,
    hits: Sequence[WrongHit] = (),
    *,
    source: Literal["reported", "rejected"] = "reported",
    keys: Keys | None = None,
) -> bool:
    """Evict an answer that somebody says was wrong, and tell those who learn from it. False: there is no such entry.

    The event ``reject`` on the stream of cache events carries the entry, its partition and its stored question. Of each
    of ``hits``, what it was served on is an outcome for the partition's posterior and a lesson for the verifier.
    """
    keys = keys or Keys()
    held: Any = await redis.hget(keys.sizes, entry_id)
    value: Any = await redis.get(keys.exact(entry_id))
    if held is None or not await drop(redis, [entry_id], keys):
        return False
    entry, partition = exact.decode(value) if value else None, held.decode().partition(":")[2]
    event: dict[Any, Any] = {"reject": entry_id, "partition": partition, "stored": entry.prompt if entry else ""}
    await redis.xadd(keys.events, event, maxlen=_EVENTS_KEPT, approximate=True)
    await redis.hincrby(keys.days, f"{day(int(time.time() * 1000))}:rejected", 1)
    for hit in hits:
        await _learn(redis, keys, partition, hit, entry, source)
    return True


async def _learn(
    redis: Redis,
    keys: Keys,
    partition: str,
    hit: WrongHit,
    entry: CacheEntry | None,
    source: Literal["reported", "rejected"],
) -> None:
    from gateway.cache.judges import teach  # brings numpy, which the command line can do without
    from gateway.cache.posterior import Observation

    if hit.evidence:
        made = ((hit.ts_ms, hit.model), *(((entry.created_ms, entry.model),) if entry else ()))
        outcome = Observation(f"rejected:{hit.request_id}", hit.evidence, same=False, made=made)
        await teach(redis, keys, partition, outcome)
    if hit.measures:
        lesson = Lesson(
            ts_ms=int(time.time() * 1000),
            tenant=hit.key_id,
            partition=partition,
            source=source,
            measures=hit.measures,
            same=False,
            made=((hit.ts_ms, hit.model),),
        )
        await note_by(redis, keys, lesson)


def day(now_ms: int) -> int:
    """Days since 1970 began, UTC: what is counted by the day is counted under it."""
    return now_ms // DAY_MS
