"""What keeps the cores busy beside the engine: a gateway as the proxy benchmark drives it."""

from __future__ import annotations

import asyncio
import dataclasses
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from pathlib import Path

from tests.bench.proxy.bench import started_upstream
from tests.bench.proxy.load import CONNECTIONS, Contender, drive
from tests.bench.proxy.ours import gateway

_SECONDS = 2


@asynccontextmanager
async def gateway_under_load() -> AsyncIterator[Callable[[], AbstractAsyncContextManager[None]]]:
    """A gateway in front of the scripted upstream; what is given drives it as fast as it goes, for a block.

    Raises Skipped where it cannot be started.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        upstream = await asyncio.to_thread(stack.enter_context, started_upstream(folder))
        ours = await asyncio.to_thread(stack.enter_context, gateway(upstream, folder))
        contender = dataclasses.replace(ours.contenders()[0], after=lambda sample: None)
        await asyncio.to_thread(drive, contender, max(CONNECTIONS), 1)
        yield lambda: _driven(contender)


@asynccontextmanager
async def _driven(contender: Contender) -> AsyncIterator[None]:
    ended = asyncio.Event()

    async def go_on() -> None:
        while not ended.is_set():
            await asyncio.to_thread(drive, contender, max(CONNECTIONS), _SECONDS)

    driving = asyncio.create_task(go_on())
    await asyncio.sleep(_SECONDS / 4)
    try:
        yield
    finally:
        ended.set()
        await driving
