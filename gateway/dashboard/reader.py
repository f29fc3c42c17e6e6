"""The process that reads the books and makes the pages, as a worker sees it: a question in, a finished page out.

A page takes tens of milliseconds of Python; on a worker's own event loop or interpreter lock every request would wait
for it. So each worker that is asked for a page starts ``python -m gateway.dashboard``, at a lower priority, and talks
to it through its standard input and output: it ends with the worker whatever happens to that, and by itself when nobody
has looked for a while.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
import sys
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any, Literal

import msgspec

from gateway.ledger.errors import LedgerAway

Form = Literal["html", "json", "csv"]

FRESH_S = 1.0
PATIENCE_S = 20.0
WAITING_MAX = 32
_END_S = 3.0
_KEPT_MAX = 64
_KEPT_BYTES = 2 * 1024 * 1024
_STREAM_MAX = 64 * 1024 * 1024
_HEAD = struct.Struct(">I")


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """``query``: the address's; ``role`` and ``key_id``: who asks (a key owner is shown that key only); ``facts``: what
    only a worker knows, e.g. which targets are cooling down.
    """

    page: str
    form: Form
    ledger: str
    role: str
    query: dict[str, str] = {}
    key_id: str = ""
    facts: dict[str, Any] = {}


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """``filename`` is set for what a browser is to save."""

    status: int
    content_type: str
    body: bytes
    filename: str = ""


Facts = Callable[[], Awaitable[dict[str, Any]]]


def error_body(message: str, code: str) -> bytes:
    """What went wrong, in the form of OpenAI's errors."""
    body = {"error": {"message": message, "type": "dashboard_error", "param": None, "code": code}}
    return msgspec.json.encode(body)


class Reader:
    """One at a time, each question answered at most once in ``FRESH_S`` however many pages are open."""

    def __init__(self, command: tuple[str, ...] = (sys.executable, "-m", "gateway.dashboard")) -> None:
        self._command = command
        self._process: asyncio.subprocess.Process | None = None
        self._turn = asyncio.Lock()
        self._waiting = 0
        self._kept: OrderedDict[bytes, tuple[float, Answer]] = OrderedDict()

    async def ask(self, question: Question, facts: Facts) -> Answer:
        """``facts`` is awaited where the answer has to be made anew.

        Raises:
            LedgerAway: it cannot be answered now: too many are waiting, or it took too long.
        """
        key = msgspec.msgpack.encode(question)
        if (known := self._known(key)) is not None:
            return known
        if self._waiting >= WAITING_MAX:
            raise LedgerAway("too many pages are waiting to be made")
        self._waiting += 1
        try:
            async with self._turn:
                if (known := self._known(key)) is not None:
                    return known
                answer = await self._exchange(msgspec.structs.replace(question, facts=await facts()))
        finally:
            self._waiting -= 1
        self._keep(key, answer)
        return answer

    async def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            for _ in range(2):
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(process.wait(), _END_S)
                if process.returncode is not None:
                    return
                with contextlib.suppress(ProcessLookupError):
                    process.kill()

    def _known(self, key: bytes) -> Answer | None:
        at, answer = self._kept.get(key, (0.0, None))
        return answer if time.monotonic() - at < FRESH_S else None

    def _keep(self, key: bytes, answer: Answer) -> None:
        if len(answer.body) > _KEPT_BYTES:
            return
        self._kept[key] = (time.monotonic(), answer)
        self._kept.move_to_end(key)
        while len(self._kept) > _KEPT_MAX or (
            len(self._kept) > 1 and time.monotonic() - next(iter(self._kept.values()))[0] > FRESH_S
        ):
            self._kept.popitem(last=False)

    async def _exchange(self, question: Question) -> Answer:
        frame = msgspec.msgpack.encode(question)
        try:
            async with asyncio.timeout(PATIENCE_S):
                try:
                    return await self._ask_process(frame)
                except (asyncio.IncompleteReadError, ConnectionError, RuntimeError):  # the last: uvloop's closed pipe
                    await self.close()  # it had ended: nobody looked for a while, or somebody killed it
                    return await self._ask_process(frame)
        except (asyncio.IncompleteReadError, OSError, RuntimeError, TimeoutError) as error:
            await self.close()
            raise LedgerAway(f"the dashboard's process does not answer ({type(error).__name__})") from error
        except asyncio.CancelledError:
            await self.close()  # half an exchange must not be taken for the next one's
            raise

    async def _ask_process(self, frame: bytes) -> Answer:
        if self._process is None or self._process.returncode is not None:
            self._process = await asyncio.create_subprocess_exec(
                *self._command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=_STREAM_MAX
            )
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(_HEAD.pack(len(frame)) + frame)
        await stdin.drain()
        (length,) = _HEAD.unpack(await stdout.readexactly(_HEAD.size))
        return msgspec.msgpack.decode(await stdout.readexactly(length), type=Answer)
