"""The choices of one request as one stream: `n` generations, read together."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from local_models.chat.answer import ended
from local_models.chat.engine import Engine
from local_models.chat.stream import Delta, Generation, Overloaded, Stream, Timings


class Merged:
    """Submits all of the generations, or none. One reader."""

    def __init__(self, engine: Engine, generations: Sequence[Generation]) -> None:
        """Raises ContextOverflow, Overloaded."""
        self.streams: list[Stream] = []
        self._timings: dict[int, Timings] = {}
        self._reads: dict[asyncio.Task[Delta], int] = {}
        for generation in generations:
            try:
                self.streams.append(engine.submit(generation))
            except Overloaded:
                for stream in self.streams:
                    stream.cancel()
                raise

    @property
    def done(self) -> bool:
        """Whether every choice is complete."""
        return len(self._timings) == len(self.streams)

    @property
    def timings(self) -> list[Timings]:
        """Of each choice, once all are complete."""
        return [self._timings[index] for index in range(len(self.streams))]

    async def next(self) -> list[tuple[int, Delta]]:
        """All deltas that are there, at least one, each with its choice; none when every choice is complete.

        Raises EngineFailed, Overloaded.
        """
        if self.done:
            return []
        if len(self.streams) == 1:
            stream = self.streams[0]
            return self._seen([(0, await anext(stream)), *((0, delta) for delta in stream.ready())])
        for index, stream in enumerate(self.streams):
            if index not in self._timings and index not in self._reads.values():
                self._reads[asyncio.ensure_future(anext(stream))] = index
        finished, _ = await asyncio.wait(self._reads, return_when=asyncio.FIRST_COMPLETED)
        found = []
        for task in finished:
            index = self._reads.pop(task)
            found += [(index, task.result()), *((index, delta) for delta in self.streams[index].ready())]
        return self._seen(found)

    async def whole(self) -> list[list[Delta]]:
        """Each choice's deltas, to the end."""
        choices: list[list[Delta]] = [[] for _ in self.streams]
        while group := await self.next():
            for index, delta in group:
                choices[index].append(delta)
        return choices

    async def aclose(self) -> None:
        """Stop generating. Safe to call at any time, and again."""
        for stream in self.streams:
            stream.cancel()
        for task in self._reads:
            task.cancel()
        await asyncio.gather(*self._reads, return_exceptions=True)

    def _seen(self, group: list[tuple[int, Delta]]) -> list[tuple[int, Delta]]:
        self._timings.update((index, ended(delta)) for index, delta in group if delta.finish)
        return group
