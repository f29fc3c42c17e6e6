"""One batch at work: validated, its lines asked, its output written; picked up wherever the last holder left it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from gateway import log
from gateway.batches import disk, journal, lines
from gateway.batches.files import FileStore, StoredFile, room_on_disk
from gateway.batches.journal import Journal, Result
from gateway.batches.lease import RENEW_S
from gateway.batches.records import Asked, Problem, Progress, Status
from gateway.errors import RedisAway

if TYPE_CHECKING:
    from gateway.batches.lease import Lease
    from gateway.batches.pace import Pace
    from gateway.batches.store import BatchStore

Why = Literal["cancelled", "expired", "lost", "closing"]
LINES_AT_ONCE = 32
GRACE_S = 5.0
LOOK_S = 0.5
ROOM_BYTES = 256 * 1024 * 1024
_READ_AT_ONCE = 32
_WRITE_BYTES = 1 << 20
_FIRST_PAUSE_S, _LONGEST_PAUSE_S, _LONGEST_ASKED_S = 0.5, 60.0, 600.0
_OVERLOADED_S, _TRIES = 3_600.0, 4
_UNANSWERED = {
    "cancelled": ("batch_cancelled", "This request was not executed: the batch was cancelled."),
    "expired": (
        "batch_expired",
        "This request could not be executed before the completion window expired.",
    ),
}
_log = log.get(__name__)


class Answered(NamedTuple):
    """What became of a request; ``body`` is JSON. ``passing``: of an error that another try may not meet, which is to
    come no sooner than in ``retry_after`` seconds.
    """

    status: int
    request_id: str
    body: bytes
    passing: bool = False
    retry_after: float | None = None


Ask = Callable[[Asked, bytes], Awaitable[Answered]]


class Means(NamedTuple):
    """What jobs work with. ``asks``: by endpoint. ``known``: whether an endpoint has a model. ``line_max``: bytes."""

    store: BatchStore
    files: FileStore
    pace: Pace
    asks: Mapping[str, Ask]
    known: Callable[[str, str], bool]
    line_max: Callable[[], int]
    connected: Callable[[], bool]


class Job:
    """Of who has the ``lease``."""

    def __init__(self, asked: Asked, means: Means, lease: Lease) -> None:
        self.asked, self.means, self._lease = asked, means, lease
        self.running = 0
        self._why: Why | None = None
        self._stopping = asyncio.Event()
        self._progress, self._done = Progress(), bytearray()
        self._saved: tuple[object, ...] = ()
        self._renewed = time.monotonic()
        self._room = True

    def stop(self, why: Why) -> None:
        """Begin no more lines."""
        self._why = self._why or why
        self._stopping.set()

    async def run(self) -> None:
        """Until it is over, or somebody else's. Raises OSError where the disk does not take what came of it."""
        store = self.means.store
        self._progress = await asyncio.to_thread(store.progress, self.asked)
        if self._progress.over:  # its holder died before it had tidied up
            await asyncio.to_thread(store.over, self.asked)
            return
        self._hold = await asyncio.to_thread(store.hold, self.asked)
        self._journal = Journal(self._hold.descriptor)
        await self._look()
        watch = asyncio.create_task(self._watch())
        try:
            await self._work()
        finally:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)
            await self._journal.close()

    async def _work(self) -> None:
        source = await asyncio.to_thread(self.means.files.find, self.asked.input_file_id, disk.EVERYBODY)
        if source is None:
            message = f"The input file {self.asked.input_file_id} is gone."
            await self._end("failed", [Problem(code="input_file_not_found", message=message)])
            return
        path = self.means.files.path(source)
        if self._progress.status == "validating" and not await self._validate(path):
            return
        self._done, self._progress.tally = await asyncio.to_thread(journal.resume, self.means.store.parts(self.asked))
        await self._ask_all(path)
        if self._why not in ("lost", "closing"):
            await self._finish(path)
        else:
            await self._save()

    async def _validate(self, path: Path) -> bool:
        known = partial(self.means.known, self.asked.endpoint)
        args = (path, self.asked.endpoint, self.means.line_max(), known)
        total, problems = await asyncio.to_thread(lines.check, *args)
        if problems:
            await self._end("failed", problems)
            return False
        self._progress.status, self._progress.total = "in_progress", total
        self._progress.in_progress_at = int(time.time())
        await self._save()
        return True

    async def _ask_all(self, path: Path) -> None:
        stopped = asyncio.create_task(self._stopping.wait())
        tasks: set[asyncio.Task[None]] = set()
        raws = lines.read(path, self.means.line_max())
        try:
            while some := await asyncio.to_thread(list, islice(raws, _READ_AT_ONCE)):
                for raw in some:
                    if raw.data is None or journal.is_done(self._done, raw.number):
                        continue
                    if not await self._may_go_on(tasks, stopped):
                        break
                    tasks.add(asyncio.create_task(self._line(raw.number, raw.data)))
                if self._stopping.is_set():
                    break
            while tasks and not self._stopping.is_set():
                await _next(tasks, {stopped})
            if tasks and self._why != "lost":
                await asyncio.wait(tasks, timeout=GRACE_S)
        finally:
            stopped.cancel()
            for task in tasks:
                task.cancel()
            ends = await asyncio.gather(*tasks, return_exceptions=True)
        for end in ends:
            if isinstance(end, Exception):
                raise end

    async def _may_go_on(self, tasks: set[asyncio.Task[None]], stopped: asyncio.Task[bool]) -> bool:
        """Wait until another line may be begun; False: none is to be."""
        while not self._stopping.is_set():
            paused = not self.means.connected() or not self._room
            if not paused and len(tasks) < LINES_AT_ONCE:
                return True
            await _next(tasks, {stopped}, LOOK_S if paused else None)
        return False

    async def _line(self, number: int, data: bytes) -> None:
        line = lines.decode(data)
        began, tries = time.monotonic(), 0
        while True:
            async with self.means.pace.slot():
                if self._stopping.is_set():
                    return
                self.running += 1
                try:
                    answered = await self.means.asks[self.asked.endpoint](self.asked, bytes(line.body))
                finally:
                    self.running -= 1
            tries += 1
            if not _again(answered, tries, time.monotonic() - began):
                break
            if await self._stopped_within(_pause(answered, tries)):
                return
        ok = answered.status == 200
        took = journal.took(answered.body) if ok else None
        said = journal.answered(answered.request_id, line.custom_id, answered.status, answered.body)
        await self._journal.write(Result(number, ok, said, took))
        journal.mark(self._done, number)
        journal.count(self._progress.tally, ok, took)

    async def _stopped_within(self, seconds: float) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        return self._stopping.is_set()

    async def _finish(self, path: Path) -> None:
        self._progress.status, self._progress.finalizing_at = "finalizing", int(time.time())
        await self._save()
        outcome: Status = self._why if self._why in ("cancelled", "expired") else "completed"
        if outcome in _UNANSWERED:  # a line may have been given up just after its answer was written
            await self._journal.flush()
            parts = self.means.store.parts(self.asked)
            self._done, self._progress.tally = await asyncio.to_thread(journal.resume, parts)
        output, errors = await asyncio.to_thread(self._write_out, path, outcome)
        if not await asyncio.to_thread(
            self.means.store.exists, self.asked
        ):  # erased meanwhile, before these were there
            await asyncio.to_thread(self._take_back, output, errors)
            return
        self._progress.output_file_id, self._progress.error_file_id = output, errors
        await self._end(outcome)

    def _write_out(self, path: Path, outcome: Status) -> tuple[str | None, str | None]:
        """The output and the error file; None for one that would be empty."""
        parts = self.means.store.parts(self.asked)
        output = self._file("output", journal.in_order(parts, ok=True))
        failed = [journal.in_order(parts, ok=False)]
        if outcome in _UNANSWERED:
            failed.append(self._unanswered(path, *_UNANSWERED[outcome]))
        return output, self._file("error", (data for each in failed for data in each))

    def _take_back(self, *file_ids: str | None) -> None:
        for file_id in filter(None, file_ids):
            if (file := self.means.files.find(file_id, self.asked.owner)) is not None:
                self.means.files.delete(file)

    def _unanswered(self, path: Path, code: str, message: str) -> Iterator[bytes]:
        for raw in disk.gently(lines.read(path, self.means.line_max())):
            if raw.data is not None and not journal.is_done(self._done, raw.number):
                custom_id = lines.decode(raw.data).custom_id
                yield bytes(journal.unanswered(self.asked.id, raw.number, custom_id, code, message)) + b"\n"

    def _file(self, kind: Literal["output", "error"], content: Iterable[bytes]) -> str | None:
        """Of an id that follows from the batch's: who does it again after a crash replaces the file."""
        files, asked = self.means.files, self.asked
        unfinished = files.unfinished(asked.owner)
        size = _written(unfinished, content)
        if not size:
            unfinished.unlink()
            return None
        now = int(time.time())
        file = StoredFile(
            id=f"file-{asked.id[-24:-1]}{'e' if kind == 'error' else 'f'}",
            owner=asked.owner,
            key_id=asked.key_id,
            filename=f"{asked.id}_{kind}.jsonl",
            bytes=size,
            created_at=now,
            expires_at=now + asked.output_s,
            purpose="batch_output",
            batch=asked.id,
        )
        files.keep(unfinished, file)
        return file.id

    async def _end(self, status: Status, problems: list[Problem] | None = None) -> None:
        self._progress.status, self._progress.ended_at = status, int(time.time())
        self._progress.problems = problems or []
        await self._save()
        await asyncio.to_thread(self.means.store.over, self.asked)
        tally = self._progress.tally
        _log.info("batch over", batch=self.asked.id, status=status, completed=tally.completed, failed=tally.failed)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                await self._look()
            except OSError as error:  # the watch's edge: a disk that is full must not end it
                _log.warning("the progress of a batch was not written", batch=self.asked.id, reason=str(error))

    async def _look(self) -> None:
        """Whether it is still ours, still wanted, and how far it is."""
        now = time.monotonic()
        if now - self._renewed >= RENEW_S:
            await self._renew(now)
        if not await asyncio.to_thread(self.means.store.exists, self.asked):
            self.stop("lost")
        elif await asyncio.to_thread(self.means.store.cancelling_at, self.asked) is not None:
            self.stop("cancelled")
        elif time.time() >= self.asked.expires_at:
            self.stop("expired")
        self._room = await asyncio.to_thread(room_on_disk, self._hold.folder, ROOM_BYTES)
        if self._saved != self._counts():
            await self._save()

    async def _renew(self, now: float) -> None:
        with contextlib.suppress(RedisAway):
            if not await self._lease.take():
                self.stop("lost")
            self._renewed = now

    def _counts(self) -> tuple[object, ...]:
        return self._progress.status, self._progress.tally.completed, self._progress.tally.failed

    async def _save(self) -> None:
        self._saved = self._counts()
        await asyncio.to_thread(self._hold.save, self._progress)


