"""A summary of the books as tables for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from gateway.ledger.reports import TIERS, usd

_WHERE = {"local": "local models", "hosted": "hosted models", "cache": "cache", "none": "nobody (failed)"}


def render(summary: Mapping[str, Any]) -> Group:
    """The tables of ``gateway report`` for what :func:`gateway.ledger.reports.summary` returns."""
    parts: list[Text | Table] = [Text(_period(summary), style="bold")]
    if not summary["total"]["requests"]:
        return Group(*parts, Text("No requests in this period."))
    parts += [_totals(summary), _latency(summary), _served(summary)]
    parts += [_breakdown("route", summary["by_rule"]), _breakdown("model", summary["by_model"])]
    return Group(*parts)


def _period(summary: Mapping[str, Any]) -> str:
    begin, end = (datetime.fromtimestamp(summary[name] / 1000, UTC) for name in ("since_ms", "until_ms"))
    return f"{begin:%Y-%m-%d %H:%M} – {end:%Y-%m-%d %H:%M} UTC"


def _totals(summary: Mapping[str, Any]) -> Table:
    total, cache = summary["total"], summary["cache"]
    table = Table(show_header=False, box=None, pad_edge=False)
    hits = ", ".join(f"{cache[tier]:,} {tier}" for tier in TIERS if cache[tier])
    rate = "" if cache["hit_rate"] is None else f"{cache['hit_rate']:.1%}  "
    for name, value in (
        ("spent", f"${usd(total['cost_nano'])}"),
        ("baseline", f"${usd(total['baseline_nano'])}"),
        ("saved", f"${usd(total['saved_nano'])}"),
        ("requests", f"{total['requests']:,} ({total['errors']:,} failed)"),
        (
            "tokens",
            f"{total['prompt_tokens']:,} in ({total['cached_tokens']:,} cached), {total['completion_tokens']:,} out",
        ),
        ("cache hits", f"{rate}({hits})"),
        ("estimated", f"{total['estimated']:,} requests, {total['unpriced']:,} without a known price"),
    ):
        table.add_row(name, Text(value))
    return table


def _latency(summary: Mapping[str, Any]) -> Table:
    table = _table("answered requests", "p50", "p95", "p99")
    for name, part in (("to the first token", "ttft_ms"), ("to the last", "latency_ms")):
        table.add_row(name, *(_ms(summary[part][rank]) for rank in ("p50", "p95", "p99")))
    return table


def _served(summary: Mapping[str, Any]) -> Table:
    table = _table("answered by", "requests", "share", "spent")
    for where, name in _WHERE.items():
        part = summary["served"][where]
        share = part["requests"] / summary["total"]["requests"]
        table.add_row(name, f"{part['requests']:,}", f"{share:.1%}", f"${usd(part['cost_nano'])}")
    return table


def _breakdown(title: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    table = _table(title, "requests", "failed", "spent", "saved", "p50", "p95")
    for row in rows:
        money = (f"${usd(row[name])}" for name in ("cost_nano", "saved_nano"))
        latency = (_ms(row["latency_ms"][rank]) for rank in ("p50", "p95"))
        # Text, not markup: names and what stands in them are not ours.
        table.add_row(Text(row["name"] or "(none)"), f"{row['requests']:,}", f"{row['errors']:,}", *money, *latency)
    return table


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column(first)
    for other in others:
        table.add_column(other, justify="right")
    return table


def _ms(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.1f} ms" if value < 10 else f"{value:,.0f} ms"
