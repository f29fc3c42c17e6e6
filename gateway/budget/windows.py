"""The time a budget is counted over: by the calendar of a time zone, rolling, or all of it."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta, tzinfo
from functools import lru_cache
from typing import NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

CALENDAR = ("hour", "day", "week", "month")
TOTAL = "total"
SLICES = 60

_HOUR_MS = 3_600_000
_UNITS_MS = {"m": 60_000, "h": _HOUR_MS, "d": 86_400_000}
_ROLLING = re.compile(r"(?P<count>[1-9][0-9]{0,3})(?P<unit>[mhd])")


class Span(NamedTuple):
    """One window, epoch milliseconds: from ``since_ms`` up to, and without, ``until_ms`` (None: it does not reset)."""

    since_ms: int
    until_ms: int | None


def zone(name: str) -> tzinfo:
    """The IANA time zone of that name. Raises ValueError where there is none."""
    if name == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"no time zone '{name}'") from None


def rolling_ms(window: str) -> int | None:
    """Milliseconds of a rolling window (``24h``, ``30d``); None for every other."""
    found = _ROLLING.fullmatch(window)
    return int(found["count"]) * _UNITS_MS[found["unit"]] if found else None


def check(window: str) -> None:
    """Raises ValueError for what is no window."""
    if window not in (*CALENDAR, TOTAL) and rolling_ms(window) is None:
        raise ValueError("hour, day, week, month, total, or a rolling time such as 90m, 24h or 30d")


def slice_ms(span_ms: int) -> int:
    """A rolling window moves in steps of a sixtieth: what was spent leaves it whole steps at a time, never early."""
    return -(-span_ms // SLICES)


def calendar(window: str, zone_name: str, at_ms: int) -> Span:
    """The window of the calendar that holds a moment. Weeks begin on Monday; a day of 23 or 25 hours is one day."""
    where = _zone(zone_name)
    local = datetime.fromtimestamp(at_ms / 1000, where)
    if window == "hour":
        offset_ms = int((local.utcoffset() or timedelta()).total_seconds() * 1000)
        since = at_ms - (at_ms + offset_ms) % _HOUR_MS
        return Span(since, since + _HOUR_MS)
    first, last = _days(window, local.date())
    return Span(_midnight(first, where), _midnight(last, where))


def _days(window: str, day: date) -> tuple[date, date]:
    if window == "day":
        return day, day + timedelta(days=1)
    if window == "week":
        monday = day - timedelta(days=day.weekday())
        return monday, monday + timedelta(days=7)
    first = day.replace(day=1)
    return first, (first + timedelta(days=32)).replace(day=1)


def _midnight(day: date, where: tzinfo) -> int:
    """When a day begins; where clocks jump over midnight, the moment they do."""
    return int(datetime(day.year, day.month, day.day, tzinfo=where).timestamp() * 1000)


_zone = lru_cache(maxsize=64)(zone)
