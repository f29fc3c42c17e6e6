"""What is left of a connection once its store is closed."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest

from gateway.ledger.answers import Period
from gateway.ledger.store import SqlStore

PATIENCE_S = 30.0


def test_a_read_that_was_broken_off_is_over_before_the_loop_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As by Ctrl-C: a thread that reports to a closed loop prints a traceback of its own."""
    connect, begun, go_on = sqlite3.connect, threading.Event(), threading.Event()
    worker: list[threading.Thread] = []

    def slow(*arguments: Any, **options: Any) -> sqlite3.Connection:
        worker.append(threading.current_thread())
        begun.set()
        go_on.wait(PATIENCE_S)
        made: sqlite3.Connection = connect(*arguments, **options)
        return made

    async def broken_off() -> None:
        store = SqlStore.reader(f"sqlite+aiosqlite:///{tmp_path}/ledger.sqlite3")
        reading = asyncio.create_task(store.rows(Period(0, 1)))
        assert await asyncio.to_thread(begun.wait, PATIENCE_S)
        reading.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await reading
        threading.Timer(0.2, go_on.set).start()
        await store.close()

    monkeypatch.setattr(sqlite3, "connect", slow)
    asyncio.run(broken_off())

    assert go_on.is_set()
    assert [thread.is_alive() for thread in worker] == [False]
