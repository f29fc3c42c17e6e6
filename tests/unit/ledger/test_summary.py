from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Mapping
from pathlib import Path
from typing import Any, Protocol

import pytest

from gateway.ledger.store import SqlStore
from gateway.types import DAY_MS, HOUR_MS, LedgerEntry
from tests.support.ledger import NOON, entry

DAY = NOON - NOON % DAY_MS


class Summary(Protocol):
    def __call__(
        self, *entries: LedgerEntry, since: int = DAY, until: int = DAY + DAY_MS
    ) -> Awaitable[Mapping[str, Any]]: ...


@pytest.fixture
async def summary(tmp_path: Path) -> AsyncIterator[Summary]:
    """What the books say of a period, once they have these entries too."""
    store = SqlStore(f"sqlite+aiosqlite:///{tmp_path / 'ledger.sqlite3'}")
    await store.migrate()

    async def told(*entries: LedgerEntry, since: int = DAY, until: int = DAY + DAY_MS) -> Mapping[str, Any]:
        await store.append(entries)
        return await store.summary(since, until)

    yield told
    await store.close()


async def test_totals_errors_and_hit_rate(summary: Summary) -> None:
    found = await summary(
        entry("r1"),
        entry("r2", cache="exact", served="cache", cost_nano=0, saved_nano=3000),
        entry("r3", cache="semantic", served="cache", cost_nano=0, saved_nano=3000),
        entry("r4", cache="bypass", status="error", usage_source="estimated"),
        entry("r5", status="cancelled", unpriced=True),
        entry("r6", status="crashed", served="none"),
    )
    total = found["total"]
    assert (total["requests"], total["errors"], total["estimated"], total["unpriced"]) == (6, 2, 1, 1)
    assert (total["cost_nano"], total["saved_nano"]) == (4000, 14_000)
    assert found["cache"]["hit_rate"] == 2 / 5
    assert found["served"]["cache"] == {"requests": 2, "cost_nano": 0}
    assert found["statuses"] == {"ok": 3, "error": 1, "cancelled": 1, "crashed": 1}


async def test_percentiles_are_of_answered_requests_only(summary: Summary) -> None:
    found = await summary(
        entry("r1", duration_ms=100.0, ttft_ms=10.0), entry("r2", duration_ms=60_000.0, status="error")
    )
    assert found["latency_ms"]["p99"] == pytest.approx(100, rel=0.05)
    assert found["ttft_ms"]["p50"] == pytest.approx(10, rel=0.05)


async def test_breakdowns_put_the_busiest_first(summary: Summary) -> None:
    found = await summary(
        entry("r1", model="a", key_id="x"), entry("r2", model="b"), entry("r3", model="b", rule="hard")
    )
    assert [(row["name"], row["requests"]) for row in found["by_model"]] == [("b", 2), ("a", 1)]
    assert [row["name"] for row in found["by_rule"]] == ["easy", "hard"]
    assert {row["name"] for row in found["by_key"]} == {"k1", "x"}


async def test_a_timeline_has_every_hour_of_a_day_and_every_day_of_a_week(summary: Summary) -> None:
    day = (await summary(entry("r1"), entry("r2", ts_ms=NOON + HOUR_MS)))["timeline"]
    assert len(day) == 24
    assert [part["requests"] for part in day[12:15]] == [1, 1, 0]
    week = (await summary(since=DAY - 6 * DAY_MS, until=DAY + DAY_MS))["timeline"]
    assert [part["requests"] for part in week] == [0, 0, 0, 0, 0, 0, 2]


async def test_nothing_at_all_is_a_summary_too(summary: Summary) -> None:
    found = await summary()
    assert found["total"]["requests"] == 0
    assert found["cache"]["hit_rate"] is None
    assert found["latency_ms"] == {"p50": None, "p95": None, "p99": None}
