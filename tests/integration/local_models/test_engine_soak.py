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


TASKS = (
    "What is {}?",
    "Write one sentence about {}.",
    "Copy exactly: {0}, {1}, {0}, {1}, {0}, {1}.",
    "Extract every sentence unchanged: I like {0}. You like {1}. Nobody likes {0} and {1}.",
    "Translate {} to French.",
    "List three words that rhyme with {}.",
    "Say {0} {1} {0} {1} and go on like that.",
    "Is {} larger than {}? Answer yes or no, and why.",
)
WORDS = (
    "bread",
    "rain",
    "Paris",
    "seven",
    "copper",
    "music",
    "a horse",
    "the sea",
    "green",
    "paper",
    "coffee",
    "winter",
)


async def greedy(made: Engine, count: int, speculative: bool) -> tuple[list[str], int]:
    """Greedy answers to so many different prompts, and how many drafted tokens came true."""
    pairs = [(first, second) for first in WORDS for second in WORDS if first != second]
    prompts = [TASKS[at % len(TASKS)].format(*pairs[at % len(pairs)]) for at in range(count)]
    streams = [ask(made, text, 40, lane="batch", speculative=speculative) for text in prompts]
    ended = await asyncio.gather(*map(read, streams))
    return [text for text, _ in ended], sum(last.timings.draft_n_accepted for _, last in ended if last.timings)


async def same_with_and_without_drafts(count: int) -> None:
    async with engine(context=1024, slots=8) as made:
        plain, none = await greedy(made, count, speculative=False)
        made._batching._idle.clear()
        drafted, right = await greedy(made, count, speculative=True)
    assert none == 0
    assert right > count
    assert [(at, *pair) for at, pair in enumerate(zip(plain, drafted, strict=True)) if pair[0] != pair[1]] == []


async def test_greedy_answers_are_the_same_with_and_without_drafts() -> None:
    await same_with_and_without_drafts(24)


@pytest.mark.soak
async def test_two_hundred_greedy_answers_are_the_same_with_and_without_drafts() -> None:
    await same_with_and_without_drafts(200)


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
        assert not held
        assert len(batching._free) == context.shape.sequences
        assert len(made._queue) == 0


@pytest.mark.timeout(300)
async def test_mixed_load_leaves_nothing_behind() -> None:
    await survives(12.0, words=30, tokens=12)


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
