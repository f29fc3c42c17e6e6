"""Explore: any stretch of time split by any dimension, from a year down to one hour and its requests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast, get_args

from gateway.dashboard import charts, words
from gateway.dashboard.page import ALONE, DIMENSIONS, Ask, Page, Wrong, dimension, figures
from gateway.dashboard.requests import requests_table
from gateway.dashboard.tables import Column, Table
from gateway.ledger.answers import Breakdown, Dimension, Measures, Order, Timeline
from gateway.types import DAY_MS

_SHOWN = 20
_EXPORTED = 1000
_ROWS = 50
_ORDERS = get_args(Order)
# What is asked next of the requests with one value.
_NEXT: tuple[Dimension, ...] = ("team", "key_id", "model", "rule", "status", "served")
_COLUMNS = (
    Column("requests", "Requests", "count", sortable=True),
    Column("errors", "Errors", "count", minor=True, sortable=True),
    Column("cost_nano", "Spent", "money", sortable=True),
    Column("saved_nano", "Saved, net", "money", sortable=True),
    Column("hit_rate", "Hit rate", "share", minor=True),
    Column("prompt_tokens", "Tokens in", "count", minor=True, sortable=True),
    Column("completion_tokens", "Tokens out", "count", minor=True, sortable=True),
    Column("tokens_per_s", "Tokens/s", "rate", minor=True),
    Column("ttft_p50_ms", "First token p50", "duration", minor=True),
    Column("latency_p95_ms", "Latency p95", "duration", minor=True),
)
_BRIEF = ("requests", "cost_nano", "saved_nano")


async def explore(ask: Ask) -> Page:
    by = dimension(ask.query.get("by", _first_split(ask)))
    order = ask.query.get("sort", "cost_nano")
    if order not in _ORDERS:
        raise Wrong(f"sort must be one of {', '.join(_ORDERS)}")
    exporting = ask.query.get("table") == f"by_{by}"
    total = await ask.store.totals(ask.span, ask.where)
    limit = _EXPORTED if exporting else _SHOWN
    split, over_time = await ask.store.split(
        ask.span, by, ask.where, order=cast(Order, order), limit=limit, lines=charts.SERIES_MAX
    )
    tables = [breakdown_table(ask, split), time_table(ask, over_time)]
    if ask.period.is_hour:
        found = await ask.store.rows(ask.span, ask.where, limit=_ROWS)
        tables.append(requests_table(ask, found.rows))
    values = {
        "total": total,
        "chart": spend_chart(ask, over_time),
        "by": by,
        "order": order,
        "dimensions": ask.dimensions(),
        "filters": ask.filters,
        "whole": by not in ALONE,
    }
    return Page("explore", "Explore", values, tuple(tables), figures(total))


def _first_split(ask: Ask) -> Dimension:
    splits = _next_splits(ask)
    return next((name for name in splits if name not in ask.filters or name in ALONE), "model")


def _next_splits(ask: Ask) -> Sequence[Dimension]:
    """A filter by tag, project or end user leaves little else to split by."""
    lonely: list[Dimension] = [name for name in ask.filters if name in ALONE]
    if lonely:
        return lonely
    return _NEXT if ask.role != "owner" else _NEXT[2:]


def breakdown_table(ask: Ask, found: Breakdown, *, brief: bool = False) -> Table:
    """The values of a dimension, each leading on to what it is made of; all others in a last row."""
    by, title = found.by, DIMENSIONS.get(found.by, found.by)
    rows = [
        {"name": ask.name(by, group.name), "value": group.name, **figures(group.measures)} for group in found.groups
    ]
    hidden = found.distinct - len(found.groups)
    if hidden > 0:
        rows.append({"name": f"all others ({hidden:,})", "value": None, **figures(found.rest)})
    columns = [column for column in _COLUMNS if not brief or column.key in _BRIEF]

    def link(row: Any) -> str:
        return "" if row["value"] is None else ask.href("explore", **{by: row["value"], "by": _after(ask, by)})

    heading = Column("name", title)
    return Table(f"by_{by}", f"By {title.lower()}", (heading, *columns), rows, key="value", link=link)


def _after(ask: Ask, by: Dimension) -> str | None:
    """What to split by once ``by`` is narrowed to one value."""
    if by in ALONE:
        return by
    return next((name for name in _next_splits(ask) if name != by and name not in ask.filters), None)


def time_table(ask: Ask, found: Timeline) -> Table:
    """What the chart over time shows, in figures; each step leads into itself."""
    rows = []
    for n, start in enumerate(found.starts):
        if start < ask.now_ms:
            row = _sums([line.points[n] for line in _lines(found)]) | {"start": ask.period.step_name(start)}
            rows.append(row if row["requests"] else {"start": row["start"], "requests": 0})
    title = "Hour (UTC)" if ask.period.step_ms < DAY_MS else "Day (UTC)"
    columns = (
        Column("start", title),
        Column("requests", "Requests", "count"),
        Column("errors", "Errors", "count", minor=True),
        Column("cost_nano", "Spent", "money"),
        Column("baseline_nano", "Baseline", "money", minor=True),
        Column("saved_nano", "Saved, net", "money"),
    )

    def link(row: Any) -> str:
        return ask.href("explore", period=row["start"]) if row["requests"] else ""

    return Table("over_time", "Over time", columns, rows, link=link)


def spend_chart(ask: Ask, found: Timeline) -> charts.Stacked:
    """Spending over time, stacked; the baseline as a line across, up to now."""
    starts = []
    for start in found.starts:
        name = ask.period.step_name(start)
        starts.append((name.replace("T", " ") + (":00" if "T" in name else ""), ask.period.step_title(start), name))
    lines = _lines(found)
    by = found.by or "model"
    named = {_series_name(ask, by, line.name): [max(0, p.cost_nano) for p in line.points] for line in found.lines}
    series = {name: values for name, values in named.items() if any(values)} or named
    if found.rest is not None:
        series["all others"] = [max(0, point.cost_nano) for point in found.rest.points]
    begun = sum(start < ask.now_ms for start in found.starts)
    baseline = [sum(line.points[n].baseline_nano for line in lines) for n in range(begun)]
    linked = [(title, label, ask.href("explore", period=name)) for title, label, name in starts]
    return charts.stacked(linked, series, words.money, baseline if by not in ALONE else (), "baseline")


def _series_name(ask: Ask, by: Dimension, value: str) -> str:
    return "no model (refused or failed)" if by == "model" and not value else ask.name(by, value)


def _lines(found: Timeline) -> list[Any]:
    return [*found.lines, *((found.rest,) if found.rest is not None else ())]


def _sums(points: Sequence[Measures]) -> dict[str, Any]:
    names = ("requests", "errors", "cost_nano", "baseline_nano", "saved_nano")
    return {name: sum(getattr(point, name) for point in points) for name in names}
