"""Run with `python -m tests.bench.engine [ROUNDS] [PART]`: ratios within one run, medians over interleaved rounds."""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import aiohttp
import uvloop

from tests.bench.engine.beside import gateway_under_load
from tests.bench.engine.client import STORY, decode_rate, stream
from tests.bench.engine.peer import xllamacpp
from tests.support.models import CHAT, chat_model, served

THREADS, TOKENS, STREAMS = 2, 64, (1, 16)
SYSTEM = "You are the shop's assistant. " + "We sell bread, cheese, wine and olives from nine to five. " * 54
TEXT = (
    "The museum opens at nine in the morning and closes at five in the afternoon. Tickets cost eight euros for adults "
    "and four euros for children. Dogs are not allowed inside the building, but there is a garden where they can wait."
)
EXTRACT = f"Extract every sentence from this text, unchanged:\n\n{TEXT}"
Row = tuple[str, float, str]


class Raw:
    """The bare loop, asked for one measurement at a time."""

    def __init__(self, model: Path) -> None:
        command = [sys.executable, "-m", "tests.bench.engine.raw", str(model), str(THREADS)]
        self._child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._read()

    def _read(self) -> str:
        assert self._child.stdout
        return self._child.stdout.readline()

    def rate(self, streams: int) -> float:
        """Tokens a second."""
        assert self._child.stdin
        self._child.stdin.write(f"{streams} {TOKENS}\n")
        self._child.stdin.flush()
        return streams * (TOKENS - 1) / float(self._read())

    def close(self) -> None:
        """End it."""
        assert self._child.stdin
        self._child.stdin.close()
        self._child.wait(10)


async def against(http: aiohttp.ClientSession, ours: str, raw: Raw, peer: str | None, rounds: int) -> list[Row]:
    """Decode rate beside the bare loop and llama.cpp's server, one after another in each round."""
    rows: list[Row] = []
    for streams in STREAMS:
        to_raw, to_peer, rates = [], [], []
        for _ in range(rounds):
            bare = await asyncio.to_thread(raw.rate, streams)
            own = await decode_rate(http, ours, streams, TOKENS, speculative=False)
            bare = (bare + await asyncio.to_thread(raw.rate, streams)) / 2
            rates.append(own)
            to_raw.append(own / bare)
            if peer:
                to_peer.append(own / await decode_rate(http, peer, streams, TOKENS))
        rows.append((f"{streams} streams: tokens/s", statistics.median(rates), ""))
        rows.append((f"{streams} streams: ours / bare llama_decode loop", statistics.median(to_raw), ">= 0.85"))
        if to_peer:
            rows.append((f"{streams} streams: ours / llama.cpp's server", statistics.median(to_peer), ">= 1.1"))
    return rows


async def long_prompt(http: aiohttp.ClientSession, url: str, rounds: int) -> list[Row]:
    """A prompt of 1,500 tokens among eight running streams."""
    ratios = []
    for turn in range(rounds):
        running = [asyncio.create_task(stream(http, url, f"{STORY} {turn} {at}", 96)) for at in range(8)]
        await asyncio.sleep(1.0)
        late = await stream(http, url, f"{turn} {STORY} " * 115, 4)
        read = await asyncio.gather(*running)
        usual = statistics.median(gap for each in read for gap in each.gaps if each.moments[-1] < late.asked or gap)
        beside = [each.gaps[at] for each in read for at, end in enumerate(each.moments[1:]) if end > late.asked]
        ratios.append(max(beside, default=usual) / usual)
    return [("1,500-token prompt among 8 streams: worst gap / median step", statistics.median(ratios), "< 3")]


async def shared_prompt(http: aiohttp.ClientSession, url: str, rounds: int) -> list[Row]:
    """The second request behind the same system prompt of about 800 tokens."""
    ratios = []
    for turn in range(rounds):
        system = f"Shop number {turn} {time.time()}. {SYSTEM}"
        first = await stream(http, url, "When do you open?", 2, system=system)
        second = await stream(http, url, "What do you sell?", 2, system=system)
        ratios.append(second.ttft / first.ttft)
    return [("800-token system prompt: second TTFT / first", statistics.median(ratios), "<= 0.25")]


async def speculation(http: aiohttp.ClientSession, url: str, rounds: int) -> list[Row]:
    """One stream with and without drafts, on copying and on chat."""
    rows: list[Row] = []
    for name, text, target in (("extraction", EXTRACT, ">= 1.3"), ("chat", STORY, ">= 0.97")):
        ratios = []
        for _ in range(rounds):
            without = await stream(http, url, text, 64, speculative=False, ignore_eos=False)
            drafted = await stream(http, url, text, 64, ignore_eos=False)
            assert drafted.text == without.text, "a draft changed the text"
            ratios.append(without.timings["predicted_ms"] / drafted.timings["predicted_ms"])
        rows.append((f"speculation on {name}: decode speed with / without", statistics.median(ratios), target))
    return rows