async def _next(tasks: set[asyncio.Task[None]], others: set[asyncio.Task[bool]], wait_s: float | None = None) -> None:
    """Wait until one of them ends, and take it out of ``tasks``. Raises what it ended with."""
    await asyncio.wait({*tasks, *others}, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
    for task in [task for task in tasks if task.done()]:
        tasks.discard(task)
        task.result()


def _again(answered: Answered, tries: int, waited_s: float) -> bool:
    """Whether to try once more. Whoever is asked too much says so; until the window ends that is no failure."""
    if not answered.passing:
        return False
    if answered.status == 429:
        return True
    return waited_s < _OVERLOADED_S if answered.status == 503 else tries < _TRIES


def _pause(answered: Answered, tries: int) -> float:
    """Seconds: twice as long each time, with jitter, and never shorter than was asked for."""
    pause: float = min(_FIRST_PAUSE_S * 2 ** min(tries - 1, 10), _LONGEST_PAUSE_S) * random.uniform(0.5, 1.0)
    return max(pause, min(answered.retry_after or 0.0, _LONGEST_ASKED_S))


def _written(path: Path, content: Iterable[bytes]) -> int:
    """Write it, with one fsync at the end; its size."""
    size, descriptor = 0, disk.create(path)
    with os.fdopen(descriptor, "wb", buffering=_WRITE_BYTES) as file:
        for data in content:
            size += file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return size
