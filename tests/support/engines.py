"""A real engine in this process, for tests that look at what lies behind the wire."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from local_models.chat.build import Wanted, build
from local_models.chat.engine import Engine
from local_models.chat.metrics import Metrics
from local_models.chat.sampling import Sampler
from local_models.chat.stream import Delta, Generation, Stream
from tests.support.models import chat_model

GREEDY = Sampler(temperature=0.0)


@contextlib.asynccontextmanager
async def engine(**wanted: Any) -> AsyncIterator[Engine]:
    """An engine over the default chat model; small, unless `wanted` says otherwise. Closed afterwards."""
    made = await asyncio.to_thread(build, Wanted(chat_model(), **{"context": 2048, "slots": 4, **wanted}), Metrics())
    try:
        yield made
    finally:
        await asyncio.to_thread(made.close)


def ask(made: Engine, text: str, max_tokens: int = 24, **more: Any) -> Stream:
    """Submit one user message; greedy unless told otherwise."""
    prompt = made.model.prompt([{"role": "user", "content": text}])
    return made.submit(Generation(**{"prompt": prompt, "sampler": GREEDY, "max_tokens": max_tokens, **more}))


async def read(stream: Stream) -> tuple[str, Delta]:
    """The whole text, and the last delta."""
    deltas = [delta async for delta in stream]
    return "".join(delta.text for delta in deltas), deltas[-1]
