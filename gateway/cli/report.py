"""How ``gateway report`` shows a period: as tables, and as one page of HTML that needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from gateway.cli.options import print_table
from gateway.ledger.reports import usd
from gateway.types import HOUR_MS

if TYPE_CHECKING:
    from gateway.economics import Machine, Statement

TEMPLATE = Path(__file__).with_name("report.html")
GROUPS = (("rule", "by_rule"), ("model", "by_model"), ("key", "by_key"))
_GROUP_COLUMNS = ("requests", "errors", "tokens in", "tokens out", "spent $", "saved $", "p50 ms", "p95 ms")
_MACHINE_COLUMNS = ("machine", "$ an hour", "hours", "busy $", "idle $", "busy", "requests a day", "break-even a day")


def print_report(summary: Mapping[str, Any], told: Statement) -> None:
    """Tables on a terminal, a row a line elsewhere."""
    for line in sentences(summary, told):
        typer.echo(line)
    if told.machines:
        typer.echo()
        print_table(_MACHINE_COLUMNS, [machine_row(each) for each in told.machines], right=_MACHINE_COLUMNS[1:])
    for title, field in GROUPS:
        if summary[field]:
            typer.echo()
            print_table((title, *_GROUP_COLUMNS), [group_row(row) for row in summary[field]], right=_GROUP_COLUMNS)


def sentences(summary: Mapping[str, Any], told: Statement) -> list[str]:
    """What matters, in words."""
    total, cache = summary["total"], summary["cache"]
    rate = "–" if cache["hit_rate"] is None else f"{cache['hit_rate']:.1%}"
    idle = f" (idle machines ${usd(told.idle_nano)} of it)" if told.machines else ""
    lines = [
        f"{total['requests']:,} requests, {total['errors']:,} errors, cache hit rate {rate}",
        f"spent ${usd(told.cost_nano)}{idle} where the baseline would have cost ${usd(told.baseline_nano)}: "
        f"saved ${usd(told.saved_nano)}",
    ]
    if told.per_million_tokens_nano is not None and told.per_thousand_requests_nano is not None:
        tokens, requests = usd(told.per_million_tokens_nano), usd(told.per_thousand_requests_nano)
        lines.append(f"${tokens} per million tokens, ${requests} per thousand requests")
    users = told.end_users
    if users.count:
        margin = "" if users.margin_nano is None else f", margin ${usd(users.margin_nano)}"
        lines.append(f"{users.count:,} end users, ${usd(users.each_nano)} each{margin}")
    return lines


def machine_row(machine: Machine) -> tuple[str, ...]:
    share = "–" if machine.busy_share is None else f"{machine.busy_share:.1%}"
    even = "–" if machine.break_even_per_day is None else f"{machine.break_even_per_day:,}"
    money = (usd(machine.nano_per_hour), f"{machine.wall_ms / HOUR_MS:,.1f}", usd(machine.busy_nano))
    return (machine.model, *money, usd(machine.idle_nano), share, f"{machine.requests_per_day:,.0f}", even)


def group_row(row: Mapping[str, Any]) -> tuple[str, ...]:
    counts = (f"{row[name]:,}" for name in ("requests", "errors", "prompt_tokens", "completion_tokens"))
    times = ("–" if row["latency_ms"][name] is None else f"{row['latency_ms'][name]:,.0f}" for name in ("p50", "p95"))
    return (row["name"] or "–", *counts, usd(row["cost_nano"]), usd(row["saved_nano"]), *times)


def page(summary: Mapping[str, Any], told: Statement) -> str:
    """The report as HTML; styles and charts are in it, and nothing is fetched."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    steps = told.waterfall()
    tallest = max((abs(amount) for _, amount in steps), default=0) or 1
    busiest = max((point["cost_nano"] for point in summary["timeline"]), default=0) or 1
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        since=_moment(told.since_ms),
        until=_moment(told.until_ms),
        sentences=sentences(summary, told),
        steps=[(name, usd(amount), abs(amount) / tallest, amount < 0) for name, amount in steps],
        timeline=[
            (_moment(point["start_ms"]), usd(point["cost_nano"]), max(0, point["cost_nano"]) / busiest)
            for point in summary["timeline"]
        ],
        machine_columns=_MACHINE_COLUMNS,
        machines=[machine_row(each) for each in told.machines],
        group_columns=_GROUP_COLUMNS,
        groups=[(title, [group_row(row) for row in summary[field]]) for title, field in GROUPS if summary[field]],
    )


def _moment(epoch_ms: int) -> str:
    return f"{datetime.fromtimestamp(epoch_ms / 1000, UTC):%Y-%m-%d %H:%M}"
