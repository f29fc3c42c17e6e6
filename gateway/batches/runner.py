"""What a worker does for batches: it finds those nobody works on, runs them, and tidies up what is too old."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

from prometheus_client import Gauge

from gateway import log
from gateway.batches.files import FileStore
from gateway.batches.job import GRACE_S, Ask, Job, Means
from gateway.batches.lease import Lease
from gateway.batches.pace import Pace
from gateway.batches.store import BatchStore
from gateway.errors import RedisAway

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gateway.batches.lane import Lane
    from gateway.batches.records import Asked
    from gateway.runtime import Runtime

BATCHES_AT_ONCE = 4
_LOOK_S, _TIDY_S, _AFTER_FAILURE_S = 2.0, 3_600.0, 30.0
_log = log.get(__name__)


class Runner:
    """Of one worker. ``asks``: how a line is answered, by endpoint, with the targets as ``lane`` has them. ``known``:
    whether an endpoint has a model.
    """

    def __init__(
        self, runtime: Runtime, lane: Lane, asks: Mapping[str, Ask], known: Callable[[str, str], bool]
    ) -> None:
        self._runtime, self.endpoints = runtime, tuple(asks)
        data_dir = runtime.view.settings.data_dir
        self.store, self.files, self._lane = BatchStore(data_dir), FileStore(data_dir), lane
        self._means = Means(
            store=self.store,
            files=self.files,
            pace=Pace(lambda: runtime.metrics.inflight.count),
            asks=asks,
            known=known,
            line_max=lambda: runtime.view.settings.config.server.max_body_bytes,
            connected=lambda: runtime.link.connected,
        )
        self._jobs: dict[str, tuple[Job, asyncio.Task[None]]] = {}
        self._failed: dict[str, float] = {}
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._tidied = 0.0
        to = runtime.metrics.registry
        self._batches = Gauge("gateway_batches", "Batches at work.", registry=to, multiprocess_mode="livesum")
        self._lines = Gauge(
            "gateway_batch_lines", "Lines of batches being asked.", registry=to, multiprocess_mode="livesum"
        )

    def start(self) -> None:
        """Begin looking for work."""
        self._task = asyncio.create_task(self._run())

    def wake(self) -> None:
        """Look for work now."""
        self._wake.set()

    async def close(self) -> None:
        """Let the lines at hand end for a moment, and leave the rest to the other workers."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for job, _ in self._jobs.values():
            job.stop("closing")
        tasks = {task for _, task in self._jobs.values()}
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=2 * GRACE_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        await self._lane.close()

    async def _run(self) -> None:
        while True:
            try:
                await self._look()
            except (RedisAway, OSError) as error:
                _log.debug("no look for batches now", reason=str(error))
            except Exception:  # the task's edge: batches that wait are to be found later
                _log.exception("batches could not be looked for")
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_S):
                    await self._wake.wait()

    async def _look(self) -> None:
        self._show()
        now = time.monotonic()
        if now - self._tidied > _TIDY_S or not self._tidied:
            self._tidied = now
            await asyncio.to_thread(self._tidy)
        if not self._runtime.link.connected:
            return
        for asked in await asyncio.to_thread(self.store.waiting):
            free = len(self._jobs) < BATCHES_AT_ONCE and self._failed.get(asked.id, 0.0) <= now
            if free and asked.id not in self._jobs:
                await self._take(asked)

    async def _take(self, asked: Asked) -> None:
        runtime = self._runtime
        lease = Lease(runtime.link, runtime.keys, asked.id, runtime.worker)
        if await lease.take():
            job = Job(asked, self._means, lease)
            task = asyncio.create_task(self._work(job, lease))
            self._jobs[asked.id] = (job, task)
            self._show()

    async def _work(self, job: Job, lease: Lease) -> None:
        batch_id = job.asked.id
        try:
            await job.run()
            self._failed.pop(batch_id, None)
        except Exception:  # the task's edge: whoever takes it up next finds what was done so far
            self._failed[batch_id] = time.monotonic() + _AFTER_FAILURE_S
            _log.exception("a batch was left for later", batch=batch_id)
        finally:
            del self._jobs[batch_id]
            self._show()
            self.wake()
            with contextlib.suppress(RedisAway):
                await lease.give_back()

    def _show(self) -> None:
        self._batches.set(len(self._jobs))
        self._lines.set(sum(job.running for job, _ in self._jobs.values()))

    def _tidy(self) -> None:
        self.files.expire({asked.input_file_id for asked in self.store.waiting()})
        self.store.expire()
