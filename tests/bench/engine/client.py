"""A client of any OpenAI-compatible chat server: streams, with the moment each piece of text arrived."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import msgspec

STORY = "Write a story about a dragon and a knight."


@dataclass
class Reading:
    """One streamed answer. Moments by `time.perf_counter`; `timings` as the server gave them last."""

    asked: float
    moments: list[float] = field(default_factory=list)
    text: str = ""
    timings: dict[str, Any] = field(default_factory=dict)

    @property
    def ttft(self) -> float:
        """Seconds from asking to the first text."""
        return self.moments[0] - self.asked

    @property
    def gaps(self) -> list[float]:
        """Seconds between one piece of text and the next."""
        return [late - early for early, late in zip(self.moments, self.moments[1:], strict=False)]


async def stream(http: aiohttp.ClientSession, url: str, content: str, tokens: int, **more: Any) -> Reading:
    """Ask for one greedy answer of exactly so many tokens, and read it."""
    system = [{"role": "system", "content": more.pop("system")}] if "system" in more else []
    body = {"messages": [*system, {"role": "user", "content": content}], "max_tokens": tokens, "temperature": 0}
    body |= {"stream": True, "ignore_eos": True, **more}
    reading = Reading(time.perf_counter())
    async with http.post(f"{url}/v1/chat/completions", json=body) as reply:
        reply.raise_for_status()
        async for line in reply.content:
            if not line.startswith(b"data: {"):
                continue
            event = msgspec.json.decode(line[6:])
            reading.timings = event.get("timings") or reading.timings
            if event["choices"] and (text := event["choices"][0]["delta"].get("content")):
                reading.moments.append(time.perf_counter())
                reading.text += text
    return reading


def chapters(streams: int) -> list[str]:
    """A question for each stream, none the same."""
    return [f"{STORY} Chapter {at}." for at in range(streams)]


async def decode_rate(http: aiohttp.ClientSession, url: str, streams: int, tokens: int, **more: Any) -> float:
    """Tokens a second over all streams, from when the last of them has begun to when the last has ended."""
    read = await asyncio.gather(*(stream(http, url, text, tokens, **more) for text in chapters(streams)))
    begun, ended = max(each.moments[0] for each in read), max(each.moments[-1] for each in read)
    # Some were ahead when the last began: only what came after counts.
    late = sum(sum(moment > begun for moment in each.moments) / (len(each.moments) - 1) for each in read)
    return late * (tokens - 1) / (ended - begun)
