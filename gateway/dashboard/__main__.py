"""``python -m gateway.dashboard``: answers a worker's questions about the books, read from standard input, one by one.

Each is a length (four bytes, big-endian) and a :class:`Question` as MessagePack; so is each :class:`Answer` on standard
output. It ends when its input does, and after ten minutes without a question.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import sys
from pathlib import Path
from typing import BinaryIO

import msgspec

from gateway import log
from gateway.dashboard.desk import Desk
from gateway.dashboard.reader import _HEAD, Question

# A tenth of a core where others want all of it, so that a page is still made; lower did not help requests further.
_NICE = 10
_AUTOGROUP = Path("/proc/self/autogroup")
_IDLE_S = 600.0


def main() -> int:
    log.setup("dashboard")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is the worker's to answer
    _stand_back()
    answers = sys.stdout.buffer
    sys.stdout = sys.stderr  # whatever prints must not end up between two answers
    with asyncio.Runner() as runner:
        desk = Desk()
        while (question := _next(sys.stdin.buffer)) is not None:
            frame = msgspec.msgpack.encode(runner.run(desk.answer(question)))
            answers.write(_HEAD.pack(len(frame)) + frame)
            answers.flush()
        runner.run(desk.close())
    return 0


def _stand_back() -> None:
    """Live traffic comes first: also that of Redis and of what else is not in the worker's session.

    Where Linux groups tasks by session (sched(7), autogroup), a nice value counts within a session alone: in the
    worker's own, a page would take as much from everybody else as a request does.
    """
    os.nice(_NICE)
    with contextlib.suppress(OSError):  # begun by hand at a terminal, or another system
        os.setsid()
        _AUTOGROUP.write_text(str(_NICE))


def _next(questions: BinaryIO) -> Question | None:
    """None at the end of the input, and when nobody has asked for a while."""
    if not select.select([questions], [], [], _IDLE_S)[0]:
        return None
    head = questions.read(_HEAD.size)
    if len(head) < _HEAD.size:
        return None
    frame = questions.read(_HEAD.unpack(head)[0])
    return msgspec.msgpack.decode(frame, type=Question)


if __name__ == "__main__":
    sys.exit(main())
