"""What the next step computes, and who gets the next slot. Knows nothing of models: numbers in, numbers out.

Two lanes share the engine. *interactive* requests come first: while one of them waits for its first token, the batch
lane's rows sit out (at most PAUSE steps in a row, so that batch work never stops altogether), and where every slot is
taken one of the batch lane's is given up. *batch* requests fill what is idle; their prompts go in small pieces, so that
an interactive request never waits long for the step under way to end.

A prompt is computed in pieces, so large that the streams beside it see a gap of at most `stall` times their usual step.
Of several prompts the oldest gets half of each piece and the shortest the rest: a short question overtakes a long
document, which still gets on. (Sarathi-Serve's chunked prefill, https://arxiv.org/abs/2403.02310.)
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Generic, Literal, Protocol, TypeVar

import msgspec

from local_models.chat.cost import StepCost

Lane = Literal["interactive", "batch"]
LANES: tuple[Lane, ...] = ("interactive", "batch")

PAUSE = 8
LEAST_PIECE = 8
# A batch-lane prompt fills a step up to so many tokens, or has the least piece: an interactive request waits for the
# step under way to end. Past a handful of rows a step takes as long as it has tokens, so small pieces cost nothing.
BATCH_STEP = 24


class Job(Protocol):
    """A sequence as the scheduler sees it: tokens yet to compute, and whether that is one more token of an answer."""

    @property
    def lane(self) -> Lane: ...
    @property
    def pending(self) -> int: ...
    @property
    def decoding(self) -> bool: ...


J = TypeVar("J", bound=Job)


class Limits(msgspec.Struct, frozen=True):
    """`batch` tokens a step at most; `stall`: how many times its usual step a running stream may be held up."""

    batch: int
    stall: float = 2.0


class Planner:
    """Chooses the tokens of each step."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._paused = 0

    def plan(self, jobs: Sequence[J], cost: StepCost) -> list[tuple[J, int]]:
        """Which jobs, oldest first, take part in the next step, and with how many of their pending tokens."""
        urgent = any(job.lane == "interactive" and not job.decoding for job in jobs)
        waiting = any(job.lane == "batch" for job in jobs)
        pause = urgent and waiting and self._paused < PAUSE
        self._paused = self._paused + 1 if pause else 0
        taking = [job for job in jobs if job.lane == "interactive"] if pause else list(jobs)
        rows = [job for job in taking if job.decoding][: self._limits.batch]
        return [(job, 1) for job in rows] + self._pieces(taking, rows, cost)

    def _pieces(self, taking: Sequence[J], rows: Sequence[J], cost: StepCost) -> list[tuple[J, int]]:
        room = self._room(rows, cost)
        pieces: list[tuple[J, int]] = []
        for lane in LANES:
            prompts = [job for job in taking if job.lane == lane and not job.decoding]
            if lane == "batch":
                taken = len(rows) + sum(count for _, count in pieces)
                room = min(room, max(LEAST_PIECE, BATCH_STEP - taken))
            given = _share(prompts, room)
            pieces += given
            room -= sum(count for _, count in given)
        return pieces

    def _room(self, rows: Sequence[Job], cost: StepCost) -> int:
        """Prompt tokens beside these rows: bounded only by the streams that somebody watches."""
        free = self._limits.batch - len(rows)
        if not any(row.lane == "interactive" for row in rows):
            return free
        longest = self._limits.stall * cost.seconds(len(rows))
        return min(free, max(LEAST_PIECE, cost.within(longest, self._limits.batch) - len(rows)))


def _share(prompts: Sequence[J], room: int) -> list[tuple[J, int]]:
    if not prompts or room <= 0:
        return []
    oldest, given = prompts[0], {}
    given[0] = min(oldest.pending, room if len(prompts) == 1 else max(1, room // 2))
    room -= given[0]
    for at in sorted(range(1, len(prompts)), key=lambda at: prompts[at].pending):
        given[at] = min(prompts[at].pending, room)
        room -= given[at]
    given[0] += min(oldest.pending - given[0], room)
    return [(prompts[at], count) for at, count in sorted(given.items()) if count]


class Queued(Protocol):
    """What waits for a slot: its lane, until when (on the clock of `Queue`'s caller) it is worth starting, and the
    `stream` it is known by to whoever asked."""

    @property
    def lane(self) -> Lane: ...
    @property
    def deadline(self) -> float: ...
    @property
    def stream(self) -> object: ...


Q = TypeVar("Q", bound=Queued)


class Queue(Generic[Q]):
    """Requests waiting for a slot, first come first served within a lane. Thousands may leave it at one time."""

    def __init__(self) -> None:
        self._lanes: dict[Lane, OrderedDict[int, Q]] = {lane: OrderedDict() for lane in LANES}

    def __len__(self) -> int:
        return sum(map(len, self._lanes.values()))

    def count(self, lane: Lane) -> int:
        """How many wait in a lane."""
        return len(self._lanes[lane])

    def add(self, item: Q) -> None:
        """Wait at the end of its lane."""
        self._lanes[item.lane][id(item.stream)] = item

    def back(self, item: Q) -> None:
        """Wait again, first in its lane: it had a slot and lost it."""
        self.add(item)
        self._lanes[item.lane].move_to_end(id(item.stream), last=False)

    def forget(self, lane: Lane, stream: object) -> Q | None:
        """Take out what is known by this stream, if it waits."""
        return self._lanes[lane].pop(id(stream), None)

    def remove(self, unwanted: Callable[[Q], bool]) -> list[Q]:
        """Take out what is unwanted."""
        gone = [item for lane in self._lanes.values() for item in lane.values() if unwanted(item)]
        for item in gone:
            self.forget(item.lane, item.stream)
        return gone

    def peek(self, running: Iterable[Lane], slots: int) -> Q | None:
        """Whose turn it is: the interactive lane's, unless the batch lane waits and has none of several slots."""
        interactive, batch = (next(iter(self._lanes[lane].values()), None) for lane in LANES)
        return batch if batch and (not interactive or _below_floor(running, slots)) else interactive

    def take(self, item: Q) -> None:
        """It has its slot: it leaves the queue."""
        del self._lanes[item.lane][id(item.stream)]


def _below_floor(running: Iterable[Lane], slots: int) -> bool:
    return slots >= 4 and "batch" not in set(running)


def victim(running: Sequence[J], slots: int, lane: Lane) -> J | None:
    """The job that gives up its slot for one of `lane` where all are taken: the batch lane's last to come, or none."""
    batch = [job for job in running if job.lane == "batch"]
    kept = 1 if slots >= 4 else 0
    return batch[-1] if lane == "interactive" and len(batch) > kept else None
