"""What goes into the engine and what comes out: a request, a stream of deltas, and the ways it can be refused."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import Literal

import msgspec
import numpy as np

from local_models.chat.confidence import Confidence
from local_models.chat.context import Tokens
from local_models.chat.sampling import Sampler
from local_models.chat.schedule import Lane

Finish = Literal["stop", "length"]


class Overloaded(Exception):
    """The queue is full, or the wait would be longer than it may be; `retry_after` in seconds."""

    def __init__(self, retry_after: float, reason: str = "the model's queue is full") -> None:
        super().__init__(f"{reason}, try again in {retry_after:.0f} s")
        self.retry_after = retry_after


class ContextOverflow(Exception):
    """The prompt leaves no room for an answer in the model's context; both counts are in tokens."""

    def __init__(self, prompt: int, context: int) -> None:
        super().__init__(
            f"This model's maximum context length is {context} tokens, but the messages are {prompt} tokens long "
            "and at least one is needed for the answer. Please shorten the messages."
        )


class EngineFailed(Exception):
    """The answer broke off because the engine failed or was shut down."""


class Generation(msgspec.Struct, frozen=True):
    """A request: prompt tokens, how to sample, when to stop.

    `max_tokens` None leaves it to the engine's `default_max_tokens`. `logprobs` is how many alternatives to report for
    each token, None no log-probabilities at all. A `reproducible` prompt is computed from its first token where the
    context is not invariant (see `Context`). `patience` is how many seconds it may wait for a slot, None the engine's.
    """

    prompt: list[int]
    sampler: Sampler = Sampler()
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    lane: Lane = "interactive"
    ignore_eos: bool = False
    speculative: bool = True
    logprobs: int | None = None
    reproducible: bool = False
    patience: float | None = None


class Timings(msgspec.Struct, frozen=True):
    """Tokens and milliseconds, named as by llama.cpp's server where it has it: `prompt_n` computed, `cache_n` reused.

    `busy_seconds` is this request's part of the time the engine worked: each step's, shared among its sequences by
    their tokens, so that over all requests it adds up.
    """

    prompt_n: int
    cache_n: int
    prompt_ms: float
    predicted_n: int
    predicted_ms: float
    queue_ms: float = 0.0
    busy_seconds: float = 0.0
    draft_n: int = 0
    draft_n_accepted: int = 0


class TokenLogprob(msgspec.Struct, frozen=True):
    """A token, its natural log-probability, and the likeliest tokens in its place."""

    piece: bytes
    logprob: float
    top: tuple[tuple[bytes, float], ...] = ()


class Delta(msgspec.Struct, frozen=True):
    """The next piece of text; the last one has `finish` and `timings`."""

    text: str
    finish: Finish | None = None
    timings: Timings | None = None
    confidence: Confidence | None = None
    logprobs: tuple[TokenLogprob, ...] = ()


Event = Delta | EngineFailed | Overloaded


class Stream:
    """The deltas of one request: an async iterator, for one reader on the loop that submitted it."""

    def __init__(self, generation: Generation, forget: Callable[[Stream], None]) -> None:
        self.generation = generation
        self.prompt: Tokens = np.asarray(generation.prompt, np.int32)
        self.cancelled = False
        self.loop = asyncio.get_running_loop()
        self._forget = forget
        self._events: deque[Event] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._ended = False

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> Delta:
        if self._ended:
            raise StopAsyncIteration
        while not self._events:
            self._waiter = self.loop.create_future()
            await self._waiter
        return self._take()

    def ready(self) -> list[Delta]:
        """Whatever more is there already, without waiting."""
        taken = []
        while self._events and not self._ended and isinstance(self._events[0], Delta):
            taken.append(self._take())
        return taken

    def _take(self) -> Delta:
        event = self._events.popleft()
        if not isinstance(event, Delta):
            self._ended = True
            raise event
        self._ended = event.finish is not None
        return event

    def cancel(self) -> None:
        """Stop generating, or never start. Safe to call at any time, and again."""
        if not self._ended:
            self._ended = self.cancelled = True
            self._forget(self)

    def arrive(self, event: Event) -> None:
        """The next event; called on the loop."""
        self._events.append(event)
        if self._waiter and not self._waiter.done():
            self._waiter.set_result(None)


def deliver(events: Iterable[tuple[Stream, Event]]) -> None:
    """Hand a step's events to their readers: one wake-up a loop, however many streams. For the engine's thread."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[Stream, Event]]] = {}
    for stream, event in events:
        by_loop.setdefault(stream.loop, []).append((stream, event))
    for loop, group in by_loop.items():
        if not loop.is_closed():
            loop.call_soon_threadsafe(_arrive, group)


def _arrive(group: list[tuple[Stream, Event]]) -> None:
    for stream, event in group:
        stream.arrive(event)
