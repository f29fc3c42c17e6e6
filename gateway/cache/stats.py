"""What an operator sees of the cache: what it holds, what that saved, and how close hits are to what was asked."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import msgspec

from gateway.cache import exact
from gateway.cache.audit import Audit
from gateway.cache.purge import day
from gateway.redis_io import Keys
from gateway.stability import stability_index
from gateway.types import Frozen

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from gateway.cache.posterior import Observation

BUCKETS = 20
"""Of similarities from 0.5 (what is below counts there) to 1: each 0.025 wide."""
KEPT_DAYS = 14
PSI_ALARM = 0.25
"""Above it a distribution is taken to have shifted (Siddiqi, Credit Risk Scorecards, 2006)."""
LEAST = 100
SAID_EDGES = (0.0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 1.0)
"""Of how likely answers were said to serve: finer where decisions are made."""
SAID = "p"
SHOWN = 10
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

    ``said``: those of this week by how likely they were said to be right, by ``SAID_EDGES``. ``psi``: how far the two
    weeks differ, None where either has fewer than ``LEAST``. ``rejected``: hits of this week said to be wrong.
    """

    entries: int
    bytes: int
    similarity: tuple[int, ...]
    similarity_before: tuple[int, ...]
    said: tuple[int, ...]
    psi: float | None
    rejected: int
    top: tuple[Top, ...]

    @property
    def drifts(self) -> bool:
        return self.psi is not None and self.psi > PSI_ALARM


class Kept(Frozen, frozen=True, kw_only=True):
    """What a promise has come to: would-be hits that were checked by a fresh answer, and how many were wrong.

    ``low`` and ``high``: Wilson's 95 % interval of the wrong share; 0 and 1 where nothing was checked. ``partitions``:
    in how many; ``closed``: in how many of them nothing is served for now. ``partition``: '' for all of a policy.
    """

    policy: str
    mode: str
    budget: float
    checked: int
    wrong: int
    low: float
    high: float
    partitions: int = 1
    closed: int = 0
    partition: str = ""

    @property
    def exceeded(self) -> bool:
        """Whether it is surely broken."""
        return self.low > self.budget


class Checked(Frozen, frozen=True, kw_only=True):
    """Would-be semantic hits that were answered afresh to see whether they were right, over all partitions.

    ``low`` and ``high``: Wilson's 95 % interval of the wrong share; 0 and 1 where nothing was checked. ``promises``: by
    policy, mode and budget; ``partitions``: those where most was checked. ``afresh``: all that was answered afresh, by
    how likely the stored answer had been said to serve; ``same``: how many of those it would have served.
    """

    checked: int
    wrong: int
    low: float
    high: float
    promises: tuple[Kept, ...] = ()
    partitions: tuple[Kept, ...] = ()
    afresh: tuple[int, ...] = ()
    same: tuple[int, ...] = ()


def bucket(similarity: float) -> int:
    """Which of the ``BUCKETS`` a similarity falls in."""
    return min(BUCKETS - 1, max(0, int((similarity - _LOWEST) / (1 - _LOWEST) * BUCKETS)))


def bounds(number: int) -> tuple[float, float]:
    """From where to where a bucket reaches."""
    width = (1 - _LOWEST) / BUCKETS
    return _LOWEST + number * width, _LOWEST + (number + 1) * width


def said_bucket(p_same: float) -> int:
    """Which of ``SAID_EDGES``' intervals a probability falls in."""
    return min(len(SAID_EDGES) - 2, max(0, bisect_right(SAID_EDGES, p_same) - 1))


def psi(now: Sequence[int], before: Sequence[int]) -> float | None:
    """How far apart two weeks' buckets are, those left out that nothing falls in; None: too few."""
    if sum(now) < LEAST or sum(before) < LEAST:
        return None
    return stability_index(pair for pair in zip(now, before, strict=True) if any(pair))


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
        said=_week(counts, today, SAID, len(SAID_EDGES) - 1),
        psi=psi(now, before),
        rejected=sum(counts.get(f"{each}:rejected", 0) for each in range(today - _WEEK + 1, today + 1)),
        top=await _top(redis, keys, most),
    )


