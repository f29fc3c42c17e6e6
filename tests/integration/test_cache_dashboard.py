"""The dashboard's page of the cache, and the alert when questions shift."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import httpx
import msgspec
import pytest
from redis.asyncio import Redis

from gateway.alerts import rules
from gateway.cache.posterior import Observation
from gateway.cache.purge import day
from gateway.cache.stats import PSI_ALARM
from gateway.types import CacheTier
from tests.support.dashboard import Looked, looked_at
from tests.support.ledger import entry


@pytest.fixture(scope="module")
def looked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Looked]:
    tiers: tuple[CacheTier, ...] = ("miss", "miss", "exact", "semantic", "coalesced")
    then = int(time.time() * 1000) - 60_000
    rows = [entry(f"r{n}", ts_ms=then + n, cache=tier, saved_nano=1000 * n) for n, tier in enumerate(tiers)]
    with looked_at(tmp_path_factory.mktemp("looked"), rows) as running:
        yield running


async def _seen(redis: Redis, name: str, counts: dict[Any, Any]) -> None:
    await redis.delete(name)
    await redis.hset(name, mapping=counts)


def test_it_shows_hits_by_tier_and_how_similar_they_were(looked: Looked) -> None:
    runtime, today = looked.gateway.runtime, day(int(time.time() * 1000))
    week: dict[str, int] = {f"{today}:19": 40, f"{today}:18": 10, f"{today - 8}:19": 7, f"{today}:rejected": 2}
    looked.thread.run(_seen(runtime.redis, runtime.keys.days, week))

    shown: dict[str, Any] = looked.json("/cache.json")

    tiers = {row["tier"]: (row["requests"], row["saved_usd"]) for row in shown["tables"]["tiers"]}
    assert tiers == {"miss": (2, 1e-6), "exact": (1, 2e-6), "semantic": (1, 3e-6), "coalesced": (1, 4e-6)}
    assert [(row["similarity"], row["hits"], row["before"]) for row in shown["tables"]["similarity"]] == [
        ("0.950 – 0.975", 10, 0),
        ("0.975 – 1.000", 40, 7),
    ]
    page = httpx.get(f"{looked.url}/dashboard/cache", headers={"accept": "text/html"}, timeout=30)
    assert page.status_code == 200
    assert "A question that means the same" in page.text
    assert "2 were said to be wrong" in page.text
    assert "Questions have shifted" not in page.text


async def _outcomes(redis: Redis, name: str, policy: str, budget: float, wrong: int) -> None:
    await redis.delete(name)
    for number in range(100):
        about: dict[str, Any] = {"policy": policy, "mode": "question", "budget": budget, "said": 0.97}
        outcome = Observation(f"o{number}", (1.0,), same=number >= wrong, audited=True, **about)
        await redis.rpush(name, msgspec.msgpack.encode(outcome))


def test_it_holds_what_was_checked_against_each_policys_budget(looked: Looked) -> None:
    runtime = looked.gateway.runtime
    for partition, policy, budget, wrong in (("pa", "strict", 0.01, 9), ("pb", "loose", 0.1, 9)):
        looked.thread.run(_outcomes(runtime.redis, runtime.keys.outcomes(partition), policy, budget, wrong))

    shown: dict[str, Any] = looked.json("/cache.json?period=7d")

    rows = {row["policy"]: row for row in shown["tables"]["promises"]}
    assert [(rows[name]["budget"], rows[name]["checked"], rows[name]["wrong"]) for name in ("strict", "loose")] == [
        (0.01, 100, 9),
        (0.1, 100, 9),
    ]
    assert (rows["strict"]["kept"], rows["loose"]["kept"]) == ("no", "yes")
    assert 0.03 < rows["strict"]["low"] < 0.09 < rows["strict"]["high"] < 0.17
    [sure] = shown["tables"]["posterior"]
    assert (sure["said"], sure["afresh"], sure["same"]) == ("0.95 – 0.98", 200, 182 / 200)
    page = httpx.get(f"{looked.url}/dashboard/cache?period=7d", headers={"accept": "text/html"}, timeout=30)
    assert "Wrong answers against the budget" in page.text


def test_a_shift_is_told_on_the_page(looked: Looked) -> None:
    runtime, today = looked.gateway.runtime, day(int(time.time() * 1000))
    looked.thread.run(_seen(runtime.redis, runtime.keys.days, {f"{today}:18": 300, f"{today - 8}:19": 300}))

    page = httpx.get(f"{looked.url}/dashboard/cache?period=24h", headers={"accept": "text/html"}, timeout=30)

    assert "Questions have shifted" in page.text


def test_questions_of_others_are_not_for_the_owner_of_a_key(looked: Looked) -> None:
    key, _ = looked.key("mine")
    with looked.browser() as owner:
        assert owner.post("/dashboard/sign-in", data={"key": key}).status_code == 303
        assert owner.get("/dashboard/cache").status_code == 404
        assert "/dashboard/cache" not in owner.get("/dashboard").text


def test_a_shift_is_a_finding_that_lasts() -> None:
    assert rules.drift(None, PSI_ALARM) == rules.drift(PSI_ALARM, PSI_ALARM) == []
    [finding] = rules.drift(0.4, PSI_ALARM)
    assert (finding.kind, finding.key) == ("cache_drift", "cache_drift")
    assert finding.kind in rules.STATES
    assert "0.40" in finding.text
