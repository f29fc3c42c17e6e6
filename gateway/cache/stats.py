"""What an operator sees of the cache: what it holds, what that saved, and how close hits are to what was asked."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgspec

from gateway.cache import exact
from gateway.cache.audit import Audit
from gateway.cache.purge import day
from gateway.redis_io import Keys
from gateway.types import Frozen

if TYPE_CHECKING:
    from redis.asyncio import Redis

BUCKETS = 20
"""Of similarities from 0.5 (what is below counts there) to 1: each 0.025 wide."""
KEPT_DAYS = 14
PSI_ALARM = 0.25
"""Above it a distribution is taken to have shifted (Siddiqi, Credit Risk Scorecards, 2006)."""
LEAST = 100
_WEEK = 7
_LOWEST = 0.5
_PROMPT_MAX = 120


class Top(Frozen, frozen=True, kw_only=True):
    """A stored answer and what its uses have saved, nano-dollars. ``prompt`` is cut."""

    entry: str
    hits: int
    saved_nano: int
    model: str
    key_id: str
    prompt: str
    created_ms: int
    bytes: int


class CacheStats(Frozen, frozen=True, kw_only=True):
    """``similarity``: semantic hits of this week by bucket, lowest first; ``similarity_before``: of the week before.

    ``psi``: how far the two differ, None where either has fewer than ``LEAST``. ``rejected``: hits of this week that
    were said to be wrong.
    """

    entries: int
    bytes: int
    similarity: tuple[int, ...]
    similarity_before: tuple[int, ...]
    psi: float | None
    rejected: int
    top: tuple[Top, ...]

    @property
    def drifts(self) -> bool:
        return self.psi is not None and self.psi > PSI_ALARM


class Checked(Frozen, frozen=True, kw_only=True):
    """Would-be semantic hits that were answered afresh to see whether they were right, over all partitions.

    ``low`` and ``high``: Wilson's 95 % interval of the wrong share; 0 and 1 where nothing was checked.
    """

    checked: int
    wrong: int
    low: float
    high: float


def bucket(similarity: float) -> int:
    """Which of the ``BUCKETS`` a similarity falls in."""
    return min(BUCKETS - 1, max(0, int((similarity - _LOWEST) / (1 - _LOWEST) * BUCKETS)))


def bounds(number: int) -> tuple[float, float]:
    """From where to where a bucket reaches."""
    width = (1 - _LOWEST) / BUCKETS
    return _LOWEST + number * width, _LOWEST + (number + 1) * width


def psi(now: Sequence[int], before: Sequence[int]) -> float | None:
    """Population stability index: Σ (p − q) ln(p ÷ q) over the buckets, half a count added to each; None: too few."""
    if sum(now) < LEAST or sum(before) < LEAST:
        return None
    used = [(p + 0.5, q + 0.5) for p, q in zip(now, before, strict=True) if p or q]
    sums = [sum(pair[side] for pair in used) for side in (0, 1)]
    shares = [(p / sums[0], q / sums[1]) for p, q in used]
    return sum((p - q) * math.log(p / q) for p, q in shares)


async def stats(redis: Redis, now_ms: int, keys: Keys | None = None, *, most: int = 10) -> CacheStats:
    """From Redis alone. Raises redis.RedisError."""
    keys = keys or Keys()
    held: Any = await redis.hgetall(keys.days)
    counts = {field.decode(): int(value) for field, value in held.items()}
    today = day(now_ms)
    now, before = _week(counts, today), _week(counts, today - _WEEK)
    return CacheStats(
        entries=await redis.zcard(keys.entries),
        bytes=int(await redis.get(keys.bytes) or 0),
        similarity=now,
        similarity_before=before,
        psi=psi(now, before),
        rejected=sum(counts.get(f"{each}:rejected", 0) for each in range(today - _WEEK + 1, today + 1)),
        top=await _top(redis, keys, most),
    )


async def checked(redis: Redis, keys: Keys | None = None) -> Checked:
    """What the audits have seen lately: each partition keeps its newest outcomes. Raises redis.RedisError."""
    from gateway.cache.posterior import Observation  # brings numpy, which the background process can do without

    keys = keys or Keys()
    audit = Audit(1.0)
    async for name in redis.scan_iter(match=f"{keys.outcomes('')}*", count=1000):
        log: Any = await redis.lrange(name, 0, -1)
        for value in log:
            with suppress(msgspec.DecodeError):  # another version's
                outcome = msgspec.msgpack.decode(value, type=Observation)
                audit.checked += outcome.audited
                audit.wrong += outcome.audited and not outcome.same
    low, high = audit.interval()
    return Checked(checked=audit.checked, wrong=audit.wrong, low=low, high=high)


def _week(counts: Mapping[str, int], last: int) -> tuple[int, ...]:
    days = range(last - _WEEK + 1, last + 1)
    return tuple(sum(counts.get(f"{each}:{number}", 0) for each in days) for number in range(BUCKETS))


async def _top(redis: Redis, keys: Keys, most: int) -> tuple[Top, ...]:
    ranked: Any = await redis.zrevrange(keys.saved, 0, most - 1, withscores=True) if most else []
    if not ranked:
        return ()
    ids = [entry_id.decode() for entry_id, _ in ranked]
    values: Any = await redis.mget([keys.exact(entry_id) for entry_id in ids])
    hits: Any = await redis.hmget(keys.hits, ids)
    return tuple(
        _told(entry_id, int(saved), int(count or 0), value)
        for entry_id, (_, saved), count, value in zip(ids, ranked, hits, values, strict=True)
        if value
    )


def _told(entry_id: str, saved: int, hits: int, value: bytes) -> Top:
    entry = exact.decode(value)
    return Top(
        entry=entry_id,
        hits=hits,
        saved_nano=saved,
        model=entry.model if entry else "",
        key_id=entry.key_id if entry else "",
        prompt=entry.prompt[:_PROMPT_MAX] if entry else "",
        created_ms=entry.created_ms if entry else 0,
        bytes=len(value),
    )


async def forget_days(redis: Redis, now_ms: int, keys: Keys | None = None) -> int:
    """Drop what was counted more than ``KEPT_DAYS`` ago. Returns how many fields."""
    keys = keys or Keys()
    oldest = day(now_ms) - KEPT_DAYS
    held: Any = await redis.hkeys(keys.days)
    old = [field for field in held if int(field.partition(b":")[0]) < oldest]
    return int(await redis.hdel(keys.days, *old)) if old else 0
