"""Mixed load for a while: answers, departures, both lanes, drafts, grammars. Nothing grows and nothing is left over."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import time

import psutil
import pytest

from local_models.chat.engine import Engine
from local_models.chat.grammar import from_schema
from local_models.chat.sampling import Sampler
from local_models.chat.stream import Overloaded
from tests.support.engines import ask, engine, read
from tests.support.waiting import until

FORM = from_schema({"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 99}, "maxItems": 6})


async def visit(made: Engine, pick: random.Random, words: int, tokens: int) -> None:
    """One client, who may leave before the end."""
    text = " ".join(pick.choice(("red", "green", "blue", "one", "two")) for _ in range(pick.randint(1, words)))
    sampler = Sampler(
        temperature=pick.choice((0.0, 0.8)), top_p=0.9, seed=pick.randint(0, 9), grammar=pick.choice(("", "", FORM))
    )
    lane = pick.choice(("interactive", "batch"))
    with contextlib.suppress(Overloaded):
        stream = ask(made, text, pick.randint(1, tokens), lane=lane, sampler=sampler, logprobs=pick.choice((None, 2)))
        if pick.random() < 0.4:
            for _ in range(pick.randint(0, 3)):
                await anext(stream, None)
            stream.cancel()
        else:
            await read(stream)


async def mixed(made: Engine, seconds: float, pick: random.Random, words: int, tokens: int) -> int:
    """Eight clients at a time, one visit after another; how many visits there were."""
    visits, until_when = 0, time.monotonic() + seconds

    async def client() -> None:
        nonlocal visits
        while time.monotonic() < until_when:
            await visit(made, pick, words, tokens)
            visits += 1

    await asyncio.gather(*(client() for _ in range(8)))
    return visits


async def survives(seconds: float, words: int, tokens: int) -> None:
    async with engine(context=1024, slots=4, max_queue=6) as made:
        pick, process = random.Random(7), psutil.Process()
        await mixed(made, seconds / 4, pick, words, tokens)
        gc.collect()
        before = process.memory_info().rss
        assert await mixed(made, seconds, pick, words, tokens) > 8
        await until(lambda: sum(made.load().running.values()) == 0)
        gc.collect()
        grown = process.memory_info().rss - before
        assert grown < 48 << 20, f"grew by {grown >> 20} MiB"
        context, batching = made._context, made._batching
        held = [number for number in range(context.shape.sequences) if context.held(number)]
        assert len(held) == len(batching._idle)
        assert len(held) + len(batching._free) == context.shape.sequences
        assert len(made._queue) == 0


async def test_ten_seconds_of_mixed_load_leave_nothing_behind() -> None:
    await survives(8.0, words=30, tokens=12)


@pytest.mark.soak
@pytest.mark.timeout(1700)
async def test_twenty_minutes_of_mixed_load_leave_nothing_behind() -> None:
    await survives(1200.0, words=300, tokens=120)


async def test_a_thousand_at_once_are_answered_or_refused_at_once() -> None:
    async with engine(context=256, slots=8, max_queue=24) as made:
        refused: list[float] = []
        streams = []
        for number in range(1000):
            try:
                streams.append(ask(made, f"{number}", 1))
            except Overloaded as error:
                refused.append(error.retry_after)
        ended = await asyncio.gather(*map(read, streams))
        assert len(ended) + len(refused) == 1000
        assert refused
        assert all(1 <= seconds <= 60 for seconds in refused)
        assert len(ended) >= 24
