"""The running batch: sequences that share the context, and one step over all of them."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from local_models.chat import prefix, speculate, store
from local_models.chat.context import Context, Logits, NoCells, Piece, Tokens
from local_models.chat.cost import StepCost
from local_models.chat.drafting import Drafter
from local_models.chat.metrics import Metrics
from local_models.chat.schedule import Lane, Limits, Planner, victim
from local_models.chat.store import Store
from local_models.chat.stream import Delta, EngineFailed, Event, Stream, deliver
from local_models.chat.task import Task
from local_models.chat.threads import Threads

if TYPE_CHECKING:
    from local_models.chat.engine import Options

logger = logging.getLogger(__name__)

# A task is let in where the cache has room for its prompt and this much of an answer.
_FORESIGHT = 256
# Buried cells are passed over by each row of each step; moving what is alive together costs about 5 us a cell. From so
# many of them on, and one for each few alive, moving pays within a few steps. It takes about as long as a step: a first
# token waits for it only where there are several times as many.
_LEAST_DEAD, _ALIVE_A_DEAD, _URGENT = 256, 4, 4


class Batching:
    """Owned by the engine's thread; the counts may be read from any."""

    def __init__(
        self,
        context: Context,
        cost: StepCost,
        limits: Limits,
        options: Options,
        metrics: Metrics,
        disk: Store | None = None,
        drafter: Drafter | None = None,
    ) -> None:
        self.tasks: list[Task] = []
        self.busy_seconds, self.preempted = 0.0, 0
        self._context, self._cost, self._options, self._metrics = context, cost, options, metrics
        self._planner, most = Planner(limits), context.shape.threads
        self._threads = Threads(most, least=1 if context.steady else most)
        self._free = list(range(context.shape.sequences))
        self._idle, self._store, self._drafter = prefix.Idle(options.idle_cells), disk, drafter
        self._since: float | None = None

    @property
    def full(self) -> bool:
        """Whether every slot is taken."""
        return len(self.tasks) >= self._options.slots

    @property
    def cells(self) -> int:
        """KV cells in use, those that sequences share counted for each."""
        return sum(task.computed for task in self.tasks)

    @property
    def threads(self) -> int:
        """Compute threads of the next step."""
        return self._threads.count

    def lanes(self) -> list[Lane]:
        """The lane of each running task."""
        return [task.lane for task in self.tasks]

    def count(self, lane: Lane) -> int:
        """How many run in a lane."""
        return sum(task.lane == lane for task in self.tasks)

    def fits(self, task: Task) -> bool:
        """Whether the cache has room for it beside what runs."""
        if not self.tasks:
            return True
        need = len(task.tokens) + min(task.left, _FORESIGHT)
        return sum(len(other.tokens) + 1 for other in self.tasks) + need <= self._context.shape.cells

    def start(self, task: Task, now: float) -> None:
        """Give a task a slot and a sequence, and whatever is known of its beginning. Raises GrammarRefused."""
        sequence = self._free.pop()
        first = not task.started_at
        try:
            task.start(sequence, self._begin(task, sequence), now)
        except Exception:
            self._release(sequence)
            raise
        self._follow(task)
        self.tasks.append(task)
        if first:
            self._metrics.started(task.lane, now - task.queued_at)

    def preempt(self, lane: Lane) -> Task | None:
        """Free a slot for this lane, if there is one to be had; the task that lost it."""
        task = victim(self.tasks, self._options.slots, lane)
        if task:
            self.preempted += 1
            self._leave(task)
        return task

    def end_all(self) -> list[Task]:
        """Forget everything there is; the tasks that ran."""
        tasks, self.tasks, self._since = self.tasks, [], None
        self._context.clear()
        self._idle.clear()
        self._free = list(range(self._context.shape.sequences))
        for task in tasks:
            task.sequence, task.computed = -1, 0
        return tasks

    def step(self) -> tuple[list[Task], list[Task]]:
        """Compute one step and send what it brought. The tasks that ended, and those that lost their slot.

        Raises DecodeError.
        """
        begun = self._since or time.perf_counter()
        ended = [task for task in self.tasks if task.stream.cancelled]
        for task in ended:
            self._leave(task)
            task.close()
            self._metrics.cancelled(task.lane)
        self._share()
        work = self._drafted(self._planner.plan([task for task in self.tasks if not task.leader], self._cost))
        if not work:
            self._since = None
            return ended, []
        urgent = any(task.lane == "interactive" and not task.drawn for task, _ in work)
        if self._context.dead > (_LEAST_DEAD + self.cells // _ALIVE_A_DEAD) * (_URGENT if urgent else 1):
            self._gather()
        try:
            rows = self._compute([piece for _, piece in work], urgent)
        except NoCells:
            return ended, self._make_room()
        deltas = self._draw(work, rows)
        now = time.perf_counter()
        self._charge(work, now - begun)
        finished = self._send(deltas, now)
        self._since = now if self.tasks else None
        return ended + finished, []

    def _compute(self, pieces: list[Piece], urgent: bool) -> Logits:
        threads = self._threads.settled if urgent else self._threads.count
        self._context.use(threads)
        if self._drafter:
            self._drafter.use(threads)
        begun, on_core = time.perf_counter(), time.thread_time()
        rows = self._context.decode(pieces)
        usual = self._cost.usual(sum(len(piece.tokens) for piece in pieces))
        if threads == self._threads.count:
            self._threads.observe(time.perf_counter() - begun, time.thread_time() - on_core, usual)
        return rows

    def _drafted(self, plan: list[tuple[Task, int]]) -> list[tuple[Task, Piece]]:
        """The plan as pieces of a batch, with drafts where they pay."""
        total, rows = sum(count for _, count in plan), sum(task.decoding for task, _ in plan)
        spare = min(self._context.shape.outputs - len(plan), self._context.shape.batch - total)
        work = []
        for task, count in plan:
            tokens = task.tokens[task.computed : task.computed + count]
            outputs = int(task.computed + count == len(task.tokens))
            if task.decoding and task.generation.speculative and self._context.trims:
                draft = self._draft(task, total, rows, spare)
                tokens, outputs = tokens + draft, outputs + len(draft)
                total, spare = total + len(draft), spare - len(draft)
            work.append((task, Piece(task.sequence, task.computed, tokens, outputs)))
        return work

    def _draft(self, task: Task, total: int, rows: int, spare: int) -> list[int]:
        most = min(speculate.LONGEST_DRAFT, spare, task.left - 1)
        draft = task.draft(most) if most > 0 else []
        task.guess = draft[0] if draft else None
        task.judge, beside = task.acceptance, total - rows

        def seconds(size: int) -> float:
            return self._cost.seconds(beside + size)

        count = speculate.length(task.acceptance.rate, rows, len(draft), seconds) if draft else 0
        if count or not self._drafter or most < 2 or not (count := self._drafter.worth(rows, most, seconds)):
            return draft[:count]
        task.judge, task.guess = self._drafter.acceptance, None
        return self._drafter.draft(task.sequence, task.tokens, count)

    def _draw(self, work: list[tuple[Task, Piece]], rows: Logits) -> list[tuple[Task, Delta]]:
        deltas, at = [], 0
        for task, piece in work:
            before, own = task.drawn, rows[at : at + piece.outputs]
            at += piece.outputs
            try:
                deltas += [(task, delta) for delta in self._advance(task, piece, own)]
            except Exception as error:  # one answer's edge: what its grammar or sampler does concerns nobody else
                logger.exception("an answer broke off")
                self._break_off(task, str(error))
                continue
            if task.drawn > before:
                self._metrics.drew(task, task.drawn - before, time.perf_counter())
        return deltas

    def _break_off(self, task: Task, reason: str) -> None:
        self._leave(task, keep=False)
        task.close()
        self._metrics.failed(task.lane)
        deliver([(task.stream, EngineFailed(reason))])

    def _advance(self, task: Task, piece: Piece, rows: Logits) -> list[Delta]:
        """Draw from each row as long as the draft keeps coming true."""
        drafted = max(0, piece.outputs - 1)
        task.computed += len(piece.tokens) - drafted
        deltas, right = [], 0
        for place, row in enumerate(rows):
            token, delta = task.draw(row)
            deltas += [delta] if delta else []
            if place == 0 and not drafted and task.guess is not None:
                task.acceptance.would_have(token == task.guess)
            if (
                (delta and delta.finish)
                or place == drafted
                or token != piece.tokens[len(piece.tokens) - drafted + place]
            ):
                break
            right += 1
        if drafted:
            task.computed += right
            task.drafted, task.accepted = task.drafted + drafted, task.accepted + right
            task.judge.record(right, drafted)
            self._metrics.drafted(drafted, right)
            if right < drafted:
                self._context.bury(task.sequence, task.computed)
        return deltas

    def _charge(self, work: list[tuple[Task, Piece]], seconds: float) -> None:
        """Share a step's time among its sequences by their tokens."""
        self.busy_seconds += seconds
        total = sum(len(piece.tokens) for _, piece in work)
        for task, piece in work:
            task.busy += seconds * len(piece.tokens) / total
        self._cost.observe(total, seconds)
        self._metrics.stepped(seconds)

    def _send(self, deltas: list[tuple[Task, Delta]], now: float) -> list[Task]:
        events: list[tuple[Stream, Event]] = []
        finished = []
        for task, delta in deltas:
            if delta.finish:
                finished.append(task)
                delta = Delta(delta.text, delta.finish, task.timings(now), delta.confidence, delta.logprobs)
            events.append((task.stream, delta))
        # Who reads that an answer is complete finds its slot free.
        try:
            for task in finished:
                self._leave(task)
                task.close()
                self._metrics.finished(task, now)
        finally:
            deliver(events)
        return finished

    def _share(self) -> None:
        """Let those who wait for another's prompt go on as soon as it is computed, or will not be."""
        for task in self.tasks:
            leader = task.leader
            if leader is None or (leader.sequence >= 0 and leader.computed < task.shared):
                continue
            self._context.bury(task.sequence, 0)
            task.leader, task.cached, task.computed = None, task.cached - task.computed, 0
            if leader.sequence < 0:
                # It has ended or lost its slot: what it computed was kept.
                task.computed = self._begin(task, task.sequence)
            else:
                self._context.copy(leader.sequence, task.sequence, task.shared)
                task.computed = task.shared
            task.cached += task.computed

    def _follow(self, task: Task) -> None:
        """Where a running task is computing the beginning of this prompt, wait for it rather than compute it twice."""
        if not self._reuses(task):
            return
        for other in self.tasks:
            if other.lane == "batch" and task.lane == "interactive":
                continue
            length = min(prefix.common(other.stream.prompt, task.stream.prompt), task.stream.prompt.size - 1)
            if length >= max(task.computed, task.shared) + prefix.LEAST:
                task.leader, task.shared = other, length

    def _reuses(self, task: Task) -> bool:
        return self._context.trims and (self._context.invariant or not task.generation.reproducible)

    def _begin(self, task: Task, sequence: int) -> int:
        """Fill a sequence with the beginning of a task, from one that runs or one that ended; how many tokens."""
        if not self._reuses(task):
            return 0
        tokens = prefix.as_tokens(task.tokens)
        running = [(min(prefix.common(each.held(), tokens), tokens.size - 1), each.sequence) for each in self.tasks]
        length, source = max(running, default=(0, -1))
        match = self._stored(tokens, length) or self._idle.match(tokens)
        if match and match.length > length and self._context.restore(sequence, match.kept.state):
            self._idle.use(match.kept)
            self._context.bury(sequence, match.length)
            return match.length
        if length < prefix.LEAST:
            return 0
        self._context.copy(source, sequence, length)
        return length

    def _stored(self, tokens: Tokens, running: int) -> prefix.Match | None:
        """What the disk has, where that is worth reading beside what runs and what is kept in memory."""
        found = self._store.match(tokens) if self._store is not None else None
        if self._store is None or not found:
            return None
        kept = self._idle.match(tokens)
        if found[1] < max(running, kept.length if kept else 0) + store.LEAST:
            return None
        state = self._store.read(found[0])
        if state is None:
            return None
        back = prefix.Kept(found[0].tokens, state)
        self._idle.add(back)
        return prefix.Match(back, found[1])

    def _leave(self, task: Task, keep: bool = True) -> None:
        """A task gives up its slot; what it computed stays for whoever begins like it, unless that is in doubt."""
        sequence, tokens = task.sequence, task.held()
        # While this may fail the task is still among those that a failure is told to.
        if keep and self._context.trims and tokens.size >= prefix.LEAST and not self._idle.covers(tokens):
            self._keep(prefix.Kept(tokens, self._context.save(sequence)))
        self.tasks.remove(task)
        task.leader, task.sequence, task.computed, task.shared = None, -1, 0, 0
        self._release(sequence)
        if not self.tasks:
            self._context.clear()

    def _keep(self, kept: prefix.Kept) -> None:
        self._idle.add(kept)
        if self._store is not None:
            self._store.keep(kept)

    def _release(self, sequence: int) -> None:
        self._context.bury(sequence, 0)
        self._free.append(sequence)

    def _gather(self) -> None:
        """Move what runs together: what was buried is gone, and each row has fewer cells to pass over."""
        self._context.rebuild(prefix.shares([(task.sequence, task.held()) for task in self.tasks if task.computed]))

    def _make_room(self) -> list[Task]:
        """The cache is full: what is buried goes first, then whoever came last, who will go on later."""
        self._since = None
        if self._context.dead:
            self._gather()
            return []
        if len(self.tasks) == 1:
            raise NoCells("the KV cache has no room for this request alone")
        batch = [task for task in self.tasks if task.lane == "batch"]
        task = (batch or self.tasks)[-1]
        self._leave(task)
        return [task]
