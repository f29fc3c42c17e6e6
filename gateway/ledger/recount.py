"""The whole of the books verified on several cores: each process reads a few days at a time."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from gateway.ledger.answers import Difference
from gateway.ledger.errors import LedgerAway
from gateway.ledger.store import SqlStore
from gateway.types import DAY_MS

_DAYS = 3
_PROCESSES = 4

Tell = Callable[[int, int], None]


async def verify(url: str, tell: Tell) -> list[Difference]:
    """What :meth:`SqlStore.verify` finds. ``tell``: the number of days done, and of all.

    Raises:
        LedgerAway: the books cannot be read, or a process that read them was killed.
    """
    store = SqlStore.reader(url)
    try:
        days = await store.days()
        processes = min(_PROCESSES, os.cpu_count() or 1, len(days) // _DAYS)
        if processes < 2:
            return await store.verify(tell=tell)
    finally:
        await store.close()
    pieces = [days[at : at + _DAYS] for at in range(0, len(days), _DAYS)]
    try:
        return await _together(url, pieces, processes, tell)
    except BrokenProcessPool:
        raise LedgerAway("a process that verified them was killed") from None


async def _together(url: str, pieces: Sequence[range], processes: int, tell: Tell) -> list[Difference]:
    wrong: list[Difference] = []
    done, total = 0, sum(map(len, pieces))
    tell(done, total)
    # Not forked: this process has threads and an event loop.
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        loop = asyncio.get_running_loop()
        under_way = [loop.run_in_executor(pool, _piece, url, piece[0], piece[-1] + DAY_MS) for piece in pieces]
        for piece, found in zip(pieces, under_way, strict=True):
            wrong += await found
            done += len(piece)
            tell(done, total)
    return wrong


def _piece(url: str, since_ms: int, until_ms: int) -> list[Difference]:
    gc.disable()  # a million tuples come and go, none in a cycle
    try:
        return asyncio.run(_verified(url, since_ms, until_ms))
    finally:
        gc.enable()


async def _verified(url: str, since_ms: int, until_ms: int) -> list[Difference]:
    store = SqlStore.reader(url)
    try:
        return await store.verify(since_ms, until_ms)
    finally:
        await store.close()