async def busy(http: aiohttp.ClientSession, url: str, rounds: int) -> list[Row]:
    """Four streams beside processes that never wait."""
    rows: list[Row] = []
    for count, target in ((1, ">= 0.33"), (3, ">= 0.15")):
        ratios = []
        for _ in range(rounds):
            alone = await decode_rate(http, url, 4, TOKENS, speculative=False)
            spin = (sys.executable, "-c", "while True: pass")
            spinning = [await asyncio.create_subprocess_exec(*spin) for _ in range(count)]
            try:
                ratios.append(await decode_rate(http, url, 4, TOKENS, speculative=False) / alone)
            finally:
                for each in spinning:
                    each.kill()
                    await each.wait()
        rows.append((f"beside {count} busy processes: decode speed / alone", statistics.median(ratios), target))
    return rows


async def proxy(http: aiohttp.ClientSession, url: str, rounds: int) -> list[Row]:
    """Four streams while the proxy benchmark keeps a gateway busy on the same cores."""
    ratios = []
    async with gateway_under_load() as load:
        for _ in range(rounds):
            alone = await decode_rate(http, url, 4, TOKENS, speculative=False)
            async with load():
                ratios.append(await decode_rate(http, url, 4, TOKENS, speculative=False) / alone)
    return [("beside the proxy benchmark: decode speed / alone", statistics.median(ratios), ">= 0.2")]


async def lanes(http: aiohttp.ClientSession, url: str, rounds: int) -> list[Row]:
    """First tokens of the interactive lane, idle and with a thousand batch jobs queued; prompts of equal length."""
    asks = 10 * rounds
    idle = [(await stream(http, url, f"{at} early: {STORY}", 2)).ttft for at in range(asks)]
    jobs = [asyncio.create_task(stream(http, url, f"Job {at}: {STORY}", 32, priority="batch")) for at in range(1000)]
    await asyncio.sleep(3.0)
    before = await _worked(http, url)
    busy = [await stream(http, url, f"{at} late: {STORY}", 2) for at in range(asks)]
    seconds, steps = (late - early for early, late in zip(before, await _worked(http, url), strict=True))
    ended = sum(job.done() for job in jobs)
    for job in jobs:
        job.cancel()
    await asyncio.gather(*jobs, return_exceptions=True)
    waits = [each.timings["queue_ms"] / 1e3 for each in busy]
    own = [each.ttft - wait for each, wait in zip(busy, waits, strict=True)]
    step, less = seconds / steps, _p95([each.ttft for each in busy]) - seconds / steps
    return [("1,000 batch jobs queued: interactive p95 TTFT less its wait / idle", _p95(own) / _p95(idle), "<= 1.2"),
            ("1,000 batch jobs queued: its p95 TTFT less the mean step / idle", less / _p95(idle), ""),
            ("its median wait for the step under way, in mean steps", statistics.median(waits) / step, "about 1"),
            ("batch jobs that ended meanwhile", ended, "> 0")]  # fmt: skip


async def _worked(http: aiohttp.ClientSession, url: str) -> tuple[float, float]:
    """Seconds the engine has been busy, and the steps it took, since it started."""
    async with http.get(f"{url}/metrics") as reply:
        lines = dict(line.rsplit(" ", 1) for line in (await reply.text()).splitlines() if not line.startswith("#"))
    return float(lines["engine_busy_seconds_total"]), float(lines["engine_steps_total"])


def _p95(values: list[float]) -> float:
    return sorted(values)[int(len(values) * 0.95) - 1]


async def main(rounds: int, only: str) -> None:
    """Measure and print."""
    model = chat_model()
    with ExitStack() as stack:
        ours = stack.enter_context(served("chat", "--model", str(model), "--name", CHAT, "--threads", str(THREADS)))
        timeout = aiohttp.ClientTimeout(total=600)
        async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as http:
            raw = Raw(model)
            stack.callback(raw.close)
            peer = _peer(stack, model) if only in ("", "against") else None
            parts: dict[str, Callable[[], Awaitable[list[Row]]]] = {
                "against": lambda: against(http, ours, raw, peer, rounds),
                "long_prompt": lambda: long_prompt(http, ours, rounds),
                "shared_prompt": lambda: shared_prompt(http, ours, rounds),
                "speculation": lambda: speculation(http, ours, rounds),
                "busy": lambda: busy(http, ours, rounds),
                "proxy": lambda: proxy(http, ours, rounds),
                "lanes": lambda: lanes(http, ours, rounds),
            }
            for name, part in parts.items():
                if only in ("", name):
                    for label, figure, target in await part():
                        print(f"{label:<70} {figure:>9.2f}   {target}", flush=True)


def _peer(stack: ExitStack, model: Path) -> Any:
    try:
        return stack.enter_context(xllamacpp(model, THREADS))
    except (subprocess.CalledProcessError, RuntimeError, OSError) as error:
        print(f"llama.cpp's server is left out: {error}", flush=True)
        return None


if __name__ == "__main__":
    # The client shares the cores with what it measures: the less it needs, the better.
    uvloop.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 5, sys.argv[2] if len(sys.argv) > 2 else ""))
