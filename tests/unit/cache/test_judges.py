"""What fresh answers teach, between two workers and over a real Redis; vectors and answers are the test's own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray
from redis.asyncio import Redis

from gateway.cache import exact
from gateway.cache.judges import Judges, Pairs, Promise
from gateway.cache.keys import CacheContext
from gateway.cache.lessons import lessons
from gateway.cache.purge import Which, purge
from gateway.cache.verifier import MEASURES
from gateway.protocols import Used
from gateway.redis_io import Keys, RedisLink
from gateway.types import CacheEntry, Usage

PROMISE = Promise("question", 0.01, "default")
STORED, DOUBTFUL = "How do I reset my password?", "How do I reset passwords of many colleagues?"


def context(question: str) -> CacheContext:
    return CacheContext(partition="p", exact=f"x:{question}", normal=None, question=question)


async def embed(texts: Sequence[str], used: Used | None = None) -> NDArray[np.float32]:
    """Answers that mean the same say "same"."""
    return np.array([[1.0, 0.0] if "same" in text else [0.0, 1.0] for text in texts], dtype=np.float32)


class Worker:
    def __init__(self, link: RedisLink, redis: Redis, keys: Keys) -> None:
        self.redis, self.keys = redis, keys
        self.judges = Judges(link, keys)
        self._last = b"-"

    async def store(self, question: str, answer: str) -> None:
        body = json.dumps({"choices": [{"message": {"role": "assistant", "content": answer}}]}).encode()
        id_ = context(question).exact
        made_ms = len(question) * 1000
        entry = CacheEntry(id=id_, body=body, model="big", usage=Usage(), created_ms=made_ms, prompt=question)
        await self.redis.set(self.keys.exact(id_), exact.encode(entry) or b"")
        await self.redis.hset(self.keys.sizes, id_, f"{len(body)}:p")

    async def ask(self, question: str, similarity: float = 0.95, near: str = STORED) -> str | None:
        judged = await self.judges.judge(context(question), [(context(near).exact, similarity)], PROMISE)
        return None if judged.hit is None else judged.hit.entry.id

    async def learn(self, question: str, answer: str) -> None:
        await self.store(question, answer)
        await self.judges.learn(context(question), embed)

    async def follow(self) -> None:
        events: Any = await self.redis.xrange(self.keys.events, min=self._last)
        for message_id, fields in events:
            self.judges.apply(fields)
            self._last = b"(" + message_id

    async def outcomes(self) -> int:
        return int(await self.redis.llen(self.keys.outcomes("p")))


@pytest.fixture
def one(link: RedisLink, redis: Redis, keys: Keys) -> Worker:
    return Worker(link, redis, keys)


@pytest.fixture
def two(link: RedisLink, redis: Redis, keys: Keys) -> Worker:
    return Worker(link, redis, keys)


async def test_a_sure_hit_is_served_and_says_how_sure_it_is(one: Worker) -> None:
    await one.store(STORED, "Click.")
    judged = await one.judges.judge(context("How to reset my password?"), [(context(STORED).exact, 0.99)], PROMISE)
    assert judged.hit is not None
    assert judged.hit.tier == "semantic"
    assert 0.97 < judged.hit.p_same < 1


async def test_a_doubtful_one_is_asked_afresh_and_its_answer_told_to_all_workers(one: Worker, two: Worker) -> None:
    await one.store(STORED, "Click there.")
    for worker in (one, two):
        assert await worker.ask(DOUBTFUL) is None
    await one.learn(DOUBTFUL, "Click there.")
    await two.follow()
    assert await one.outcomes() == 1
    for worker in (one, two):
        assert len(worker.judges._held["p"].posterior.observations) == 1
    later = Worker(one.judges._link, one.redis, one.keys)
    await later.ask(DOUBTFUL)
    assert len(later.judges._held["p"].posterior.observations) == 1


@pytest.mark.parametrize(
    ("answer", "same"), [("click  there", False), ("Click 2 there", False), ("the same again", True), ("other", False)]
)
async def test_answers_that_say_the_same_in_other_words_agree(one: Worker, answer: str, same: bool) -> None:
    await one.store(STORED, "the same, in words")
    await one.ask(DOUBTFUL)
    await one.learn(DOUBTFUL, answer)
    (observation,) = one.judges._held["p"].posterior.observations.values()
    assert observation.same is same


async def test_many_wrong_ones_end_the_hits_of_every_worker(one: Worker, two: Worker) -> None:
    await one.store(STORED, "Click there.")
    sure = "How to reset my password?"
    assert await two.ask(sure, 0.99) is not None
    for number in range(200):  # of which some are drawn to be checked, and all once two of those were wrong
        question = f"{sure}{'?' * number}"
        if await one.ask(question, 0.99) is None:
            await one.learn(question, "Not the same at all.")
    await two.follow()
    assert await two.ask(sure, 0.99) is None


async def test_what_is_purged_takes_along_what_it_taught_on_every_worker(one: Worker, two: Worker) -> None:
    await one.store(STORED, "Under settings.")
    for question in (DOUBTFUL, "How can passwords be reset?"):
        assert await one.ask(question, 0.9) is None
        await one.learn(question, "Ask your administrator.")
    await two.ask(DOUBTFUL, 0.9)
    await two.follow()
    assert await one.outcomes() == len(two.judges._held["p"].posterior.observations) == 2

    await purge(one.redis, Which(entry=context(DOUBTFUL).exact), keys=one.keys)
    for worker in (one, two):
        await worker.follow()
        await worker.ask("How do colleagues reset a password?", 0.9)
        assert [*worker.judges._held["p"].posterior.observations] == [context("How can passwords be reset?").exact]
    events: Any = await one.redis.xrange(one.keys.events)
    assert sum(b"outcome" in fields for _, fields in events) == 1

    await purge(one.redis, Which(), keys=one.keys)
    await two.follow()
    assert await one.outcomes() == 0
    assert not two.judges._held


async def test_an_answer_that_was_doubted_takes_the_doubt_along(one: Worker) -> None:
    await one.store(STORED, "Under settings.")
    await one.ask(DOUBTFUL, 0.9)
    await one.learn(DOUBTFUL, "Ask your administrator.")
    await purge(one.redis, Which(entry=context(STORED).exact), keys=one.keys)
    assert await one.outcomes() == 0


async def test_an_entry_that_has_gone_is_told(one: Worker) -> None:
    judged = await one.judges.judge(context(DOUBTFUL), [("gone", 0.99)], PROMISE)
    assert (judged.hit, judged.gone) == (None, ("gone",))
    await one.store(STORED, "Click.")
    assert await one.ask("How to reset my password?", 0.99) is not None
    await one.redis.delete(one.keys.exact(context(STORED).exact))
    judged = await one.judges.judge(context("How to reset my password?"), [(context(STORED).exact, 0.99)], PROMISE)
    assert judged.hit is None


async def test_nothing_is_served_or_learnt_without_redis(redis: Redis, keys: Keys) -> None:
    away = Worker(RedisLink("unix:///nobody"), redis, keys)
    assert await away.ask(DOUBTFUL) is None
    await away.judges.learn(context(DOUBTFUL), embed)


async def test_what_another_version_wrote_is_passed_over(one: Worker) -> None:
    await one.redis.rpush(one.keys.outcomes("p"), b"\xffodd")
    one.judges.apply({b"outcome": b"odd", b"partition": b"p"})
    await one.store(STORED, "Click.")
    assert await one.ask("How to reset my password?", 0.99) is not None


async def test_a_purge_forgets_what_was_read(one: Worker) -> None:
    await one.store(STORED, "Click.")
    await one.ask(DOUBTFUL)
    one.judges.apply({b"drop": context(STORED).exact.encode(), b"partition": b"p"})
    assert not one.judges._known
    await one.ask(DOUBTFUL)
    one.judges.apply({b"purge": b""})
    assert not one.judges._known
    await one.learn(DOUBTFUL, "Click.")
    assert await one.outcomes() == 0


class Reader:
    """A cross-encoder that says what it is told to."""

    def __init__(self, says: float | None) -> None:
        self.says, self.asked = says, 0

    async def score(self, asked: str, stored: Sequence[str], used: Used | None) -> list[float] | None:
        self.asked += 1
        return None if self.says is None else [self.says] * len(stored)


@pytest.mark.parametrize(("says", "served"), [(0.999, True), (0.2, False), (None, False)])
async def test_a_cross_encoder_is_asked_where_the_verifier_is_unsure(
    one: Worker, says: float | None, served: bool
) -> None:
    await one.store(STORED, "Click.")
    reader = Reader(says)
    one.judges.pairs = Pairs(reader.score, 0.3, 0.985, local=True)
    assert await one.ask("How can I reset my password?", 0.97) == (context(STORED).exact if served else None)
    assert reader.asked == 1
    await one.ask("What is the price of a ticket to Rome?", 0.81)  # sure enough that it is another question
    assert reader.asked == 1


async def test_a_cross_encoder_elsewhere_is_told_nothing_that_stays_local(one: Worker) -> None:
    await one.store(STORED, "Click.")
    here, elsewhere = Reader(0.999), Reader(0.999)
    promise = msgspec.structs.replace(PROMISE, local_only=True)
    for reader, local in ((elsewhere, False), (here, True)):
        one.judges.pairs = Pairs(reader.score, 0.3, 0.985, local=local)
        asked = context("How can I reset my password?")
        await one.judges.judge(asked, [(context(STORED).exact, 0.97)], promise)
    assert (elsewhere.asked, here.asked) == (0, 1)


@pytest.mark.parametrize("word", [True, False])
async def test_a_judge_has_the_last_word_and_the_lesson_says_so(one: Worker, word: bool) -> None:
    async def second(question: str, fresh: str, stored: str) -> bool:
        assert (question, fresh, stored) == (DOUBTFUL, "Ask 5 admins.", "Click.")
        return word

    await one.store(STORED, "Click.")
    await one.ask(DOUBTFUL)
    await one.store(DOUBTFUL, "Ask 5 admins.")
    await one.judges.learn(context(DOUBTFUL), embed, second)
    [lesson] = [each async for each in lessons(one.redis, one.keys)]
    assert (lesson.source, lesson.same, len(lesson.measures)) == ("judged", word, len(MEASURES))
    assert lesson.made == ((len(DOUBTFUL) * 1000, "big"), (len(STORED) * 1000, "big"))
