"""``gateway report``: what was spent and saved."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from gateway.cli.options import AsJson, Config, Problem, print_json, settings

if TYPE_CHECKING:
    from gateway.config import Settings
    from gateway.economics import Statement
    from gateway.ledger.answers import Difference


def report(
    config: Config = None,
    since: Annotated[str, typer.Option(metavar="today|24h|7d", help="The period, up to now")] = "today",
    verify: Annotated[bool, typer.Option("--verify", help="Recompute every rollup from the rows")] = False,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write one page that needs no other")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """What was spent and saved, net of idle machines; by rule, model and key; read from the ledger."""
    from gateway.cli import report as shown
    from gateway.ledger import reports
    from gateway.ledger.errors import LedgerAway, LedgerRefused

    now = int(time.time() * 1000)
    try:
        period = reports.period(since, now)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--since") from None
    try:
        summary, told, wrong = asyncio.run(_read(settings(config), period, verify))
    except (LedgerAway, LedgerRefused) as error:
        raise Problem(f"the ledger cannot be read: {error}") from None
    if html is not None:
        html.write_text(shown.page(summary, told), encoding="utf-8")
    if as_json:
        print_json(_told(summary, told) | ({"wrong": [msgspec.to_builtins(one) for one in wrong]} if verify else {}))
    else:
        shown.print_report(summary, told)
        _print_verdict(verify, wrong)
    raise typer.Exit(1 if wrong else 0)


_Answer = tuple[Mapping[str, Any], "Statement", list["Difference"]]


async def _read(chosen: Settings, period: tuple[int, int], verify: bool) -> _Answer:
    from gateway.economics import statement
    from gateway.ledger.store import SqlStore
    from gateway.ledger.where import ledger_url

    store = SqlStore.reader(ledger_url(chosen))
    try:
        summary = await store.summary(*period)
        told = await statement(store, *period, plan_price_usd=chosen.config.plan_price)
        return summary, told, await _verify(ledger_url(chosen)) if verify else []
    finally:
        await store.close()


async def _verify(url: str) -> list[Difference]:
    """With a bar of the days done, where there is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from gateway.ledger import recount

    console = Console(stderr=True)
    columns = (TextColumn("verifying days"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=None)
        return await recount.verify(url, lambda done, total: progress.update(task, completed=done, total=total))


def _told(summary: Mapping[str, Any], told: Statement) -> dict[str, Any]:
    """The summary, and the statement with what follows from it."""
    derived = ("idle_nano", "cost_nano", "saved_nano", "per_million_tokens_nano", "per_thousand_requests_nano")
    statement = msgspec.to_builtins(told) | {name: getattr(told, name) for name in derived}
    return dict(summary) | {"statement": statement}


def _print_verdict(verify: bool, wrong: list[Difference]) -> None:
    if not verify:
        return
    typer.echo()
    for one in wrong:
        at = datetime.fromtimestamp(one.start_ms / 1000, UTC).isoformat(timespec="minutes")
        where = ", ".join(f"{name} {value or '–'}" for name, value in one.series.items())
        if one.table == "ledger":
            typer.echo(f"ledger {at} ({where}): {one.rows.requests if one.rows else 0} rows carry another's series")
            continue
        typer.echo(f"{one.table} {at} ({where}): rows say {one.rows}, the rollup {one.rollup}")
    typer.echo(f"{len(wrong)} differences" if wrong else "verified: every rollup equals the rows it sums up")
