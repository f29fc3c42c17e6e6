"""What requests wait for while somebody looks at the dashboard: half of what the gateway can do, rounds in turn."""

from __future__ import annotations

import itertools
import os
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import msgspec

from tests.bench.ledger.house import House
from tests.bench.proxy import load
from tests.bench.proxy.load import Sample

Visitor = Literal["nobody", "open pages", "no pause"]
VISITORS: tuple[Visitor, ...] = ("nobody", "open pages", "no pause")
CONNECTIONS = 16
_REQUEST = Path(load.__file__).with_name("request.lua")
_PACED = Path(__file__).with_name("paced.lua")
_WARM_UP_S, _FULL_S = 3, 6
_PAGES: Mapping[str, float] = {
    "?period=30d": 5.0,
    "/explore?period=90d&by=model": 5.0,
    "/explore?period=7d&by=key_id&team=team-0": 5.0,
    "/live": 2.0,
    "/budgets": 5.0,
    "/models": 5.0,
    "/policies": 5.0,
}
"""Every page in a tab of its own, and how often it asks again, seconds."""


class Live(msgspec.Struct, frozen=True):
    """``rounds``: what wrk saw beside each visitor, round by round; ``pages``: how many were shown in all."""

    full_per_second: float
    rounds: dict[Visitor, list[Sample]]
    pages: dict[Visitor, int]


def measure(house: House, rounds: int, seconds: int) -> Live:
    key = house.key()
    drive(key, house.url, 0, _WARM_UP_S)
    full = drive(key, house.url, 0, _FULL_S)
    pace_ms = max(1, round(CONNECTIONS / (full.per_second / 2) * 1000 - full.p50_ms / 2))
    samples: dict[Visitor, list[Sample]] = {visitor: [] for visitor in VISITORS}
    shown: dict[Visitor, int] = dict.fromkeys(VISITORS, 0)
    for number in range(rounds):
        first = number % len(VISITORS)
        for visitor in VISITORS[first:] + VISITORS[:first]:
            with visited(house, visitor) as count:
                samples[visitor].append(drive(key, house.url, pace_ms, seconds))
            shown[visitor] += next(count)
    return Live(full.per_second, samples, shown)


def drive(key: str, url: str, pace_ms: int, seconds: int) -> Sample:
    """One run of wrk; without a pace as fast as its connections go."""
    target = [f"-c{CONNECTIONS}", f"-d{seconds}s", "--timeout", "20s", f"{url}/v1/chat/completions"]
    script = ["-s", str(_PACED if pace_ms else _REQUEST), "--", "auto", "unique", uuid.uuid4().hex[:8]]
    env = os.environ | {"REQUEST_LUA": str(_REQUEST), "PACE_MS": str(pace_ms)}
    command = ["wrk", "-t1", *target, *script, f"authorization: Bearer {key}"]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
    return msgspec.json.decode(ran.stdout.strip().splitlines()[-1], type=Sample)


@contextmanager
def visited(house: House, visitor: Visitor) -> Iterator[Iterator[int]]:
    """Somebody looks while the block runs; afterwards the count says how many pages were shown."""
    over, count = threading.Event(), itertools.count()

    def look() -> None:
        due = dict.fromkeys(_PAGES, time.monotonic())
        with house.client() as client:
            while not over.is_set():
                page = min(due, key=lambda each: due[each])
                if visitor == "no pause" or not over.wait(max(0.0, due[page] - time.monotonic())):
                    reply = client.get(f"/dashboard{page}{'&' if '?' in page else '?'}again={next(count)}")
                    assert reply.status_code == 200, f"{page}: {reply.status_code}"
                    due[page] = time.monotonic() + _PAGES[page]

    with ThreadPoolExecutor(1) as thread:
        looking = thread.submit(look) if visitor != "nobody" else None
        yield count
        over.set()
        if looking is not None:
            looking.result()
