"""What the books say about a period: one shape for the dashboard, ``gateway report`` and its JSON.

::

    since_ms, until_ms, step_ms
    total      {requests, errors, prompt_tokens, completion_tokens, cached_tokens, cost_nano, baseline_nano,
                saved_nano, estimated, unpriced}
    latency_ms, ttft_ms          {p50, p95, p99} of answered requests; None where there was none
    cache      {exact, semantic, coalesced, miss, bypass: requests; hit_rate: hits / (hits + misses), None without}
    served     {local, hosted, cache, none: {requests, cost_nano}}
    by_rule, by_model, by_key    [{name, …as in total, latency_ms, ttft_ms}], most requests first
    statuses   {status: requests}
    timeline   [{start_ms, requests, errors, cost_nano, baseline_nano, saved_nano}], ``step_ms`` (hour or day) apart

Money is in nano-dollars (:func:`usd` writes it out), and saved = baseline − cost over the same rows.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any

import msgspec

from gateway.ledger import histogram
from gateway.ledger.rollups import COUNTERS, DAY_MS, DIMENSIONS, HOUR_MS, Cell, Place
from gateway.types import NANO

TIERS = ("exact", "semantic", "coalesced", "miss", "bypass")
WHERE = ("local", "hosted", "cache", "none")
_HITS = ("exact", "semantic", "coalesced")
_NOT_ERRORS = ("ok", "cancelled")
_PERIOD = re.compile(r"(?P<count>[1-9][0-9]{0,3})(?P<unit>[hd])")

Placed = tuple[int, dict[str, str], Cell]


def period(text: str, now_ms: int) -> tuple[int, int]:
    """``today`` (the day in UTC), ``24h`` or ``7d`` as ``(since_ms, until_ms)``. Raises ValueError."""
    if text == "today":
        midnight = now_ms - now_ms % DAY_MS
        return midnight, midnight + DAY_MS
    found = _PERIOD.fullmatch(text)
    if not found:
        raise ValueError(f"'{text}' is not a period: write today, 24h or 7d")
    width = HOUR_MS if found["unit"] == "h" else DAY_MS
    return now_ms - int(found["count"]) * width, now_ms


def usd(nano: int) -> str:
    """Nano-dollars as exact decimal dollars: ``1500000`` is ``0.0015``."""
    text = f"{Decimal(nano) / NANO:.9f}".rstrip("0")
    return text + "0" * max(0, 2 - len(text.partition(".")[2]))


def dollars(value: Any) -> Any:
    """The same value with every ``…_nano`` as ``…_usd``: exact decimals in US dollars."""
    if isinstance(value, dict):
        return dict(_named(name, item) for name, item in value.items())
    return [dollars(item) for item in value] if isinstance(value, list | tuple) else value


def _named(name: str, value: Any) -> tuple[str, Any]:
    if name.endswith("_nano"):
        return name.removesuffix("_nano") + "_usd", Decimal(value) / NANO
    return name, dollars(value)


def encode(value: Any) -> bytes:
    """JSON; decimals are written as the numbers they are, digit for digit."""
    return msgspec.json.Encoder(decimal_format="number").encode(value)


def summary(cells: Iterable[tuple[Place, Cell]], since_ms: int, until_ms: int) -> dict[str, Any]:
    """Fold rollup rows into the shape above."""
    placed = [(start, dict(zip(DIMENSIONS, names, strict=True)), cell) for (start, names), cell in cells]
    total = _group(placed)
    step = HOUR_MS if until_ms - since_ms <= 2 * DAY_MS else DAY_MS
    return {
        "since_ms": since_ms,
        "until_ms": until_ms,
        "step_ms": step,
        "total": {name: value for name, value in total.items() if not name.endswith("_ms")},
        "latency_ms": total["latency_ms"],
        "ttft_ms": total["ttft_ms"],
        "cache": _cache(placed),
        "served": {where: _served(placed, where) for where in WHERE},
        "by_rule": _breakdown(placed, "rule"),
        "by_model": _breakdown(placed, "model"),
        "by_key": _breakdown(placed, "key_id"),
        "statuses": _requests_by(placed, "status"),
        "timeline": _timeline(placed, since_ms, until_ms, step),
    }


def _group(placed: Sequence[Placed]) -> dict[str, Any]:
    """Sums and percentiles of some cells."""
    sums = [0] * len(COUNTERS)
    answered = Cell(sums=sums)
    errors = 0
    for _, names, cell in placed:
        sums = [mine + theirs for mine, theirs in zip(sums, cell.sums, strict=True)]
        errors += 0 if names["status"] in _NOT_ERRORS else cell.sums[0]
        if names["status"] == "ok":
            answered.add(cell)
    counted = dict(zip(COUNTERS, sums, strict=True))
    return {
        "requests": counted.pop("requests"),
        "errors": errors,
        **counted,
        "latency_ms": _percentiles(answered.latency),
        "ttft_ms": _percentiles(answered.ttft),
    }


def _percentiles(counts: histogram.Histogram) -> dict[str, float | None]:
    return dict(zip(("p50", "p95", "p99"), histogram.percentiles(counts), strict=True))


def _breakdown(placed: Sequence[Placed], dimension: str) -> list[dict[str, Any]]:
    groups: dict[str, list[Placed]] = {}
    for each in placed:
        groups.setdefault(each[1][dimension], []).append(each)
    rows = [{"name": name, **_group(members)} for name, members in groups.items()]
    return sorted(rows, key=lambda row: (-row["requests"], row["name"]))


def _requests_by(placed: Sequence[Placed], dimension: str) -> dict[str, int]:
    counts: dict[str, int] = {}
    for _, names, cell in placed:
        counts[names[dimension]] = counts.get(names[dimension], 0) + cell.sums[0]
    return counts


def _cache(placed: Sequence[Placed]) -> dict[str, Any]:
    counts = _requests_by(placed, "cache")
    hits = sum(counts.get(tier, 0) for tier in _HITS)
    asked = hits + counts.get("miss", 0)
    return {tier: counts.get(tier, 0) for tier in TIERS} | {"hit_rate": hits / asked if asked else None}


def _served(placed: Sequence[Placed], where: str) -> dict[str, int]:
    group = _group([each for each in placed if each[1]["served"] == where])
    return {"requests": group["requests"], "cost_nano": group["cost_nano"]}


def _timeline(placed: Sequence[Placed], since_ms: int, until_ms: int, step: int) -> list[dict[str, int]]:
    groups: dict[int, list[Placed]] = {}
    for each in placed:
        groups.setdefault(each[0] - each[0] % step, []).append(each)
    wanted = ("requests", "errors", "cost_nano", "baseline_nano", "saved_nano")
    return [
        {"start_ms": start} | {name: value for name, value in _group(groups.get(start, [])).items() if name in wanted}
        for start in range(since_ms - since_ms % step, until_ms, step)
    ]
