"""Micro-batching around an embedder whose batches the test lets go one by one."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence

import numpy as np
import pytest

from local_models.embed.batcher import MAX_BATCH, Batcher, Overloaded
from local_models.embed.model import Embedded, Embedder


class SteppedEmbedder(Embedder):
    """Embeds a text as (its length, 1)."""

    def __init__(self) -> None:
        self.dimension, self.pooling, self.precision = 2, "mean", ""
        self.batches: list[list[str]] = []
        self.steps = threading.Semaphore(0)
        self.started = threading.Semaphore(0)

    def embed(self, texts: Sequence[str]) -> Embedded:
        self.started.release()
        self.steps.acquire()
        self.batches.append(list(texts))
        if "bad" in texts:
            raise ValueError("a bad text")
        return Embedded(np.array([[len(text), 1] for text in texts], np.float32), [len(text) for text in texts])


@pytest.fixture
def embedder() -> SteppedEmbedder:
    return SteppedEmbedder()


@pytest.fixture
async def batcher(embedder: SteppedEmbedder) -> AsyncIterator[Batcher]:
    batcher = Batcher(embedder, max_queue=200)
    yield batcher
    embedder.steps.release(1000)
    await asyncio.to_thread(batcher.close)


async def start(batcher: Batcher, *jobs: list[str]) -> list[asyncio.Task[Embedded]]:
    tasks = [asyncio.create_task(batcher.embed(job)) for job in jobs]
    await asyncio.sleep(0)
    return tasks


async def test_callers_that_wait_together_share_a_batch_in_their_own_order(
    batcher: Batcher, embedder: SteppedEmbedder
) -> None:
    first = await start(batcher, ["first"])
    await asyncio.to_thread(embedder.started.acquire)
    rest = await start(batcher, ["ccc", "a"], ["bb"], ["dddd"])
    embedder.steps.release(2)
    results = await asyncio.gather(*first, *rest)
    assert [result.vectors[:, 0].tolist() for result in results] == [[5], [3, 1], [2], [4]]
    assert results[1].tokens == [3, 1]
    assert embedder.batches == [["first"], ["ccc", "a", "bb", "dddd"]]


async def test_a_big_call_takes_turns_with_a_small_one(batcher: Batcher, embedder: SteppedEmbedder) -> None:
    blocker = await start(batcher, ["blocker"])
    await asyncio.to_thread(embedder.started.acquire)
    big, small = await start(batcher, ["long text"] * 150, ["s"])
    embedder.steps.release(2)
    await small
    assert not big.done()
    assert sum(len(batch) for batch in embedder.batches[1:]) <= MAX_BATCH
    embedder.steps.release(10)
    assert (await big).vectors.shape == (150, 2)
    await asyncio.gather(*blocker)


async def test_of_long_texts_few_go_into_a_batch(batcher: Batcher, embedder: SteppedEmbedder) -> None:
    blocker = await start(batcher, ["blocker"])
    await asyncio.to_thread(embedder.started.acquire)
    big, small = await start(batcher, ["word " * 300] * 20, ["s"])
    embedder.steps.release(2)
    await small
    assert [len(text) for text in embedder.batches[1]] == [1500, 1500, 1]
    embedder.steps.release(20)
    assert (await big).vectors.shape == (20, 2)
    await asyncio.gather(*blocker)


async def test_calls_with_many_texts_do_not_shut_out_those_with_few(
    batcher: Batcher, embedder: SteppedEmbedder
) -> None:
    blocker = await start(batcher, ["blocker"])
    await asyncio.to_thread(embedder.started.acquire)
    full = await start(batcher, ["x"] * 200)
    with pytest.raises(Overloaded):
        await batcher.embed(["y"] * 9)
    few = await start(batcher, *[["z"]] * 25)
    with pytest.raises(Overloaded):
        await batcher.embed(["z"])
    embedder.steps.release(100)
    await asyncio.gather(*blocker, *full, *few)


async def test_the_queue_is_bounded_and_gives_places_back(batcher: Batcher, embedder: SteppedEmbedder) -> None:
    blocker = await start(batcher, ["blocker"])
    await asyncio.to_thread(embedder.started.acquire)
    waiting = await start(batcher, ["x"] * 150)
    with pytest.raises(Overloaded):
        await batcher.embed(["y"] * 51)
    waiting[0].cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    refill = await start(batcher, ["y"] * 200)
    embedder.steps.release(100)
    await asyncio.gather(*blocker, *refill)
    assert all("x" not in batch for batch in embedder.batches)


async def test_a_failing_batch_fails_its_callers_and_nobody_else(
    batcher: Batcher, embedder: SteppedEmbedder, caplog: pytest.LogCaptureFixture
) -> None:
    embedder.steps.release(2)
    with pytest.raises(ValueError, match="a bad text"):
        await batcher.embed(["bad"])
    assert (await batcher.embed(["good"])).tokens == [4]
    assert "a batch failed" in caplog.text
