"""``python -m gateway.dashboard``: answers a worker's questions about the books, read from standard input, one by one.

Each is a length (four bytes, big-endian) and a :class:`Question` as MessagePack; so is each :class:`Answer` on standard
output. It ends when its input does, and after ten minutes without a question.
"""

from __future__ import annotations

import asyncio
import os
import select
import signal
import sys
from typing import BinaryIO

import msgspec

from gateway import log
from gateway.dashboard.desk import Desk
from gateway.dashboard.reader import _HEAD, Question

_NICE = 5
_IDLE_S = 600.0


def main() -> int:
    log.setup("dashboard")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is the worker's to answer
    os.nice(_NICE)  # live traffic comes first
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
