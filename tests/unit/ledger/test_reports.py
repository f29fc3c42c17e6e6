from __future__ import annotations

import json

import pytest

from gateway.ledger import reports
from gateway.types import DAY_MS
from tests.support.ledger import NOON

DAY = NOON - NOON % DAY_MS


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
