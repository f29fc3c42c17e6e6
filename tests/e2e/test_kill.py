"""kill -9 of each part under load: answers or clear errors throughout, all back soon, no row lost or doubled."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.gateway import PRICE
from tests.support.serving import (
    BACK_SECONDS,
    Serving,
    environment,
    serving,
    write_config,
)
from tests.support.upstream import Plan, Upstream
from tests.support.waiting import until

pytestmark = pytest.mark.timeout(300)

PACE_S = 0.05
POLICY = """
name: default
baseline: big
cache: {semantic: true}
rules:
  - {name: easy, when: "'local' in tags", use: [local-small]}
  - {name: rest, use: [big]}
"""


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with Upstream.in_thread() as server:
        server.default = Plan(text="fine", first_delay_s=0.005)
        yield server


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, upstream: Upstream) -> Iterator[Serving]:
    folder = tmp_path_factory.mktemp("k")
    (folder / "policies").mkdir()
    (folder / "policies" / "default.yaml").write_text(POLICY)
    big = {
        "name": "big",
        "provider": "openai_compatible",
        "base_url": upstream.base_url,
        "api_key": "k",
        "price": PRICE,
    }
    small = {"name": "local-small", "local": "smollm2-135m-instruct", "usd_per_hour": 0.04}
    config = write_config(folder, models=[small, big], embedder={"enabled": True})
    with serving(config, environment(folder)) as running:
        yield running


class Load:
    """About a hundred requests a second from a few clients, each answer noted."""

    def __init__(self, url: str) -> None:
        self.client = httpx.AsyncClient(base_url=url, timeout=BACK_SECONDS)
        self.statuses: list[int] = []
        self.admitted: set[str] = set()
        self.slowest = 0.0
        self._tasks: list[asyncio.Task[None]] = []
        self._stop = False

    async def __aenter__(self) -> Load:
        self._tasks = [asyncio.create_task(self._run(number)) for number in range(6)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop = True
        await asyncio.gather(*self._tasks)
        await self.client.aclose()

    async def _run(self, number: int) -> None:
        count = 0
        while not self._stop:
            count += 1
            local = number == 0
            began = time.perf_counter()
            reply = await self.client.post(
                "/v1/chat/completions",
                json={
                    "model": "auto",
                    "max_tokens": 4,
                    "messages": [{"role": "user", "content": f"{number} is {count}?"}],
                },
                headers={"x-gateway-tags": "local"} if local else {},
            )
            self.slowest = max(self.slowest, time.perf_counter() - began)
            self.statuses.append(reply.status_code)
            assert reply.status_code == 200 or "error" in reply.json(), reply.text
            if "x-gateway-route" in reply.headers:
                self.admitted.add(reply.headers["x-gateway-request-id"])
            await asyncio.sleep(PACE_S)

    async def answers(self, more: int) -> None:
        """Wait for this many further 200s."""
        wanted = self.statuses.count(200) + more
        await until(lambda: self.statuses.count(200) >= wanted)


async def ready(url: str) -> bool:
    async with httpx.AsyncClient(base_url=url, timeout=5.0) as client:
        reply = await client.get("/readyz")
        return reply.status_code == 200 and set(reply.json()["parts"].values()) == {"ready"}


def rows(folder: Path) -> list[str]:
    with sqlite3.connect(folder / "data" / "ledger.sqlite3") as books:
        return [row[0] for row in books.execute("select request_id from ledger")]


@pytest.mark.parametrize("part", ["chat", "embed", "redis"])
async def test_a_killed_part_comes_back_and_no_row_is_lost(gateway: Serving, part: str) -> None:
    await until(lambda: ready(gateway.url), within_s=BACK_SECONDS)
    async with Load(gateway.url) as load:
        await load.answers(50)
        victim = gateway.children()[part]
        victim.kill()
        killed = time.monotonic()
        await until(lambda: gateway.children().get(part) not in (None, victim), within_s=BACK_SECONDS)
        await until(lambda: ready(gateway.url), within_s=BACK_SECONDS)
        back = time.monotonic() - killed
        await load.answers(50)

    assert back < BACK_SECONDS
    assert load.slowest < BACK_SECONDS
    await until(lambda: load.admitted <= set(rows(gateway.folder)))
    kept = rows(gateway.folder)
    assert len(kept) == len(set(kept))
