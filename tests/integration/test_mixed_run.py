"""Five hundred requests of every kind, at once: one row each, and a sum that agrees with upstream's own log."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import AsyncIterator
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any

import pytest
import pytest_asyncio

from gateway.types import LedgerEntry
from tests.support.gateway import Gateway, gateway, hosted
from tests.support.upstream import Plan, Upstream

pytestmark = pytest.mark.asyncio(loop_scope="module")

COUNT, AT_ONCE, SEED = 500, 25, 20_251
COPIES = 4  # of each model, since one that breaks off three times is not asked again for a while
PRICES = {
    "clean": ("0.0375", "0.15", "0.01875"),
    "early": ("2.5", "10", "1.25"),
    "every": ("0.3333", "1.1111", "0.0777"),
    "silent": ("1", "2", "0.5"),
    "flaky": ("0.15", "0.6", "0.075"),
    "failing": ("3", "15", "0.3"),
    "cut": ("0.59", "0.79", "0.1"),
    "garbled": ("5", "25", "0.5"),
    "slow": ("1.1", "4.4", "0.55"),
    "hanging": ("2", "8", "0.5"),
}
PLANS = {
    "clean": Plan(cached_tokens=3),
    "early": Plan(usage="with_choices", cached_tokens=1),
    "every": Plan(usage="every"),
    "silent": Plan(usage="missing"),
    "flaky": Plan(cached_tokens=2),
    "failing": Plan(status=500),
    "cut": Plan(usage="every", cut_after=2),
    "garbled": Plan(garbage_after=1),
    "slow": Plan(chunks=20, chunk_delay_s=0.2),
    "hanging": Plan(hang=True),
}
POLICY: Any = {
    "name": "default",
    "baseline": "early-0",
    "rules": [{"name": "all", "use": ["failing-0", "flaky-0", "clean-0"]}],
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory, upstream_server: Upstream) -> AsyncIterator[Gateway]:
    def model(kind: str, copy: int) -> dict[str, Any]:
        price = dict(zip(("input", "output", "cached_input"), map(float, PRICES[kind]), strict=True))
        more: Any = {"upstream_model": kind, "price": price, "max_retries": 2}
        return hosted(f"{kind}-{copy}", upstream_server.base_url, **more)

    models = [model(kind, copy) for kind in PRICES for copy in range(COPIES)]
    async with gateway(tmp_path_factory.mktemp("gate"), models, [POLICY]) as running:
        yield running


class Crowd:
    """Clients of every kind, drawn from one seed."""

    def __init__(self, gate: Gateway, upstream: Upstream, key: str) -> None:
        self.gate, self.upstream, self.key = gate, upstream, key
        self.drawn = random.Random(SEED)
        self.told: dict[str, float] = {}
        self._slots = asyncio.Semaphore(AT_ONCE)

    async def run(self) -> None:
        models = [*PRICES, "auto", "clean", "every"]
        asking = [self.ask(number, self.drawn.choice(models), self.drawn.random() < 0.5) for number in range(COUNT)]
        await asyncio.gather(*asking)

    async def ask(self, number: int, kind: str, stream: bool) -> None:
        model = kind if kind == "auto" else f"{kind}-{self.drawn.randrange(COPIES)}"
        prompt = (
            f"asked more than once {number % 5}"
            if number % 6 == 0
            else " ".join(["word"] * (4 + number % 37)) + f" {number}"
        )
        body: dict[str, Any] = {"model": model, "user": f"user-{number}", "stream": stream}
        if stream and number % 3:
            body["stream_options"] = {"include_usage": True}
        async with self._slots:
            if kind == "hanging":
                await self.leave_before_the_answer(number, prompt, body)
            elif kind == "slow" and stream:
                await self.leave_in_the_middle(prompt, body)
            else:
                await self.listen(prompt, body)

    async def listen(self, prompt: str, body: dict[str, Any]) -> None:
        reply = await self.gate.chat(prompt, key=self.key, **body)
        if reply.status_code == 200 and not body["stream"]:
            self.told[reply.headers["x-gateway-request-id"]] = reply.json()["usage"]["cost_usd"]

    async def leave_before_the_answer(self, number: int, prompt: str, body: dict[str, Any]) -> None:
        asking = asyncio.create_task(self.gate.chat(prompt, key=self.key, **body))
        user = f"user-{number}"
        seen = asyncio.ensure_future(
            self.upstream.wait_until(lambda: any(one.json["user"] == user for one in self.upstream.requests))
        )
        await asyncio.wait({asking, seen}, return_when=asyncio.FIRST_COMPLETED)
        assert not asking.done(), asking.result().text
        await seen
        asking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asking

    async def leave_in_the_middle(self, prompt: str, body: dict[str, Any]) -> None:
        async with self.gate.open(prompt, key=self.key, **body) as reply:
            await anext(reply.aiter_bytes())


def recomputed(row: LedgerEntry, upstream: Upstream) -> int:
    """Nano-dollars of the one call that reported usage for this row, from upstream's log and the price list alone."""
    [call] = [one for one in upstream.requests if one.json["user"] == row.end_user and one.usage is not None]
    usage = call.usage
    assert usage is not None
    assert call.model is not None
    price, output, cached = map(Decimal, PRICES[call.model])
    millionths = (usage.prompt_tokens - usage.cached_tokens) * price + usage.cached_tokens * cached
    millionths += usage.completion_tokens * output
    return int((millionths * 1000).quantize(Decimal(1), ROUND_HALF_EVEN))


async def test_a_mixed_run_adds_up(gate: Gateway, upstream: Upstream) -> None:
    upstream.plans.update(PLANS)
    for _ in range(30):
        upstream.enqueue(Plan(status=500), Plan(), Plan(status=429, headers={"retry-after-ms": "1"}), model="flaky")
    key = await gate.key(budget_usd=1000)
    crowd = Crowd(gate, upstream, key)

    await crowd.run()

    rows = await gate.rows(COUNT)
    assert {row.end_user for row in rows} == {f"user-{number}" for number in range(COUNT)}
    reported = [row for row in rows if row.usage_source == "reported"]
    assert sum(row.cost_nano for row in reported) == sum(recomputed(row, upstream) for row in reported)
    assert all(row.cost_nano == recomputed(row, upstream) for row in reported)
    by_id = {row.request_id: row for row in rows}
    assert all(Decimal(str(usd)) * 10**9 == by_id[one].cost_nano for one, usd in crowd.told.items())
    assert all(row.cost_nano <= row.reserved_nano for row in rows if row.usage_source == "estimated")
    assert all(row.cost_nano == 0 for row in rows if row.usage_source == "none")
    assert (await gate.budget(key))["spent"] == sum(row.cost_nano for row in rows)
    await gate.nothing_held(key)
    assert_every_kind_took_part(rows)


def assert_every_kind_took_part(rows: list[LedgerEntry]) -> None:
    kinds = Counter((row.status, row.usage_source) for row in rows)
    for kind in (
        ("ok", "reported"),
        ("ok", "estimated"),
        ("error", "none"),
        ("incomplete", "estimated"),
        ("incomplete", "reported"),
        ("cancelled", "estimated"),
    ):
        assert kinds[kind] >= 3, kinds
    assert sum(row.cache == "exact" for row in rows) >= 5
    assert sum(len(row.detail["attempts"]) > 1 and row.status == "ok" for row in rows) >= 5
    assert len(rows) == sum(kinds.values())
