"""``gateway report``: what was spent and saved."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli.options import AsJson, Config, Problem, print_json, print_table, settings

if TYPE_CHECKING:
    from gateway.config import Settings
    from gateway.ledger.answers import Difference

_MONEY = ("cost_nano", "baseline_nano", "saved_nano")


def report(
    config: Config = None,
    since: Annotated[str, typer.Option(metavar="today|24h|7d", help="The period, up to now")] = "today",
    verify: Annotated[bool, typer.Option("--verify", help="Recompute every rollup from the rows")] = False,
    as_json: AsJson = False,
) -> None:
    """What was spent and saved, by rule, model and key; read from the ledger."""
    import msgspec

    from gateway.ledger import reports
    from gateway.ledger.errors import LedgerAway, LedgerRefused

    now = int(time.time() * 1000)
    try:
        period = reports.period(since, now)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--since") from None
    try:
        summary, wrong = asyncio.run(_read(settings(config), period, verify))
    except (LedgerAway, LedgerRefused) as error:
        raise Problem(f"the ledger cannot be read: {error}") from None
    if as_json:
        print_json(dict(summary) | ({"wrong": [msgspec.to_builtins(one) for one in wrong]} if verify else {}))
    else:
        _print_report(summary)
        _print_verdict(verify, wrong)
    raise typer.Exit(1 if wrong else 0)


async def _read(chosen: Settings, period: tuple[int, int], verify: bool) -> tuple[Mapping[str, Any], list[Difference]]:
    from gateway.ledger.store import SqlStore
    from gateway.ledger.where import ledger_url

    store = SqlStore.reader(ledger_url(chosen))
    try:
        return await store.summary(*period), await store.verify() if verify else []
    finally:
        await store.close()


def _print_report(summary: Mapping[str, Any]) -> None:
    from gateway.ledger.reports import usd

    total, cache = summary["total"], summary["cache"]
    rate = "–" if cache["hit_rate"] is None else f"{cache['hit_rate']:.1%}"
    typer.echo(f"{total['requests']:,} requests, {total['errors']:,} errors, cache hit rate {rate}")
    spent, baseline, saved = (usd(total[name]) for name in _MONEY)
    typer.echo(f"spent ${spent} where the baseline would have cost ${baseline}: saved ${saved}")
    for title, field in (("rule", "by_rule"), ("model", "by_model"), ("key", "by_key")):
        if summary[field]:
            typer.echo()
            columns = (title, "requests", "errors", "tokens in", "tokens out", "spent $", "saved $", "p50 ms", "p95 ms")
            print_table(columns, [_group_row(row) for row in summary[field]], right=columns[1:])


def _group_row(row: Mapping[str, Any]) -> tuple[str, ...]:
    from gateway.ledger.reports import usd

    counts = (f"{row[name]:,}" for name in ("requests", "errors", "prompt_tokens", "completion_tokens"))
    times = ("–" if row["latency_ms"][name] is None else f"{row['latency_ms'][name]:,.0f}" for name in ("p50", "p95"))
    return (row["name"] or "–", *counts, usd(row["cost_nano"]), usd(row["saved_nano"]), *times)


def _print_verdict(verify: bool, wrong: list[Difference]) -> None:
    if not verify:
        return
    typer.echo()
    for one in wrong:
        at = datetime.fromtimestamp(one.start_ms / 1000, UTC).isoformat(timespec="minutes")
        where = ", ".join(f"{name} {value or '–'}" for name, value in one.series.items())
        typer.echo(f"{one.table} {at} ({where}): rows say {one.rows}, the rollup {one.rollup}")
    typer.echo(f"{len(wrong)} differences" if wrong else "verified: every rollup equals the rows it sums up")
