"""Recall and remember over a real Redis, between two workers; the vectors are the test's own."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray
from redis.asyncio import Redis

from gateway.cache import codes, exact
from gateway.cache import semantic as module
from gateway.cache.keys import CacheContext
from gateway.cache.prefilter import Marker
from gateway.cache.semantic import SemanticCache
from gateway.errors import UpstreamUnavailable
from gateway.protocols import Used
from gateway.redis_io import Keys, RedisLink
from gateway.types import CacheEntry, Usage
from tests.support.waiting import until

ANGLES = {"what is the capital of france": 0.0, "tell me what the capital of france is": 0.1, "why": 1.0}


class Angles:
    """Each known question is a direction in the plane; the cosine of two is their similarity."""

    id: str | None = "angles/2"

    def __init__(self) -> None:
        self.angles = dict(ANGLES)
        self.asked: list[str] = []
        self.away = False

    async def embed(self, texts: Sequence[str], used: Used | None = None) -> NDArray[np.float32]:
        self.asked += texts
        if self.away:
            raise UpstreamUnavailable("the embedder is away")
        if used is not None:
            used("embedder", Usage(prompt_tokens=len(texts)))
        return np.array([[np.cos(self.angles[text]), np.sin(self.angles[text])] for text in texts], dtype=np.float32)

    async def close(self) -> None: ...


def context(question: str, partition: str = "p") -> CacheContext:
    return CacheContext(partition=partition, exact=f"{partition}:{question}", normal=None, question=question)


FRANCE, PARAPHRASE, OTHER = (context(question) for question in ANGLES)


class Worker:
    """A semantic cache and its embedder."""

    def __init__(self, link: RedisLink, redis: Redis, keys: Keys) -> None:
        self.redis, self.keys, self.embedder = redis, keys, Angles()
        self.cache = SemanticCache(link, keys, self.embedder)
        self._last = b"-"

    async def store(self, stored: CacheContext) -> None:
        """What settling does, and the vector."""
        await self.answer(stored)
        await self.cache.remember(stored)

    async def answer(self, stored: CacheContext) -> None:
        entry = CacheEntry(
            id=stored.exact, body=b"{}", model="big", usage=Usage(), created_ms=1, prompt=stored.question
        )
        await self.redis.set(self.keys.exact(stored.exact), exact.encode(entry) or b"")

    async def follow(self) -> None:
        """Apply the events of all workers so far."""
        events: Any = await self.redis.xrange(self.keys.events, min=self._last)
        for message_id, fields in events:
            self.cache.apply(fields)
            self._last = b"(" + message_id

    async def finds(self, asked: CacheContext) -> str | None:
        hit, _ = await self.cache.recall(asked)
        return None if hit is None else hit.entry.id


@pytest.fixture
def one(link: RedisLink, redis: Redis, keys: Keys) -> Worker:
    return Worker(link, redis, keys)


@pytest.fixture
def two(link: RedisLink, redis: Redis, keys: Keys) -> Worker:
    return Worker(link, redis, keys)


async def test_a_paraphrase_is_answered_by_another_worker(one: Worker, two: Worker) -> None:
    await one.store(FRANCE)
    assert await two.finds(PARAPHRASE) is None
    await two.follow()
    hit, _ = await two.cache.recall(PARAPHRASE)
    assert hit is not None
    assert (hit.entry.id, hit.tier) == (FRANCE.exact, "semantic")
    assert hit.similarity == pytest.approx(np.cos(0.1), abs=0.005)
    assert await two.finds(OTHER) is None
    await one.follow()  # its own event changes nothing
    assert (one.cache.size, two.cache.size) == (1, 1)


async def test_nothing_is_found_beyond_the_partition(one: Worker) -> None:
    await one.store(FRANCE)
    assert await one.finds(context(PARAPHRASE.question, "another key's")) is None


async def test_what_is_hardly_similar_is_not_found(one: Worker) -> None:
    await one.store(FRANCE)
    for angle, found in ((0.1, FRANCE.exact), (0.5, None), (1.2, None)):
        one.embedder.angles[PARAPHRASE.question] = angle
        assert await one.finds(PARAPHRASE) == found


async def test_the_guard_looks_at_each_candidate(one: Worker) -> None:
    negated, numbers = context("what is not the capital of france"), context("what is the capital of france 2")
    one.embedder.angles |= {negated.question: 0.1, numbers.question: 0.1}
    for stored in (negated, numbers):
        await one.store(stored)
    assert await one.finds(PARAPHRASE) is None
    await one.store(FRANCE)  # further away than both
    assert await one.finds(PARAPHRASE) == FRANCE.exact


async def test_no_embedding_is_computed_where_it_could_change_nothing(one: Worker) -> None:
    assert await one.finds(FRANCE) is None
    assert await one.finds(context("")) is None
    await one.cache.remember(context(""))
    assert one.embedder.asked == []


async def test_what_was_embedded_for_the_search_is_not_embedded_again_for_the_store(one: Worker, two: Worker) -> None:
    await one.store(FRANCE)
    hit, vector = await one.cache.recall(OTHER)
    assert hit is None
    await one.answer(OTHER)
    await one.cache.remember(OTHER, vector)
    assert one.embedder.asked == [FRANCE.question, OTHER.question]
    await two.follow()
    assert two.cache.size == 2


async def test_an_answer_that_has_gone_is_no_hit_and_is_forgotten(one: Worker) -> None:
    await one.store(FRANCE)
    await one.redis.delete(one.keys.exact(FRANCE.exact))
    assert await one.finds(PARAPHRASE) is None
    assert one.cache.size == 0


async def test_while_redis_is_away_nothing_is_found_and_nothing_forgotten(one: Worker, keys: Keys) -> None:
    away = Worker(RedisLink("unix:///nobody"), one.redis, keys)
    await away.store(FRANCE)
    assert await away.finds(PARAPHRASE) is None
    assert away.cache.size == 1


async def test_without_the_embedder_there_are_no_hits_and_no_errors(one: Worker, link: RedisLink, keys: Keys) -> None:
    await one.store(FRANCE)
    one.embedder.away = True
    assert await one.finds(PARAPHRASE) is None
    await one.cache.remember(OTHER)
    assert one.cache.size == 1
    switched_off = SemanticCache(link, keys, None)
    switched_off.apply(
        {b"add": b"e", b"partition": b"p", b"vector": codes.encode(np.ones(2, dtype=np.float32)) + Marker().of("")}
    )
    await switched_off.remember(FRANCE)
    assert await switched_off.recall(FRANCE) == (None, None)


async def test_an_embedder_that_dies_and_comes_back_finds_what_was_stored_before(one: Worker) -> None:
    await one.store(FRANCE)
    one.embedder.away = True
    assert await one.finds(PARAPHRASE) is None
    one.embedder.away = False
    assert await one.finds(PARAPHRASE) == FRANCE.exact
    await one.store(OTHER)
    assert one.cache.size == 2


@pytest.mark.parametrize("value", [b"", b"garbage", b"\xff" * 100, b"\x81\xa2id\xa3\xff\xff\xff", b"null", b"{}"])
async def test_an_entry_that_cannot_be_read_is_no_hit_and_is_forgotten(one: Worker, two: Worker, value: bytes) -> None:
    await one.store(FRANCE)
    await two.follow()
    await one.redis.set(one.keys.exact(FRANCE.exact), value)
    assert await two.finds(PARAPHRASE) is None
    assert two.cache.size == 0


async def test_questions_full_of_odd_letters_are_stored_and_leave_others_alone(one: Worker) -> None:
    odd = (
        "\0",
        "\x1b[31m red",
        "\u202eesrever",
        "' \" ` " * 200,
        "🏳️‍🌈" * 50,
        "{{7*7}}",
        "*?[]",
        "\n" * 400,
        "é" + "\u0301" * 300,
    )
    for place, question in enumerate(odd):
        one.embedder.angles |= {question: 2.0 + place / 1e6, f"{question} ": 2.0}
        await one.store(context(question))
    for question in odd:
        assert await one.finds(context(f"{question} ")) in {None, *(f"p:{each}" for each in odd)}
    assert one.cache.size == len(odd)
    await one.store(FRANCE)
    assert await one.finds(PARAPHRASE) == FRANCE.exact


async def test_a_dropped_entry_and_a_purge_reach_every_worker(one: Worker, two: Worker) -> None:
    await one.store(FRANCE)
    await one.store(OTHER)
    await two.follow()
    for dropped in (FRANCE.exact, FRANCE.exact, "unknown"):
        await one.redis.xadd(one.keys.events, {"drop": dropped, "partition": "p"})
    await one.redis.xadd(one.keys.events, {"drop": "x", "partition": "unknown"})
    await two.follow()
    assert (await two.finds(PARAPHRASE), two.cache.size) == (None, 1)
    await one.redis.xadd(one.keys.events, {"drop": OTHER.exact, "partition": "p"})
    await two.follow()
    assert two.cache.size == 0
    await one.redis.xadd(one.keys.events, {"purge": ""})
    await one.follow()
    assert one.cache.size == 0


async def test_a_worker_that_starts_takes_over_what_redis_holds(one: Worker, two: Worker) -> None:
    await one.store(FRANCE)
    await two.cache.partitions.refill(two.redis, two.keys)
    assert await two.finds(PARAPHRASE) == FRANCE.exact


async def test_vectors_of_another_size_are_never_compared(one: Worker) -> None:
    await one.redis.hset(one.keys.vectors("p"), "three", codes.encode(np.ones(3, dtype=np.float32)) + Marker().of(""))
    await one.cache.partitions.refill(one.redis, one.keys)
    assert (one.cache.size, await one.finds(FRANCE)) == (1, None)
    await one.store(FRANCE)
    assert await one.finds(PARAPHRASE) == FRANCE.exact
    assert one.cache.size == 1


async def test_an_answer_that_goes_before_its_vector_comes_leaves_none_behind(one: Worker) -> None:
    await one.cache.remember(FRANCE)
    assert one.cache.size == 0
    assert await one.redis.exists(one.keys.vectors("p"), one.keys.events) == 0


async def test_a_vector_that_is_no_number_is_never_near(one: Worker) -> None:
    await one.store(FRANCE)
    one.embedder.angles[PARAPHRASE.question] = float("nan")
    assert await one.finds(PARAPHRASE) is None


async def test_what_is_learnt_together_is_paid_by_one(one: Worker) -> None:
    """A batch waits while the first is embedded; then as many as one account pays for go together."""
    asked = [context(question) for question in (*ANGLES, "who", "where")]
    one.embedder.angles |= {"who": 0.2, "where": 0.3}
    for each in asked:
        await one.redis.set(one.keys.exact(each.exact), b"an answer")
    told: list[tuple[str, int]] = []

    def meter(name: str) -> Used:
        return lambda _helper, usage: told.append((name, usage.prompt_tokens))

    red, blue = meter("red"), meter("blue")
    payers = (red, red, red, blue, blue)
    await asyncio.gather(*(one.cache.remember(each, used=payer) for each, payer in zip(asked, payers, strict=True)))
    assert told == [("red", 1), ("red", 2), ("blue", 2)]


async def test_a_burst_is_learnt_in_batches_one_at_a_time_and_within_a_bound(
    one: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_UNLEARNT_MAX", 256)
    monkeypatch.setattr(module, "_LEARNING_SHARE", 1.0)
    asked = [context(f"question {number}") for number in range(400)]
    one.embedder.angles |= {each.question: number / 1000 for number, each in enumerate(asked)}
    for each in asked:
        await one.redis.set(one.keys.exact(each.exact), b"an answer")
    sizes: list[int] = []
    running = most = 0
    embed, release = one.embedder.embed, asyncio.Event()

    async def slow(texts: Sequence[str], used: Used | None = None) -> NDArray[np.float32]:
        nonlocal running, most
        running, most = running + 1, max(most, running + 1)
        sizes.append(len(texts))
        await release.wait()
        running -= 1
        return await embed(texts)

    one.embedder.embed = slow  # type: ignore[method-assign]
    burst = [asyncio.create_task(one.cache.remember(each)) for each in asked]
    await until(lambda: sizes)
    await until(lambda: sum(task.done() for task in burst) == 399)  # one of them learns for all
    release.set()
    await asyncio.gather(*burst)

    assert most == 1
    assert max(sizes) <= 8
    assert 256 <= one.cache.size <= 272


async def test_learning_takes_a_share_of_the_time_and_ends_at_once_when_the_worker_does(
    one: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LEARNING_SHARE", 1e-9)  # after a batch it pauses, practically for ever
    asked = [context(f"question {number}") for number in range(40)]
    one.embedder.angles |= {each.question: number / 1000 for number, each in enumerate(asked)}
    burst = [asyncio.create_task(one.cache.remember(each)) for each in asked]
    await until(lambda: one.embedder.asked)
    one.cache.close()
    await asyncio.wait_for(asyncio.gather(*burst), 10)
    assert len(one.embedder.asked) <= 8


async def test_another_model_behind_the_same_name_is_another_one(link: RedisLink, redis: Redis, keys: Keys) -> None:
    worker = Worker(link, redis, keys)
    cache, embedder = worker.cache, worker.embedder
    first = cache.identity("local minilm")
    embedder.id = None
    assert cache.identity("local minilm") == ""
    embedder.id = "angles/3"
    assert cache.identity("local minilm") not in ("", first)

    asked = msgspec.structs.replace(FRANCE, embedder=first)  # when it came, the first model was in place
    await worker.store(asked)
    assert cache.size == 0
    await cache.remember(asked, np.array([1.0, 0.0], dtype=np.float32))
    assert cache.size == 0
    embedder.id = "angles/2"
    await worker.store(asked)
    assert await worker.finds(msgspec.structs.replace(PARAPHRASE, embedder=first)) == FRANCE.exact
    embedder.id = "angles/3"
    assert await worker.finds(msgspec.structs.replace(PARAPHRASE, embedder=first)) is None
