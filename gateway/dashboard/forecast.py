"""Where the month's spending is heading, and when a budget runs out: plain arithmetic that a reader can redo."""

from __future__ import annotations

from datetime import UTC, datetime

from gateway.dashboard import periods
from gateway.ledger.answers import Period as Span
from gateway.ledger.answers import Where
from gateway.ledger.rollups import DAY_MS
from gateway.protocols import LedgerStore
from gateway.types import Frozen

DAYS = 7


class Forecast(Frozen, frozen=True, kw_only=True):
    """``total_nano``: spent this month so far, and from now to its end as much a day as on the last ``days`` whole days
    (in ``day_nano``). ``days`` 0: the books are younger than a day, and there is no forecast yet (``total_nano`` None).
    """

    month: str
    spent_nano: int
    day_nano: int
    days: int
    total_nano: int | None


async def forecast(store: LedgerStore, where: Where, now_ms: int) -> Forecast:
    """Two reads of daily rollups."""
    month = periods.read("month", now_ms)
    today = now_ms - now_ms % DAY_MS
    spent = (await store.totals(Span(month.since_ms, month.until_ms), where)).cost_nano
    lately = await store.timeline(Span(today - DAYS * DAY_MS, today), None, where, step_ms=DAY_MS)
    points = [point for line in lately.lines for point in line.points]
    began = next((n for n, point in enumerate(points) if point.requests), len(points))
    whole = points[began:]
    day = sum(point.cost_nano for point in whole) // len(whole) if whole else 0
    left = max(0, month.until_ms - now_ms)
    return Forecast(
        month=month.title,
        spent_nano=spent,
        day_nano=day,
        days=len(whole),
        total_nano=spent + day * left // DAY_MS if whole else None,
    )


def runs_out(left_nano: int, day_nano: int, now_ms: int) -> str:
    """The day (UTC) on which ``left_nano`` is spent at ``day_nano`` a day; '' where that is never or years away."""
    if left_nano <= 0 or day_nano <= 0 or left_nano > 400 * day_nano:
        return ""
    at = datetime.fromtimestamp(now_ms / 1000 + left_nano / day_nano * DAY_MS / 1000, UTC)
    return f"{at.day} {at:%b %Y}"
