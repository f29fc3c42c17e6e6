from __future__ import annotations

from itertools import pairwise

import pytest

from gateway.dashboard import periods
from gateway.types import DAY_MS, HOUR_MS

NOW = 1_795_361_107_000
"""2026-11-22T14:05:07Z"""
TODAY = NOW - NOW % DAY_MS


@pytest.mark.parametrize(
    ("name", "days_before", "days"),
    [("today", 0, 1), ("7d", 6, 7), ("30d", 29, 30), ("90d", 89, 90), ("month", 21, 30), ("2026-11", 21, 30)],
)
def test_a_period_is_of_whole_days(name: str, days_before: int, days: int) -> None:
    found = periods.read(name, NOW)
    assert found.since_ms == TODAY - days_before * DAY_MS
    assert found.until_ms - found.since_ms == days * DAY_MS
    assert not found.closed


def test_24_hours_end_with_the_hour_at_hand() -> None:
    found = periods.read("24h", NOW)
    assert found.until_ms - NOW < HOUR_MS
    assert found.until_ms % HOUR_MS == 0
    assert found.until_ms - found.since_ms == DAY_MS


def test_from_the_year_down_to_the_hour() -> None:
    hour = periods.read("2026-11-21T13", NOW)
    assert hour.is_hour
    assert hour.closed
    assert hour.parents() == [
        ("2026", "2026"),
        ("2026-11", "November"),
        ("2026-11-21", "21"),
        ("2026-11-21T13", "13:00"),
    ]
    for (name, _), inner in zip(hour.parents(), ("2026-01-01", "2026-11-01", "2026-11-21T00"), strict=False):
        period = periods.read(name, NOW)
        assert period.step_name(period.since_ms) == inner


def test_steps_cover_their_period_exactly() -> None:
    for name in ("2024-02", "2026-11-21", "2026"):
        period = periods.read(name, NOW)
        steps = [
            periods.read(period.step_name(at), NOW) for at in range(period.since_ms, period.until_ms, period.step_ms)
        ]
        assert steps[0].since_ms == period.since_ms
        assert steps[-1].until_ms == period.until_ms
        assert all(a.until_ms == b.since_ms for a, b in pairwise(steps))


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("2026-01", "2025-12", "2026-02"),
        ("2024-02-29", "2024-02-28", "2024-03-01"),
        ("2026-01-01T00", "2025-12-31T23", "2026-01-01T01"),
        ("2026", "2025", "2027"),
    ],
)
def test_neighbours(name: str, before: str, after: str) -> None:
    assert periods.read(name, NOW).neighbours() == (before, after)


def test_a_stretch_of_days_includes_its_last() -> None:
    span = periods.read("2026-11-01..2026-11-07", NOW)
    assert span.until_ms - span.since_ms == 7 * DAY_MS
    assert (span.title, span.neighbours(), span.parents()) == ("1 Nov 2026 to 7 Nov 2026", None, [])
    assert span.before() == (span.since_ms - 7 * DAY_MS, span.since_ms)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "forever",
        "2026-13",
        "2026-02-30",
        "2026-11-22T24",
        "1999",
        "2026-11-07..2026-11-01",
        "2020-01-01..2026-01-01",
    ],
)
def test_what_is_no_period(name: str) -> None:
    with pytest.raises(ValueError, match="is not a period"):
        periods.read(name, NOW)
