"""Watching for a condition instead of sleeping for it."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable


async def until(condition: Callable[[], object | Awaitable[object]], *, within_s: float = 30.0) -> None:
    """Return as soon as ``condition()`` (or what it awaits) is true. Raises TimeoutError."""
    async with asyncio.timeout(within_s):
        while True:
            result = condition()
            if await result if inspect.isawaitable(result) else result:
                return
            await asyncio.sleep(0.01)
