"""The decision objects of a worker, one a partition, and what all workers have learnt: kept in Redis, told by events.

A partition's outcomes are a bounded list in Redis; a worker that meets the partition builds its copy from that, and
follows the events from then on. What an outcome says of the verifier is kept in :mod:`gateway.cache.lessons`.
"""

from __future__ import annotations

import random
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

import msgspec

from gateway.cache import exact, lessons
from gateway.cache.decision import SETTINGS, Judge, Mode, Neighbour, Verdict, observed
from gateway.cache.equivalence import CLOSE, COMPARED, answer_digest, answer_text, may_agree
from gateway.cache.lessons import Lesson
from gateway.cache.posterior import OBSERVATIONS_MAX, Observation
from gateway.cache.verifier import Verifier, shipped
from gateway.cache.words import Text, read
from gateway.errors import RedisAway
from gateway.redis_io import Keys, RedisLink, Script
from gateway.types import CacheEntry, CacheHit

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from gateway.cache.codes import Vector
    from gateway.cache.keys import CacheContext
    from gateway.protocols import Used

    Embed = Callable[[Sequence[str]], Awaitable[Vector | None]]
    Second = Callable[[str, str, str], Awaitable[bool | None]]
    """A question and two answers to it → whether they say the same; None where that cannot be told."""

_T = TypeVar("_T")
_JUDGES, _KNOWN, _PENDING = 64, 20_000, 4_096
_KEPT_S = 30 * 86_400
_EVENTS_KEPT = 20_000
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Observation)

_TEACH = Script(
    """
redis.call('RPUSH', KEYS[1], ARGV[1])
redis.call('LTRIM', KEYS[1], -tonumber(ARGV[3]), -1)
redis.call('EXPIRE', KEYS[1], ARGV[4])
redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[5], '*', 'outcome', ARGV[1], 'partition', ARGV[2])
return 1
"""
)


class Judged(msgspec.Struct, frozen=True):
    """``hit``: what to serve. ``gone``: entries that are no longer there."""

    hit: CacheHit | None = None
    gone: tuple[str, ...] = ()


class Promise(msgspec.Struct, frozen=True):
    """What a policy promises of its semantic hits. ``local_only``: this request's text stays on this machine."""

    mode: Mode
    max_wrong_rate: float
    policy: str = ""
    local_only: bool = False


class Pairs(msgspec.Struct, frozen=True):
    """A cross-encoder: a question and stored ones → the probability for each that one answer serves both, or None where
    it is away. Asked where the verifier says ``low`` to ``high``. ``local``: it runs on this machine.
    """

    score: Callable[[str, Sequence[str], Used | None], Awaitable[Sequence[float] | None]]
    low: float
    high: float
    local: bool


