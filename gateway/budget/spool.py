"""Settlements on disk while Redis is away: one fsynced JSON line each, replayed when it is back.

A worker owns one file and holds its lock; a file whose lock is free belonged to a worker that is gone, and the
background process replays it. Settling is idempotent, so a file may be replayed from its start after a crash. What
a full disk refuses waits in memory, for room or for Redis.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from gateway import log
from gateway.budget.reservations import Settlement, settle_call
from gateway.redis_io import Keys

if TYPE_CHECKING:
    from redis.asyncio import Redis


RETRY_S = 1.0
UNWRITTEN_MAX = 10_000
_log = log.get(__name__)


class Spool:
    """Append-only file of settlements of one worker; concurrent appends share an fsync. ``waiting``: how many."""

    def __init__(self, folder: Path, worker: str) -> None:
        self.path = folder / f"{worker}.jsonl"
        self.waiting = 0
        self._file: int | None = None
        self._lines: list[bytes] = []
        self._full_until = 0.0
        self._writing = asyncio.Lock()

    async def append(self, settlement: Settlement) -> None:
        """Keep a settlement; it is on disk when this returns, or in memory where the disk takes nothing."""
        if len(self._lines) >= UNWRITTEN_MAX:
            _log.error("a settlement is lost: Redis is away and the disk full", request=settlement.entry.request_id)
            return
        self.waiting += 1
        self._lines.append(msgspec.json.encode(settlement) + b"\n")
        async with self._writing:
            if self._lines and asyncio.get_running_loop().time() >= self._full_until:
                await self._write_all()

    async def _write_all(self) -> None:
        lines = list(self._lines)
        try:
            await asyncio.to_thread(self._write, b"".join(lines))
        except OSError as error:
            self._full_until = asyncio.get_running_loop().time() + RETRY_S
            _log.error("settlements wait in memory: the disk takes none", reason=str(error), waiting=len(lines))
        else:
            del self._lines[: len(lines)]

    def _write(self, data: bytes) -> None:
        if self._file is None:
            self._file = self._open()
        size = os.fstat(self._file).st_size
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(self._file, rest) :]
        except OSError:
            os.ftruncate(self._file, size)  # a torn line would take the next one with it
            raise
        os.fsync(self._file)

    def _open(self) -> int:
        """The locked file; made anew where the background process got hold of the empty one first and removed it."""
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        while True:
            file = os.open(self.path, os.O_CREAT | os.O_RDWR | os.O_APPEND, 0o600)
            fcntl.flock(file, fcntl.LOCK_EX)
            if os.fstat(file).st_nlink:
                return file
            os.close(file)

    async def replay(self, settle: Callable[[Settlement], Awaitable[object]]) -> int:
        """Hand every kept settlement to ``settle`` in order, then empty the file. Returns how many.

        Raises whatever ``settle`` raises (RedisAway); what is kept is then as it was.
        """
        async with self._writing:
            unwritten = list(self._lines)
            kept = self._on_disk() + unwritten
            for line in kept:
                await settle(msgspec.json.decode(line, type=Settlement))
            if self._file is not None:
                os.ftruncate(self._file, 0)
            del self._lines[: len(unwritten)]
            self.waiting = len(self._lines)
            return len(kept)

    def _on_disk(self) -> list[bytes]:
        if self._file is None:
            return []
        return os.pread(self._file, os.fstat(self._file).st_size, 0).splitlines()

    def close(self) -> None:
        """Let go of the file; an empty one is removed, a full one is left for the background process."""
        if self._lines:
            try:
                self._write(b"".join(self._lines))
            except OSError as error:
                _log.error("settlements are lost: the disk takes none", lost=len(self._lines), reason=str(error))
        if self._file is None:
            return
        if os.fstat(self._file).st_size == 0:
            self.path.unlink(missing_ok=True)
        os.close(self._file)
        self._file = None


async def replay_orphans(redis: Redis, folder: Path, keys: Keys | None = None) -> int:
    """Settle what workers that are gone had spooled. Returns how many lines were replayed."""
    replayed = 0
    claimed = await asyncio.to_thread(_claim, folder)
    try:
        for path, file in claimed:
            replayed += await _replay_file(redis, file, keys or Keys())
            path.unlink()
    finally:
        for _, file in claimed:
            os.close(file)
    return replayed


def _claim(folder: Path) -> list[tuple[Path, int]]:
    """Lock and open the files that no worker holds."""
    claimed = []
    for path in sorted(folder.glob("*.jsonl")):
        file = os.open(path, os.O_RDWR)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            claimed.append((path, file))
        except BlockingIOError:
            os.close(file)
    return claimed


async def _replay_file(redis: Redis, file: int, keys: Keys) -> int:
    count = 0
    for line in os.pread(file, os.fstat(file).st_size, 0).splitlines():
        try:
            settlement = msgspec.json.decode(line, type=Settlement)
        except msgspec.DecodeError:
            continue  # the last line of a worker that died while writing it
        script, names, args = settle_call(keys, settlement)
        await redis.eval(script.source, len(names), *names, *args)
        count += 1
    return count
