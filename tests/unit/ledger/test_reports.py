from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.ledger import reports
from gateway.ledger.rollups import DAY_MS, HOUR_MS, fold
from gateway.types import LedgerEntry
from tests.support.ledger import NOON, entry

DAY = NOON - NOON % DAY_MS


def summary(*entries: LedgerEntry, since: int = DAY, until: int = DAY + DAY_MS) -> dict[str, Any]:
    return reports.summary(fold(entries, (), HOUR_MS).items(), since, until)


def test_totals_errors_and_hit_rate() -> None:
    found = summary(
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


def test_percentiles_are_of_answered_requests_only() -> None:
    found = summary(entry("r1", duration_ms=100.0, ttft_ms=10.0), entry("r2", duration_ms=60_000.0, status="error"))
    assert found["latency_ms"]["p99"] == pytest.approx(100, rel=0.05)
    assert found["ttft_ms"]["p50"] == pytest.approx(10, rel=0.05)


def test_breakdowns_put_the_busiest_first() -> None:
    found = summary(entry("r1", model="a", key_id="x"), entry("r2", model="b"), entry("r3", model="b", rule="hard"))
    assert [(row["name"], row["requests"]) for row in found["by_model"]] == [("b", 2), ("a", 1)]
    assert [row["name"] for row in found["by_rule"]] == ["easy", "hard"]
    assert {row["name"] for row in found["by_key"]} == {"k1", "x"}


def test_a_timeline_has_every_hour_of_a_day_and_every_day_of_a_week() -> None:
    day = summary(entry("r1"), entry("r2", ts_ms=NOON + HOUR_MS))["timeline"]
    assert len(day) == 24
    assert [part["requests"] for part in day[12:15]] == [1, 1, 0]
    week = summary(entry("r1"), since=DAY - 6 * DAY_MS, until=DAY + DAY_MS)["timeline"]
    assert [part["requests"] for part in week] == [0, 0, 0, 0, 0, 0, 1]


def test_nothing_at_all_is_a_summary_too() -> None:
    found = summary()
    assert found["total"]["requests"] == 0
    assert found["cache"]["hit_rate"] is None
    assert found["latency_ms"] == {"p50": None, "p95": None, "p99": None}


@pytest.mark.parametrize(
    ("text", "begin", "end"),
    [("today", DAY, DAY + DAY_MS), ("24h", NOON - DAY_MS, NOON), ("7d", NOON - 7 * DAY_MS, NOON)],
)
def test_periods(text: str, begin: int, end: int) -> None:
    assert reports.period(text, NOON) == (begin, end)


@pytest.mark.parametrize("text", ["", "yesterday", "0d", "7", "-1d", "99999d", "7d "])
def test_what_is_no_period_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a period"):
        reports.period(text, NOON)


@pytest.mark.parametrize(
    ("nano", "text"),
    [(0, "0.00"), (1, "0.000000001"), (1_500_000, "0.0015"), (-2_000_000_000, "-2.00"), (12_340_000_000, "12.34")],
)
def test_dollars_are_written_exactly(nano: int, text: str) -> None:
    assert reports.usd(nano) == text


def test_json_holds_exact_dollars_as_numbers() -> None:
    body = reports.encode(reports.dollars({"total": {"cost_nano": 9_007_199_254_740_993}, "rows": [{"saved_nano": 1}]}))
    assert b'"cost_usd":9007199.254740993' in body
    assert json.loads(body)["rows"][0]["saved_usd"] == 1e-9