class Judges:
    """Of one worker. What it remembers of stored questions and of partitions is bounded.

    ``verifier``: the one in force, None for the shipped one; it may be replaced at any time. ``pairs``: None: no second
    opinion.
    """

    def __init__(self, link: RedisLink, keys: Keys) -> None:
        self._link, self._keys = link, keys
        self.verifier: Verifier | None = None
        self.pairs: Pairs | None = None
        self._chance = random.Random()
        self._held: OrderedDict[str, Judge] = OrderedDict()
        self._known: OrderedDict[str, tuple[Text, str]] = OrderedDict()
        self._pending: OrderedDict[str, tuple[Verdict, Promise]] = OrderedDict()

    async def judge(
        self,
        context: CacheContext,
        near: Sequence[tuple[str, float]],
        promise: Promise,
        used: Used | None = None,
    ) -> Judged:
        """Decide on a request. ``near``: entries and their cosines, nearest first. Nothing is served without Redis.
        ``used`` is told what asking the cross-encoder took.
        """
        close = [(entry, similarity) for entry, similarity in near if similarity >= SETTINGS[promise.mode].floor]
        if not close:
            return Judged()
        try:
            judge = await self._judge(context.partition, promise)
            gone = await self._learn_of([entry for entry, _ in close])
            neighbours = [
                Neighbour(entry, known[0], similarity, known[1])
                for entry, similarity in close
                if (known := self._known.get(entry)) is not None
            ]
            asked = read(context.question)
            verdict = judge.judge(asked, neighbours, await self._second(judge, asked, neighbours, promise, used))
            if verdict.action == "explore":
                _keep(self._pending, context.exact, (verdict, promise), _PENDING)
            if verdict.action != "accept":
                return Judged(gone=gone)
            return await self._served(verdict, dict(close)[verdict.entry], gone)
        except RedisAway:
            return Judged()

    async def _second(
        self, judge: Judge, asked: Text, neighbours: Sequence[Neighbour], promise: Promise, used: Used | None
    ) -> dict[str, float]:
        """What the cross-encoder says of those that the verifier is not sure of; {} where it is not to be asked."""
        pairs = self.pairs
        if pairs is None or promise.mode != "question" or (promise.local_only and not pairs.local):
            return {}
        doubtful = judge.uncertain(asked, neighbours, pairs.low, pairs.high)
        scores = await pairs.score(asked.raw, [each.text.raw for each in doubtful], used) if doubtful else None
        return {} if scores is None else {each.entry: p for each, p in zip(doubtful, scores, strict=True)}

    async def _served(self, verdict: Verdict, similarity: float, gone: tuple[str, ...]) -> Judged:
        entry = await exact.fetch(self._link, self._keys, verdict.entry)
        if entry is None:
            self._known.pop(verdict.entry, None)
            return Judged(gone=(*gone, verdict.entry))
        hit = CacheHit(
            entry=entry,
            tier="semantic",
            similarity=min(1.0, similarity),
            p_same=verdict.p_same,
            evidence=verdict.evidence,
            measures=verdict.measures,
        )
        return Judged(hit, gone)

    async def _judge(self, partition: str, promise: Promise) -> Judge:
        judge, verifier = self._held.get(partition), self.verifier or shipped()
        same = judge is not None and (judge.mode, judge.max_wrong_rate) == (promise.mode, promise.max_wrong_rate)
        if judge is None or not same or judge.verifier is not verifier:
            judge = Judge(promise.mode, promise.max_wrong_rate, verifier, self._chance)
            log = await self._link.call("LRANGE", self._keys.outcomes(partition), "0", "-1")
            judge.restore([observation for value in log if (observation := _decoded(value)) is not None])
        _keep(self._held, partition, judge, _JUDGES)
        return judge

    async def _learn_of(self, entries: Sequence[str]) -> tuple[str, ...]:
        """Read the questions and answers of entries not met lately; returns those that are gone."""
        unknown = [entry for entry in entries if entry not in self._known]
        values = await self._link.call("MGET", *map(self._keys.exact, unknown)) if unknown else []
        gone = []
        for name, value in zip(unknown, values, strict=True):
            entry = exact.decode(value) if value is not None else None
            if entry is None:
                gone.append(name)
            else:
                self._know(entry)
        for name in entries:
            if name in self._known:
                self._known.move_to_end(name)
        return tuple(gone)

    def _know(self, entry: CacheEntry) -> None:
        known = read(entry.prompt), answer_digest(answer_text(entry.body))
        _keep(self._known, entry.id, known, _KNOWN)

    async def learn(self, context: CacheContext, embed: Embed, second: Second | None = None) -> None:
        """What the fresh answer just stored says of the stored one that was in doubt; told to all workers.

        ``second``: a judge to be asked where the two answers are not the same to the letter.
        """
        pending = self._pending.pop(context.exact, None)
        if pending is None:
            return
        verdict, promise = pending
        try:
            fresh = await exact.fetch(self._link, self._keys, context.exact)
            doubted = await exact.fetch(self._link, self._keys, verdict.entry)
            if fresh is None or doubted is None:
                return
            texts = answer_text(fresh.body), answer_text(doubted.body)
            said = await second(context.question, *texts) if second is not None and texts[0] != texts[1] else None
            same = said if said is not None else await _same(*texts, embed)
            if same is not None:
                made = ((fresh.created_ms, fresh.model), (doubted.created_ms, doubted.model))
                outcome = _outcome(verdict, promise, context.exact, same, texts)
                await self._teach(context.partition, msgspec.structs.replace(outcome, made=made))
                await self._note(context.partition, verdict, same, (fresh, doubted), judged=said is not None)
        except RedisAway:
            return

    async def _note(
        self, partition: str, verdict: Verdict, same: bool, made: Sequence[CacheEntry], *, judged: bool
    ) -> None:
        if verdict.measures:
            lesson = Lesson(
                ts_ms=int(time.time() * 1000),
                tenant=made[0].key_id,
                partition=partition,
                source="judged" if judged else "audited" if verdict.audited else "explored",
                measures=tuple(round(each, 4) for each in verdict.measures),
                same=same,
                made=tuple((each.created_ms, each.model) for each in made),
            )
            await lessons.note(self._link, self._keys, lesson)

    async def _teach(self, partition: str, observation: Observation) -> None:
        value = _encoder.encode(observation)
        self._take(partition, observation)
        names = (self._keys.outcomes(partition), self._keys.events)
        await self._link.run(_TEACH, names, value, partition, str(OBSERVATIONS_MAX), str(_KEPT_S), str(_EVENTS_KEPT))

    def apply(self, event: Mapping[bytes, bytes]) -> None:
        """Follow what any worker learnt, and what was removed."""
        if b"purge" in event:
            self._known.clear()
            self._pending.clear()
            self._held.clear()
        elif unlearnt := event.get(b"unlearn"):
            self._held.pop(unlearnt.decode(), None)
        elif dropped := event.get(b"drop"):
            self._known.pop(dropped.decode(), None)
        elif (value := event.get(b"outcome")) and (observation := _decoded(value)) is not None:
            self._take(event[b"partition"].decode(), observation)

    def _take(self, partition: str, observation: Observation) -> None:
        judge = self._held.get(partition)
        if judge is not None:
            judge.learn(observation)


def _outcome(verdict: Verdict, promise: Promise, name: str, same: bool, texts: Sequence[str]) -> Observation:
    return msgspec.structs.replace(
        observed(verdict, name, same),
        answers=tuple(map(answer_digest, texts)),
        policy=promise.policy,
        mode=promise.mode,
        budget=promise.max_wrong_rate,
    )


async def teach(redis: Redis, keys: Keys, partition: str, observation: Observation) -> None:
    """Tell all workers of an outcome that somebody reported. Raises redis.RedisError."""
    names = (keys.outcomes(partition), keys.events)
    args = (_encoder.encode(observation), partition, OBSERVATIONS_MAX, _KEPT_S, _EVENTS_KEPT)
    await redis.eval(_TEACH.source, len(names), *names, *args)


async def _same(fresh: str, stored: str, embed: Embed) -> bool | None:
    """Whether two answers say the same; None where that cannot be told now."""
    if fresh == stored:
        return True
    if not fresh or not stored or not may_agree(fresh, stored):
        return False
    vectors = await embed([fresh[:COMPARED], stored[:COMPARED]])
    return None if vectors is None else float(vectors[0] @ vectors[1]) >= CLOSE


def _keep(held: OrderedDict[str, _T], name: str, value: _T, most: int) -> None:
    held[name] = value
    held.move_to_end(name)
    if len(held) > most:
        held.popitem(last=False)


def _decoded(value: bytes) -> Observation | None:
    """An outcome; None for bytes that are none, or another version's."""
    try:
        return _decoder.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
