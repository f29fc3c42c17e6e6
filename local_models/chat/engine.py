"""The engine: one thread that owns the context and computes a step after another for whoever is there.

Requests join and leave between steps. What the outside sees is `Engine.submit(generation)`, which gives a `Stream` of
`Delta`s or refuses at once, and `Stream.cancel()`, which frees the slot with the next step.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec

from local_models.chat.batching import Batching
from local_models.chat.context import Context
from local_models.chat.cost import StepCost
from local_models.chat.drafting import Drafter
from local_models.chat.metrics import Metrics
from local_models.chat.model import Model
from local_models.chat.schedule import LANES, Lane, Limits, Queue
from local_models.chat.store import Store
from local_models.chat.stream import ContextOverflow, EngineFailed, Generation, Overloaded, Stream, deliver
from local_models.chat.task import Task

logger = logging.getLogger(__name__)

_LEAST_RETRY, _MOST_RETRY = 1.0, 60.0
# Batch work waits for as long as it takes; a day bounds it all the same.
_BATCH_PATIENCE = 86_400.0
_SERVICE_RATE = 0.2
_LOOK_SECONDS = 0.25


class Options(msgspec.Struct, frozen=True):
    """How many run (`slots`) and wait at once, each lane with a queue of its own; `patience`: seconds an interactive
    request may wait for a slot; `context`: tokens one sequence may have; `idle_cells`: tokens whose keys and values are
    kept for reuse; `default_max_tokens`: how long an answer may get whose request does not say."""

    slots: int
    context: int
    idle_cells: int
    default_max_tokens: int
    max_queue: int = 32
    max_batch_queue: int = 4096
    patience: float = 60.0
    stall: float = 2.0


class Load(msgspec.Struct, frozen=True):
    """How busy it is: what the gateway's `max_wait` reads. Seconds and tokens per second, for one more request."""

    predicted_wait_seconds: float
    tokens_per_second: float
    total_tokens_per_second: float
    slots: int
    running: dict[Lane, int]
    waiting: dict[Lane, int]
    kv_cells: int
    kv_cells_used: int
    busy_seconds: float
    batch_invariant: bool
    threads: int


