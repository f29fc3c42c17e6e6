"""The stretch of time a page is about: a name in its address, hours or days as its steps, and its neighbours.

Everything begins and ends on a whole hour in UTC, as the rollups do, so that what is shown adds up exactly.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from gateway.types import DAY_MS, HOUR_MS

ROLLING = {"today": "Today", "24h": "24 hours", "7d": "7 days", "30d": "30 days", "90d": "90 days"}
_DAYS = {"7d": 7, "30d": 30, "90d": 90}
_WRITTEN = re.compile(r"(2[01]\d\d)(?:-(\d\d)(?:-(\d\d)(?:T(\d\d))?)?)?")
_SPAN = re.compile(r"(2[01]\d\d-\d\d-\d\d)\.\.(2[01]\d\d-\d\d-\d\d)")
_LONGEST = 400 * DAY_MS


@dataclass(frozen=True)
class Period:
    """``name`` is how addresses write it; ``zoom``: what one step of it is drilled down to.

    ``closed`` once no more rows are to be expected in it.
    """

    name: str
    title: str
    since_ms: int
    until_ms: int
    closed: bool

    @property
    def step_ms(self) -> int:
        return HOUR_MS if self.until_ms - self.since_ms <= 2 * DAY_MS else DAY_MS

    @property
    def is_hour(self) -> bool:
        return self.until_ms - self.since_ms <= HOUR_MS

    def step_name(self, start_ms: int) -> str:
        """The period that one step is."""
        at = _utc(start_ms)
        return at.strftime("%Y-%m-%dT%H") if self.step_ms == HOUR_MS else at.strftime("%Y-%m-%d")

    def step_title(self, start_ms: int) -> str:
        at = _utc(start_ms)
        return at.strftime("%H:%M") if self.step_ms == HOUR_MS else f"{at.day} {at:%b}"

    def parents(self) -> list[tuple[str, str]]:
        """The wider periods around a calendar one, widest first, as (name, title), itself last."""
        found = _WRITTEN.fullmatch(self.name)
        if not found:
            return []
        year, month, day, hour = found.groups()
        names = [year, f"{year}-{month}", f"{year}-{month}-{day}", f"{year}-{month}-{day}T{hour}"]
        given = 1 + sum(part is not None for part in (month, day, hour))
        titles = [year, f"{_utc(self.since_ms):%B}", str(int(day or 0)), f"{hour}:00"]
        return list(zip(names[:given], titles[:given], strict=True))

    def neighbours(self) -> tuple[str, str] | None:
        """The names of the periods before and after a calendar one."""
        if not _WRITTEN.fullmatch(self.name):
            return None
        before, after = _utc(self.since_ms - 1), _utc(self.until_ms)
        form = ("%Y", "%Y-%m", "%Y-%m-%d", "%Y-%m-%dT%H")[len(self.parents()) - 1]
        return before.strftime(form), after.strftime(form)

    def before(self) -> tuple[int, int]:
        """As long a stretch just before this one, to compare with."""
        return 2 * self.since_ms - self.until_ms, self.since_ms


def read(name: str, now_ms: int) -> Period:
    """``today``, ``24h``, ``7d``, ``30d``, ``90d``, ``month``; a calendar year, month, day or hour in ISO 8601
    (``2026``, ``2026-11``, ``2026-11-22``, ``2026-11-22T14``); whole days ``2026-11-01..2026-11-07``.

    Raises:
        ValueError: it is none of these.
    """
    hour_end = now_ms - now_ms % HOUR_MS + HOUR_MS
    today = now_ms - now_ms % DAY_MS
    if name == "today":
        return Period(name, "Today", today, today + DAY_MS, closed=False)
    if name == "24h":
        return Period(name, "Last 24 hours", hour_end - DAY_MS, hour_end, closed=False)
    if days := _DAYS.get(name):
        return Period(name, f"Last {days} days", today - (days - 1) * DAY_MS, today + DAY_MS, closed=False)
    if name == "month":
        return read(_utc(now_ms).strftime("%Y-%m"), now_ms)
    since, until = _calendar(name)
    if not 0 < until - since <= _LONGEST:
        raise ValueError(f"'{name}' is not a period of at most 400 days")
    return Period(name, _titled(name), since, until, closed=until <= now_ms)


def _calendar(name: str) -> tuple[int, int]:
    try:
        if span := _SPAN.fullmatch(name):
            return _ms(datetime.fromisoformat(span[1])), _ms(datetime.fromisoformat(span[2]) + timedelta(days=1))
        if found := _WRITTEN.fullmatch(name):
            return _written(*(None if part is None else int(part) for part in found.groups()))
    except (ValueError, OverflowError):
        pass
    raise ValueError(
        f"'{name}' is not a period: write {', '.join(ROLLING)}, month, 2026-11, 2026-11-22 or 2026-11-22T14"
    )


def _written(year: int | None, month: int | None, day: int | None, hour: int | None) -> tuple[int, int]:
    start = datetime(year or 1970, month or 1, day or 1, hour or 0)
    if hour is not None:
        end = start + timedelta(hours=1)
    elif day is not None:
        end = start + timedelta(days=1)
    elif month is not None:
        end = (start + timedelta(days=32)).replace(day=1)
    else:
        end = start.replace(year=start.year + 1)
    return _ms(start), _ms(end)


def _titled(name: str) -> str:
    if span := _SPAN.fullmatch(name):
        first, last = (datetime.fromisoformat(part) for part in span.groups())
        return f"{first.day} {first:%b %Y} to {last.day} {last:%b %Y}"
    since = _utc(_calendar(name)[0])
    day = f"{since.day} {since:%B %Y}"
    return {4: f"{since:%Y}", 7: f"{since:%B %Y}", 10: day}.get(len(name), f"{day}, {since:%H}:00")


def _utc(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)


def _ms(at: datetime) -> int:
    return int(at.replace(tzinfo=UTC).timestamp()) * 1000
