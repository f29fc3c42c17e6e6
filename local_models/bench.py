"""How quick a model is through the chat engine's own socket, as a caller sees it.

Greedy, end of text ignored, prompts that share no beginning, so that nothing is reused.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import msgspec

from local_models import gguf
from local_models.measure import STREAMS

TOKENS = 64
ROUNDS = 3
_PREFILL_WORDS = 600
_LOAD_SECONDS = 600.0
_TOPICS = ("rivers", "bread", "clocks", "bridges", "birds", "maps", "glass", "wool", "stars", "salt", "trains", "ink")


class BenchError(RuntimeError):
    """The engine did not start or refused a request; the message says why."""


class Stream(msgspec.Struct, frozen=True):
    """One answer. Seconds since the clock's own beginning; `cached` of the prompt's tokens were reused."""

    asked: float
    first: float
    last: float
    tokens: int
    prompt_tokens: int
    cached: int


def bench(model: Path, name: str) -> dict[str, Any]:
    """Start the engine on this file, measure, stop it.

    `{"streams": {"1": {"tokens_per_second", "ttft_ms"}, "4": …, "16": …}, "prefill_tokens_per_second": …,
    "speculative": {"1": …}}`: all streams' tokens a second together, median time to the first token; medians over
    rounds. Everything but `speculative` is without speculation. Raises NotGGUF, BenchError.
    """
    gguf.check(model)
    with tempfile.TemporaryDirectory() as folder:
        socket = Path(folder) / "chat.sock"
        log = Path(folder) / "log"
        with engine(model, name, socket, log) as child:
            try:
                return asyncio.run(_measured(socket, name, child))
            except (OSError, asyncio.IncompleteReadError, Ended) as error:
                raise BenchError(f"the engine went away: {tail(log) or error}") from error


@contextlib.contextmanager
def engine(model: Path, name: str, socket: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    where = ("--model", str(model), "--name", name, "--uds", str(socket))
    environ = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-m", "local_models", "chat", *where]
    with log.open("wb") as output, subprocess.Popen(command, stderr=output, env=environ) as child:
        try:
            yield child
        finally:
            child.terminate()
            try:
                child.wait(15)
            except subprocess.TimeoutExpired:
                child.kill()


class Ended(Exception):
    """The engine's process is gone before it was ready."""


def tail(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace")[-2000:].strip()


async def _measured(socket: Path, name: str, child: subprocess.Popen[bytes]) -> dict[str, Any]:
    await ready(socket, child)
    await _round(socket, name, STREAMS[-1], "warm-up")
    streams = {}
    for count in STREAMS:
        streams[str(count)] = await _level(socket, name, count)
    prefill = [await _prefill(socket, name, number) for number in range(ROUNDS)]
    alone = await _level(socket, name, 1, speculative=True)
    return {"streams": streams, "prefill_tokens_per_second": median(prefill), "speculative": {"1": alone}}


async def ready(socket: Path, child: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _LOAD_SECONDS
    while time.monotonic() < deadline:
        if child.poll() is not None:
            raise Ended(f"status {child.returncode}")
        with contextlib.suppress(OSError):
            async with request(socket, "GET", "/healthz") as (status, _):
                if status == 200:
                    return
        await asyncio.sleep(0.05)
    raise BenchError(f"the engine was not ready within {_LOAD_SECONDS:.0f} s")


async def _level(socket: Path, name: str, count: int, speculative: bool = False) -> dict[str, float]:
    rounds = [await _round(socket, name, count, f"{number}", speculative) for number in range(ROUNDS)]
    return {
        "tokens_per_second": median(_decode_rate(streams) for streams in rounds),
        "ttft_ms": 1000 * median(stream.first - stream.asked for streams in rounds for stream in streams),
    }


def _decode_rate(streams: list[Stream]) -> float:
    """All tokens but each stream's first, over the time from the first of these to the last token of all."""
    tokens = sum(stream.tokens - 1 for stream in streams)
    return tokens / (max(stream.last for stream in streams) - min(stream.first for stream in streams))


async def _round(socket: Path, name: str, count: int, mark: str, speculative: bool = False) -> list[Stream]:
    prompts = [f"{mark}-{count}-{at}: tell me about {_TOPICS[at % len(_TOPICS)]}." for at in range(count)]
    return await asyncio.gather(*(_ask(socket, name, prompt, TOKENS, speculative) for prompt in prompts))


async def _prefill(socket: Path, name: str, number: int) -> float:
    words = (f"{_TOPICS[at % len(_TOPICS)]} {at * 7 % 89}" for at in range(number, number + _PREFILL_WORDS // 2))
    stream = await _ask(socket, name, f"{number} {' '.join(words)}", 1, False)
    return (stream.prompt_tokens - stream.cached) / (stream.first - stream.asked)


async def _ask(socket: Path, name: str, prompt: str, tokens: int, speculative: bool) -> Stream:
    body = {
        "model": name,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": tokens,
        "temperature": 0,
        "ignore_eos": True,
        "speculative": speculative,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    asked = time.perf_counter()
    first = last = 0.0
    usage: dict[str, Any] = {}
    async with request(socket, "POST", "/v1/chat/completions", msgspec.json.encode(body)) as (status, reader):
        if status != 200:
            raise BenchError(f"the engine answered {status}: {(await reader.read(2000)).decode(errors='replace')}")
        async for event in _events(reader):
            if "error" in event:
                raise BenchError(str(event["error"].get("message")))
            now = time.perf_counter()
            if any(choice["delta"].get("content") for choice in event["choices"]):
                first, last = first or now, now
            usage = event.get("usage") or usage
    if not first or not usage:
        raise BenchError("an answer ended without a token or without usage")
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
    return Stream(asked, first, last, usage["completion_tokens"], usage["prompt_tokens"], cached)


@contextlib.asynccontextmanager
async def request(
    socket: Path, method: str, path: str, body: bytes = b""
) -> AsyncIterator[tuple[int, asyncio.StreamReader]]:
    """Status, and a reader at the body. Bare, for a client of sixteen streams is part of what is measured."""
    reader, writer = await asyncio.open_unix_connection(str(socket))
    try:
        head = f"{method} {path} HTTP/1.1\r\nhost: model\r\nconnection: close\r\ncontent-type: application/json\r\n"
        writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        status = int(((await reader.readline()).split() or [b"", b"0"])[1])
        while (await reader.readline()).strip():
            pass
        yield status, reader
    finally:
        writer.close()


async def _events(reader: asyncio.StreamReader) -> AsyncIterator[dict[str, Any]]:
    while line := await reader.readline():
        if line.startswith(b"data: {"):
            yield msgspec.json.decode(line[6:])