async def checked(redis: Redis, keys: Keys | None = None) -> Checked:
    """What the audits have seen lately: each partition keeps its newest outcomes. Raises redis.RedisError."""
    keys = keys or Keys()
    prefix = keys.outcomes("").encode()
    tally = _Tally()
    async for name in redis.scan_iter(match=f"{keys.outcomes('')}*", count=1000):
        tally.add(bytes(name).removeprefix(prefix).decode(), await _outcomes(redis, name))
    return tally.told()


async def _outcomes(redis: Redis, name: bytes) -> list[Observation]:
    from gateway.cache.posterior import Observation  # brings numpy, which the background process can do without

    log: Any = await redis.lrange(name, 0, -1)
    found = []
    for value in log:
        with suppress(msgspec.DecodeError, UnicodeDecodeError):  # another version's
            found.append(msgspec.msgpack.decode(value, type=Observation))
    return found


class _Tally:
    """Outcomes of many partitions, added up."""

    def __init__(self) -> None:
        self._all = Audit(1.0)
        self._by_promise: dict[tuple[str, str, float], list[Kept]] = {}
        self._afresh, self._same = ([0] * (len(SAID_EDGES) - 1) for _ in range(2))

    def add(self, partition: str, outcomes: Sequence[Observation]) -> None:
        audits: dict[tuple[str, str, float], Audit] = {}
        for each in outcomes:
            promise = (each.policy, each.mode, each.budget)
            audit = audits.setdefault(promise, Audit(each.budget or 1.0))
            if each.audited:
                audit.observe(not each.same)
                self._all.checked, self._all.wrong = self._all.checked + 1, self._all.wrong + (not each.same)
            if each.said >= 0:
                self._afresh[said_bucket(each.said)] += 1
                self._same[said_bucket(each.said)] += each.same
        for promise, audit in audits.items():
            if promise[2]:  # else another version's, or what somebody reported
                self._by_promise.setdefault(promise, []).append(_kept(promise, audit, partition))

    def told(self) -> Checked:
        low, high = self._all.interval()
        each = sorted((one for some in self._by_promise.values() for one in some), key=lambda one: -one.checked)
        return Checked(
            checked=self._all.checked,
            wrong=self._all.wrong,
            low=low,
            high=high,
            promises=tuple(_summed(promise, some) for promise, some in sorted(self._by_promise.items())),
            partitions=tuple(one for one in each if one.checked)[:SHOWN],
            afresh=tuple(self._afresh),
            same=tuple(self._same),
        )


def _kept(promise: tuple[str, str, float], audit: Audit, partition: str) -> Kept:
    low, high = audit.interval()
    policy, mode, budget = promise
    return Kept(
        policy=policy,
        mode=mode,
        budget=budget,
        checked=audit.checked,
        wrong=audit.wrong,
        low=low,
        high=high,
        closed=int(audit.closed),
        partition=partition,
    )


def _summed(promise: tuple[str, str, float], some: Sequence[Kept]) -> Kept:
    audit = Audit(1.0)
    audit.checked, audit.wrong = sum(one.checked for one in some), sum(one.wrong for one in some)
    whole = _kept(promise, audit, "")
    return msgspec.structs.replace(whole, partitions=len(some), closed=sum(one.closed for one in some))


def posterior(held: CacheStats, audited: Checked) -> list[tuple[float, float, int, int, int]]:
    """A row for each interval of ``SAID_EDGES`` that anything fell in: from, to, served this week, answered afresh, and
    how many of those were the same.
    """
    nothing = (0,) * (len(SAID_EDGES) - 1)
    counts = zip(held.said or nothing, audited.afresh or nothing, audited.same or nothing, strict=True)
    return [(*edges, *row) for edges, row in zip(pairwise(SAID_EDGES), counts, strict=True) if row[0] or row[1]]


def _week(counts: Mapping[str, int], last: int, kind: str = "", buckets: int = BUCKETS) -> tuple[int, ...]:
    days = range(last - _WEEK + 1, last + 1)
    return tuple(sum(counts.get(f"{each}:{kind}{number}", 0) for each in days) for number in range(buckets))


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
