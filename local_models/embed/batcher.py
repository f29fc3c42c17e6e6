"""Texts of many callers, embedded together: one thread, small batches, a bounded queue."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from local_models.embed.model import Embedded, Embedder, Vectors

if TYPE_CHECKING:
    from local_models.embed.crossencoder import CrossEncoder

logger = logging.getLogger(__name__)

# More gain nothing: from a dozen short questions on, a token costs what it costs, and all of a batch wait for its end.
MAX_BATCH = 16
MAX_WAIT = 0.002


class Overloaded(Exception):
    """The queue has no room for these texts."""


class Job:
    """The texts of one call. A big one takes turns with the others: SHARE texts, or about SHARE_CHARACTERS, at a time,
    so that a short question need not wait for more.
    """

    SHARE = MAX_BATCH // 2
    SHARE_CHARACTERS = 2000

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = texts
        self.vectors: list[Vectors | None] = [None] * len(texts)
        self.tokens = [0] * len(texts)
        self.taken = 0
        self._loop = asyncio.get_running_loop()
        self.done: asyncio.Future[Embedded] = self._loop.create_future()

    def take(self, room: int) -> list[int]:
        """Places of the texts that go into the next batch."""
        first, characters = self.taken, 0
        last = min(first + min(room, self.SHARE), len(self.texts))
        while self.taken < last and characters < self.SHARE_CHARACTERS:
            characters += len(self.texts[self.taken])
            self.taken += 1
        return list(range(first, self.taken))

    def settle(self, error: Exception | None = None) -> None:
        """Give the caller the result if all texts are through, or the error; on the thread of the batcher."""
        if self._loop.is_closed():
            return
        if error is not None:
            self._loop.call_soon_threadsafe(self._fail, error)
        elif all(vector is not None for vector in self.vectors):
            result = Embedded(np.stack([vector for vector in self.vectors if vector is not None]), self.tokens)
            self._loop.call_soon_threadsafe(self._finish, result)

    def _finish(self, result: Embedded) -> None:
        if not self.done.done():
            self.done.set_result(result)

    def _fail(self, error: Exception) -> None:
        if not self.done.done():
            self.done.set_exception(error)


class Batcher:
    """Micro-batches over an embedder; at most `max_queue` texts wait, and an eighth more of calls with few: those with
    many cannot shut them out. `pairs`: served beside it, closed with it.
    """

    def __init__(self, embedder: Embedder, max_queue: int, pairs: CrossEncoder | None = None) -> None:
        self.embedder, self.pairs = embedder, pairs
        self._max_queue = max_queue
        self._jobs: deque[Job] = deque()
        self._waiting = 0
        self._crowded = False
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="embed", daemon=True)
        self._thread.start()

    async def embed(self, texts: Sequence[str]) -> Embedded:
        """Embeddings of these texts, in their order. Raises Overloaded; cancelling it gives the place back."""
        job = Job(texts)
        with self._changed:
            most = self._max_queue + (self._max_queue // 8 if len(texts) <= Job.SHARE else 0)
            if self._closed or self._waiting + len(texts) > most:
                raise Overloaded(f"{self._waiting} texts are waiting, at most {most} may")
            self._jobs.append(job)
            self._waiting += len(texts)
            self._changed.notify()
        try:
            return await job.done
        finally:
            self._drop(job)

    def close(self) -> None:
        """End the thread after its present batch."""
        if self.pairs is not None:
            self.pairs.close()
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _drop(self, job: Job) -> None:
        with self._changed:
            # One that is wholly taken is not there: thousands may be.
            if job.taken < len(job.texts) and job in self._jobs:
                self._jobs.remove(job)
                self._waiting -= len(job.texts) - job.taken

    def _run(self) -> None:
        while batch := self._next():
            jobs = {id(job): job for job, _ in batch}.values()
            try:
                self._compute(batch)
            except Exception as error:  # the thread's edge: it must outlive whatever one text can do to it
                logger.exception("a batch failed")
                for job in jobs:
                    job.settle(error)
            else:
                for job in jobs:
                    job.settle()

    def _next(self) -> list[tuple[Job, int]]:
        with self._changed:
            self._changed.wait_for(lambda: self._jobs or self._closed)
            if self._crowded:
                # Others came while the last batch ran, and more are likely on their way. A lone caller need not wait.
                self._changed.wait_for(lambda: self._waiting >= MAX_BATCH or self._closed, MAX_WAIT)
            batch: list[tuple[Job, int]] = []
            jobs = characters = 0
            turns = len(self._jobs)  # one for each; then another, as long as it is all short
            while self._jobs and len(batch) < MAX_BATCH and not self._closed:
                if jobs >= turns and characters >= Job.SHARE_CHARACTERS:
                    break
                job = self._jobs.popleft()
                jobs += 1
                taken = [(job, place) for place in job.take(MAX_BATCH - len(batch))]
                characters += sum(len(job.texts[place]) for _, place in taken)
                batch += taken
                if job.taken < len(job.texts):
                    self._jobs.append(job)
            self._crowded = jobs > 1
            self._waiting -= len(batch)
            return batch

    def _compute(self, batch: list[tuple[Job, int]]) -> None:
        embedded = self.embedder.embed([job.texts[place] for job, place in batch])
        for (job, place), vector, tokens in zip(batch, embedded.vectors, embedded.tokens, strict=True):
            job.vectors[place], job.tokens[place] = vector, tokens
