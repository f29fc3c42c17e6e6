"""The engine: one thread that owns the model, one request at a time, a bounded queue before it.

What the outside sees is `Engine.submit(request)`, which gives a `Stream` of `Delta`s or refuses at once, and
`Stream.aclose()`, which frees the engine within one token (one piece of PREFILL tokens while a prompt is computed).
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import msgspec

from local_models.chat.model import PREFILL, Model, Sampler
from local_models.chat.text import TextStream

logger = logging.getLogger(__name__)

Finish = Literal["stop", "length"]


class Overloaded(Exception):
    """The queue is full; `retry_after` is when, in seconds, a place should be free."""

    def __init__(self, retry_after: float) -> None:
        super().__init__(f"the model's queue is full, try again in {retry_after:.0f} s")
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

    `max_tokens` None goes on to the end of the context. A `reproducible` prompt is computed from its first token,
    since reusing what the last request left changes batch shapes, and with them the last bits of the logits.
    """

    prompt: list[int]
    sampler: Sampler = Sampler()
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    reproducible: bool = False


class Timings(msgspec.Struct, frozen=True):
    """Tokens and busy milliseconds, named as by llama.cpp's server: `prompt_n` computed, `cache_n` reused."""

    prompt_n: int
    cache_n: int
    prompt_ms: float
    predicted_n: int
    predicted_ms: float


class Delta(msgspec.Struct, frozen=True):
    """The next piece of text; the last one has `finish` and `timings`."""

    text: str
    finish: Finish | None = None
    timings: Timings | None = None


class Stream:
    """The deltas of one request: an async iterator, for one reader on the loop that submitted it."""

    def __init__(self, generation: Generation, forget: Callable[[Stream], None]) -> None:
        self.generation = generation
        self.cancelled = False
        self._forget = forget
        self._loop = asyncio.get_running_loop()
        self._deltas: asyncio.Queue[Delta | EngineFailed] = asyncio.Queue()
        self._ended = False

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> Delta:
        if self._ended:
            raise StopAsyncIteration
        delta = await self._deltas.get()
        if isinstance(delta, EngineFailed):
            self._ended = True
            raise delta
        self._ended = delta.finish is not None
        return delta

    async def aclose(self) -> None:
        """Stop generating, or never start. Safe to call at any time, and again."""
        self._ended = self.cancelled = True
        self._forget(self)

    def put(self, delta: Delta | EngineFailed) -> None:
        """Called by the engine's thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._deltas.put_nowait, delta)


class Engine:
    """Serves one model. `max_queue` requests wait, one runs, any further one is refused with Overloaded."""

    def __init__(self, model: Model, max_queue: int) -> None:
        self.model = model
        self._max_queue = max_queue
        self._waiting: deque[Stream] = deque()
        self._running: Stream | None = None
        self._preparing = 0
        self._closed = False
        self._changed = threading.Condition()
        self._mean_seconds = 1.0
        self._sequence: list[int] = []
        # Templates and tokenising take milliseconds for a long prompt: off the event loop, but no crowd of threads.
        self._prompts = ThreadPoolExecutor(1, thread_name_prefix="prompt")
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    async def prompt(self, messages: list[dict[str, str]]) -> list[int]:
        """Messages as tokens. The place in the queue is kept meanwhile, and for a `submit` right afterwards.

        Raises Overloaded, TemplateRefused.
        """
        self._check_room()
        self._preparing += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._prompts, self.model.prompt, messages)
        finally:
            self._preparing -= 1

    def submit(self, generation: Generation) -> Stream:
        """Queue a request. Raises ContextOverflow, Overloaded; call it on a running event loop."""
        if len(generation.prompt) >= self.model.context_length:
            raise ContextOverflow(len(generation.prompt), self.model.context_length)
        stream = Stream(generation, self._forget)
        with self._changed:
            self._check_room()
            self._waiting.append(stream)
            self._changed.notify()
        return stream

    def close(self) -> None:
        """Break off what runs, refuse what waits, end the thread and free the model. Blocks for up to a step."""
        with self._changed:
            self._closed = True
            for stream in [*self._waiting, self._running]:
                if stream is not None:
                    stream.cancelled = True
                    stream.put(EngineFailed("the model process is shutting down"))
            self._waiting.clear()
            self._changed.notify()
        self._thread.join()
        self._prompts.shutdown()
        self.model.close()

    def _check_room(self) -> None:
        ahead = len(self._waiting) + self._preparing + (self._running is not None)
        if ahead > self._max_queue:
            raise Overloaded(min(max(self._mean_seconds * ahead, 1.0), 60.0))

    def _forget(self, stream: Stream) -> None:
        with self._changed:
            if stream in self._waiting:
                self._waiting.remove(stream)

    def _next(self) -> Stream | None:
        with self._changed:
            self._running = None
            self._changed.wait_for(lambda: self._waiting or self._closed)
            self._running = None if self._closed else self._waiting.popleft()
            return self._running

    def _run(self) -> None:
        while (stream := self._next()) is not None:
            started = time.perf_counter()
            try:
                for delta in self._generate(stream):
                    stream.put(delta)
            except Exception as error:  # the thread's edge: it must outlive whatever one request can do to it
                logger.exception("a request failed")
                self._sequence = []
                stream.put(EngineFailed(str(error)))
            self._mean_seconds += 0.2 * (time.perf_counter() - started - self._mean_seconds)

    def _generate(self, stream: Stream) -> Iterator[Delta]:
        generation = stream.generation
        started = time.perf_counter()
        reused = self._reuse(generation)
        if not self._prefill(stream, reused):
            return
        prefilled = time.perf_counter()
        for text, finish, count in self._decode(stream):
            if finish is None:
                yield Delta(text)
                continue
            yield Delta(
                text,
                finish,
                Timings(
                    prompt_n=len(generation.prompt) - reused,
                    cache_n=reused,
                    prompt_ms=(prefilled - started) * 1e3,
                    predicted_n=count,
                    predicted_ms=(time.perf_counter() - prefilled) * 1e3,
                ),
            )

    def _reuse(self, generation: Generation) -> int:
        """Keep what the sequence has in common with the prompt; at least the last token is computed again."""
        common = 0
        if not generation.reproducible:
            for old, new in zip(self._sequence, generation.prompt[:-1], strict=False):
                if old != new:
                    break
                common += 1
        if not self.model.keep(common):
            common = 0
        self._sequence = generation.prompt[:common]
        return common

    def _prefill(self, stream: Stream, start: int) -> bool:
        prompt = stream.generation.prompt
        for begin in range(start, len(prompt), PREFILL):
            if stream.cancelled:
                return False
            piece = prompt[begin : begin + PREFILL]
            self.model.decode(piece)
            self._sequence += piece
        return True

    def _decode(self, stream: Stream) -> Iterator[tuple[str, Finish | None, int]]:
        """Text, finish reason and tokens drawn so far, until the end or until nobody reads any more."""
        model, generation = self.model, stream.generation
        text = TextStream(generation.stop)
        room = model.context_length - len(generation.prompt)
        limit = min(generation.max_tokens or room, room)
        chain = model.sampler(generation.sampler)
        try:
            for count in range(1, limit + 1):
                if stream.cancelled:
                    return
                token = model.sample(chain)
                if model.ends(token):
                    yield text.rest(), "stop", count
                    return
                out = text.feed(model.piece(token))
                if text.stopped:
                    yield out, "stop", count
                    return
                if count == limit:
                    yield out + text.rest(), "length", count
                    return
                if out:
                    yield out, None, count
                model.decode([token])
                self._sequence.append(token)
        finally:
            model.free_sampler(chain)