class Engine:
    """Serves one model to many requests at once."""

    def __init__(
        self,
        model: Model,
        context: Context,
        options: Options,
        cost: StepCost,
        metrics: Metrics,
        store: Store | None = None,
        drafter: Drafter | None = None,
    ) -> None:
        self.model, self.options, self.metrics = model, options, metrics
        self._context, self._cost = context, cost
        self._queue: Queue[Task] = Queue()
        limits = Limits(context.shape.batch, options.stall)
        self._batching = Batching(context, cost, limits, options, metrics, store, drafter)
        self._store, self._drafter = store, drafter
        self._preparing = dict.fromkeys(LANES, 0)
        self._closed = False
        self._looked = 0.0
        self._service_seconds = cost.seconds(1) * 64
        self._changed = threading.Condition()
        # Templates and tokenising take milliseconds for a long prompt: off the event loop, but no crowd of threads, and
        # no thousand batch jobs before a question.
        self._prompts = {lane: ThreadPoolExecutor(1, thread_name_prefix=f"prompt-{lane}") for lane in LANES}
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    async def prepare(self, lane: Lane, work: Callable[[], Any]) -> Any:
        """`work` (templates, tokenising, grammars) off the loop; it counts as waiting meanwhile."""
        self._preparing[lane] += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._prompts[lane], work)
        finally:
            self._preparing[lane] -= 1

    def check_room(self, lane: Lane) -> None:
        """Raise Overloaded where one more request of this lane would not be taken."""
        options, waiting = self.options, self._queue.count(lane) + self._preparing[lane]
        if lane == "batch":
            full = waiting >= options.max_batch_queue
        else:
            free = max(0, options.slots - self._batching.count("interactive"))
            full = waiting >= options.max_queue + free
        if full:
            self.metrics.refused(lane)
            raise Overloaded(self._retry_after(lane))

    def submit(self, generation: Generation) -> Stream:
        """Queue a request. Raises ContextOverflow, Overloaded; call it on a running event loop."""
        room = self.options.context - len(generation.prompt)
        if room <= 0:
            raise ContextOverflow(len(generation.prompt), self.options.context)
        lane = generation.lane
        patience = generation.patience or (self.options.patience if lane == "interactive" else _BATCH_PATIENCE)
        with self._changed:
            self.check_room(lane)
            if (wait := self.predicted_wait(lane)) > patience:
                self.metrics.refused(lane)
                raise Overloaded(self._bounded(wait), f"it would wait about {wait:.0f} s")
            stream = Stream(generation, self._forget)
            limit = min(generation.max_tokens or self.options.default_max_tokens, room)
            self._queue.add(Task(stream, self.model, limit, time.perf_counter() + patience))
            self._changed.notify()
        return stream

    def predicted_wait(self, lane: Lane = "interactive") -> float:
        """Seconds until one more request of this lane would get a slot. An interactive one takes a batch one's."""
        slots, running = self.options.slots, self._batching.count
        taken = running("interactive") + (running("batch") if lane == "batch" else 0)
        ahead = self._queue.count("interactive") + (self._queue.count("batch") if lane == "batch" else 0)
        step = self._cost.seconds(taken) if taken else 0.0
        behind = ahead + 1 - (slots - taken)
        return step if behind <= 0 else behind * self._service_seconds / slots

    def load(self) -> Load:
        """How busy it is now."""
        running = {lane: self._batching.count(lane) for lane in LANES}
        rows = min(self.options.slots, sum(running.values()) + 1)
        step = self._cost.seconds(rows)
        return Load(
            predicted_wait_seconds=self.predicted_wait(),
            tokens_per_second=1 / step,
            total_tokens_per_second=rows / step,
            slots=self.options.slots,
            running=running,
            waiting={lane: self._queue.count(lane) for lane in LANES},
            kv_cells=self._context.shape.cells,
            kv_cells_used=self._batching.cells,
            busy_seconds=self._batching.busy_seconds,
            batch_invariant=self._context.invariant,
            threads=self._batching.threads,
        )

    def close(self) -> None:
        """Break off what runs, refuse what waits, end the thread and free the model. Blocks for up to a step."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()
        for prompts in self._prompts.values():
            prompts.shutdown()
        if self._store is not None:
            self._store.close()
        self._context.close()
        self.model.close()
        if self._drafter:
            self._drafter.close()

    def _retry_after(self, lane: Lane) -> float:
        return self._bounded(self.predicted_wait(lane))

    @staticmethod
    def _bounded(seconds: float) -> float:
        return min(max(seconds, _LEAST_RETRY), _MOST_RETRY)

    def _forget(self, stream: Stream) -> None:
        with self._changed:
            if task := self._queue.forget(stream.generation.lane, stream):
                task.close()
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or len(self._queue) or self._batching.tasks)
                if self._closed:
                    break
                self._attempt("requests cannot be given slots", lambda: self._admit(time.perf_counter()))
            self._attempt("a step failed", self._step)
        self._fail(
            [*self._batching.end_all(), *self._queue.remove(lambda _: True)], "the model process is shutting down"
        )

    def _admit(self, now: float) -> None:
        """Give the free slots away, after those that have waited too long have been refused."""
        if now - self._looked >= _LOOK_SECONDS:
            self._looked = now
            self._refuse(self._queue.remove(lambda task: task.deadline < now and not task.drawn))
        while task := self._queue.peek(self._batching.lanes(), self.options.slots):
            while self._batching.full or not self._batching.fits(task):
                lost = self._batching.preempt(task.lane)
                if lost is None:
                    return
                self._queue.back(lost)
            self._queue.take(task)
            try:
                self._batching.start(task, now)
            except Exception as error:  # the thread's edge: a task that cannot be started concerns nobody else
                logger.exception("a request cannot be started")
                self._fail([task], str(error))

    def _attempt(self, what: str, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:  # the thread's edge: it must outlive whatever one step can do to it
            logger.exception(what)
            self._fail(self._batching.end_all(), str(error))

    def _refuse(self, late: Sequence[Task]) -> None:
        deliver((task.stream, Overloaded(self._retry_after(task.lane), "it waited too long")) for task in late)
        for task in late:
            self.metrics.refused(task.lane)
            task.close()

    def _step(self) -> None:
        ended, lost = self._batching.step()
        for task in ended:
            if task.started_at:
                seconds = time.perf_counter() - task.started_at
                self._service_seconds += _SERVICE_RATE * (seconds - self._service_seconds)
        if lost:
            with self._changed:
                for task in lost:
                    self._queue.back(task)

    def _fail(self, tasks: Sequence[Task], reason: str) -> None:
        deliver((task.stream, EngineFailed(reason)) for task in tasks)
        for task in tasks:
            self.metrics.failed(task.lane)
            task.close()
