"""Calendar windows in time zones, and rolling ones."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.budget import windows

HOUR = 3_600_000
ZONES = (
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "America/Havana",
    "Asia/Kolkata",
    "Australia/Lord_Howe",
    "Asia/Beirut",
)


def ms(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp() * 1000)


@pytest.mark.parametrize(
    ("window", "zone", "at", "since", "until"),
    [
        ("hour", "UTC", "2026-03-05T10:59:59+00:00", "2026-03-05T10:00+00:00", "2026-03-05T11:00+00:00"),
        ("hour", "Asia/Kolkata", "2026-03-05T10:15+00:00", "2026-03-05T09:30+00:00", "2026-03-05T10:30+00:00"),
        ("day", "UTC", "2026-03-05T00:00+00:00", "2026-03-05T00:00+00:00", "2026-03-06T00:00+00:00"),
        ("day", "America/New_York", "2026-03-05T02:00+00:00", "2026-03-04T05:00+00:00", "2026-03-05T05:00+00:00"),
        ("week", "Europe/Berlin", "2026-03-08T12:00+00:00", "2026-03-01T23:00+00:00", "2026-03-08T23:00+00:00"),
        ("month", "UTC", "2026-12-31T23:59+00:00", "2026-12-01T00:00+00:00", "2027-01-01T00:00+00:00"),
        ("month", "Europe/Berlin", "2026-03-31T22:30+00:00", "2026-03-31T22:00+00:00", "2026-04-30T22:00+00:00"),
        # Clocks go forward: that day has 23 hours, that month begins in winter and ends in summer.
        ("day", "Europe/Berlin", "2026-03-29T10:00+00:00", "2026-03-28T23:00+00:00", "2026-03-29T22:00+00:00"),
        ("month", "Europe/Berlin", "2026-03-29T10:00+00:00", "2026-02-28T23:00+00:00", "2026-03-31T22:00+00:00"),
        # And back: 25 hours, of which two are called the same and are two windows.
        ("day", "Europe/Berlin", "2026-10-25T10:00+00:00", "2026-10-24T22:00+00:00", "2026-10-25T23:00+00:00"),
        ("hour", "Europe/Berlin", "2026-10-25T00:30+00:00", "2026-10-25T00:00+00:00", "2026-10-25T01:00+00:00"),
        ("hour", "Europe/Berlin", "2026-10-25T01:30+00:00", "2026-10-25T01:00+00:00", "2026-10-25T02:00+00:00"),
    ],
)
def test_a_calendar_window_is_that_of_its_time_zone(window: str, zone: str, at: str, since: str, until: str) -> None:
    assert windows.calendar(window, zone, ms(at)) == (ms(since), ms(until))


@given(
    window=st.sampled_from(["day", "week", "month"]),
    zone=st.sampled_from(ZONES),
    at=st.integers(ms("2020-01-01T00:00+00:00"), ms("2035-01-01T00:00+00:00")),
)
def test_windows_follow_each_other_without_gap_or_overlap(window: str, zone: str, at: int) -> None:
    spans = [windows.calendar(window, zone, at)]
    for _ in range(3):
        assert spans[-1].until_ms is not None
        spans.append(windows.calendar(window, zone, spans[-1].until_ms))
    assert spans[0].since_ms <= at < (spans[0].until_ms or 0)
    assert all(one.until_ms == following.since_ms for one, following in pairwise(spans))
    for span in spans:
        local = datetime.fromtimestamp(span.since_ms / 1000, UTC if zone == "UTC" else ZoneInfo(zone))
        assert local.hour in (0, 1)  # one o'clock where midnight is skipped
        assert windows.calendar(window, zone, (span.until_ms or 0) - 1) == span


@pytest.mark.parametrize(("window", "span"), [("90m", 90 * 60_000), ("24h", 24 * HOUR), ("30d", 720 * HOUR)])
def test_a_rolling_window_moves_in_sixtieths(window: str, span: int) -> None:
    assert windows.rolling_ms(window) == span
    assert windows.slice_ms(span) * windows.SLICES >= span
    windows.check(window)


@pytest.mark.parametrize("window", ["", "year", "0h", "-1d", "1", "1s", "month ", "99999d"])
def test_what_is_no_window_is_refused(window: str) -> None:
    with pytest.raises(ValueError, match="rolling"):
        windows.check(window)


def test_a_time_zone_must_exist() -> None:
    with pytest.raises(ValueError, match="Mars"):
        windows.zone("Mars/Olympus")
