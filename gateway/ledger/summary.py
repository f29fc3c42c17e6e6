"""What the books say about a period, in one shape for ``gateway report`` and its JSON.

::

    since_ms, until_ms, step_ms
    total      {requests, errors, prompt_tokens, completion_tokens, cached_tokens, cost_nano, baseline_nano,
                saved_nano, estimated, unpriced}
    latency_ms, ttft_ms          {p50, p95, p99} of answered requests; None where there was none
    cache      {exact, semantic, coalesced, miss, bypass: requests; hit_rate: hits / (hits + misses), None without}
    served     {local, hosted, cache, none: {requests, cost_nano}}
    by_rule, by_model, by_key    [{name, …as in total, latency_ms, ttft_ms}], most requests first, a hundred at most
    statuses   {status: requests}
    timeline   [{start_ms, requests, errors, cost_nano, baseline_nano, saved_nano}], ``step_ms`` (hour or day) apart

Money is in nano-dollars (:func:`gateway.ledger.reports.usd` writes it out); saved = baseline − cost over the same rows.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection

from gateway.ledger import reading
from gateway.ledger.answers import Dimension, Group, Measures, Period
from gateway.ledger.memory import Memory
from gateway.types import DAY_MS, HOUR_MS

TIERS = ("exact", "semantic", "coalesced", "miss", "bypass")
WHERE = ("local", "hosted", "cache", "none")
MOST = 100
_TOTAL = (
    *("requests", "errors", "prompt_tokens", "completion_tokens", "cached_tokens"),
    *("cost_nano", "baseline_nano", "saved_nano", "estimated", "unpriced"),
)
_POINT = ("requests", "errors", "cost_nano", "baseline_nano", "saved_nano")


def summary(connection: Connection, memory: Memory, period: Period) -> dict[str, Any]:
    """What a period comes to, in the shape above."""
    step = HOUR_MS if period.until_ms - period.since_ms <= 2 * DAY_MS else DAY_MS
    total = reading.totals(connection, memory, period, {})
    tiers = {group.name: group.measures.requests for group in _all(connection, memory, period, "cache")}
    served = {group.name: group.measures for group in _all(connection, memory, period, "served")}
    line = reading.timeline(connection, memory, period, None, {}, "requests", 1, step)
    return {
        "since_ms": period.since_ms,
        "until_ms": period.until_ms,
        "step_ms": step,
        "total": _counted(total),
        **_times(total),
        "cache": {tier: tiers.get(tier, 0) for tier in TIERS} | {"hit_rate": total.hit_rate},
        "served": {where: _spent(served.get(where, Measures())) for where in WHERE},
        "by_rule": _rows(connection, memory, period, "rule"),
        "by_model": _rows(connection, memory, period, "model"),
        "by_key": _rows(connection, memory, period, "key_id"),
        "statuses": {group.name: group.measures.requests for group in _all(connection, memory, period, "status")},
        "timeline": [
            {"start_ms": start} | {name: getattr(point, name) for name in _POINT}
            for start, point in zip(line.starts, line.lines[0].points, strict=True)
        ],
    }


def _all(connection: Connection, memory: Memory, period: Period, by: Dimension) -> tuple[Group, ...]:
    return reading.breakdown(connection, memory, period, by, {}, "requests", MOST).groups


def _rows(connection: Connection, memory: Memory, period: Period, by: Dimension) -> list[dict[str, Any]]:
    groups = _all(connection, memory, period, by)
    return [{"name": group.name, **_counted(group.measures), **_times(group.measures)} for group in groups]


def _counted(measures: Measures) -> dict[str, Any]:
    return {name: getattr(measures, name) for name in _TOTAL}


def _times(measures: Measures) -> dict[str, Any]:
    both = (("latency_ms", measures.latency_ms), ("ttft_ms", measures.ttft_ms))
    return {name: {"p50": times.p50, "p95": times.p95, "p99": times.p99} for name, times in both}


def _spent(measures: Measures) -> dict[str, int]:
    return {"requests": measures.requests, "cost_nano": measures.cost_nano}
