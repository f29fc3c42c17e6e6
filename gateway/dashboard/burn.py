"""A budget's burn-down: what was left of it day by day, and where that is heading."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from gateway.dashboard import charts
from gateway.ledger.answers import Period as Span
from gateway.ledger.answers import Timeline
from gateway.types import DAY_MS, HOUR_MS

if TYPE_CHECKING:
    from gateway.ledger.store import SqlStore


@dataclass(frozen=True)
class BurnDown:
    """``past`` and ``ahead`` are SVG points over the budget's window; ``tone``: bad where it will not last."""

    title: str
    limit_nano: int
    left_nano: int
    since_ms: int
    until_ms: int
    past: str
    ahead: str
    tone: str
    remark: str


async def burn_down(store: SqlStore, budgets: Sequence[Mapping[str, Any]], now_ms: int) -> BurnDown | None:
    """Of the budget that is used up fastest for its window; None where no budget has a window a chart can show."""
    drawable = [each for each in budgets if _window(each) and now_ms < each["until_ms"] and each["limit_nano"] > 0]
    if not drawable:
        return None
    budget = max(drawable, key=lambda each: each["spent_nano"] / each["limit_nano"] / max(_elapsed(each, now_ms), 0.02))
    span = Span(budget["since_ms"], min(now_ms, budget["until_ms"]))
    step_ms = HOUR_MS if _window(budget) <= 2 * DAY_MS else None
    found = await store.timeline(span, None, budget["where"], step_ms=step_ms, brief=True)
    return _drawn(budget, found, now_ms)


def runs_out(left_nano: int, day_nano: int, now_ms: int) -> str:
    """The day (UTC) on which ``left_nano`` is spent at ``day_nano`` a day."""
    at = datetime.fromtimestamp((now_ms + left_nano / day_nano * DAY_MS) / 1000, UTC)
    return f"{at.day} {at:%b %Y}"


def _window(budget: Mapping[str, Any]) -> int:
    """Its length in milliseconds, 0 where it has no end."""
    since, until = budget.get("since_ms"), budget.get("until_ms")
    return until - since if since is not None and until is not None else 0


def _elapsed(budget: Mapping[str, Any], now_ms: int) -> float:
    return float((now_ms - budget["since_ms"]) / _window(budget))


def _drawn(budget: Mapping[str, Any], found: Timeline, now_ms: int) -> BurnDown:
    """The curve ends at what the budget itself says is left: rows on their way to the books are in that already."""
    limit, left, window = budget["limit_nano"], budget["limit_nano"] - budget["spent_nano"], _window(budget)
    points, spent = [(0.0, 1.0)], 0
    for start, point in zip(found.starts, found.lines[0].points if found.lines else (), strict=False):
        end = min(start + found.step_ms, now_ms)
        spent += point.cost_nano
        points.append(((end - budget["since_ms"]) / window, 1 - spent / limit))
    at = _elapsed(budget, now_ms)
    points = [*[point for point in points if point[0] < at], (at, left / limit)]
    rate = (1 - left / limit) / at if at > 0 else 0.0
    empty_at = at + (left / limit) / rate if rate > 0 else 2.0
    ends = (empty_at, 0.0) if empty_at <= 1 else (1.0, left / limit - rate * (1 - at))
    lasts = empty_at > 1
    day_nano = int(rate * limit / window * DAY_MS)
    remark = "at this rate it lasts"
    if left <= 0:
        remark = "exhausted"
    elif not lasts:
        remark = f"at this rate it runs out on {runs_out(left, day_nano, now_ms)}"
    return BurnDown(
        title=f"{budget['name']}, {budget['window']}" if budget["window"] else budget["name"],
        limit_nano=limit,
        left_nano=left,
        since_ms=budget["since_ms"],
        until_ms=budget["until_ms"],
        past=charts.path(points),
        ahead=charts.path([(at, left / limit), ends]) if left > 0 else "",
        tone="" if lasts and left > 0 else "bad",
        remark=remark,
    )
