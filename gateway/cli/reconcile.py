"""``gateway reconcile``: a provider's bill beside the books."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli.ledger import opened
from gateway.cli.options import AsJson, Config, Problem, print_json, print_table, settings

if TYPE_CHECKING:
    from gateway.config import ModelConfig, Settings
    from gateway.reconcile.invoice import Invoice
    from gateway.reconcile.match import Result

Day = Annotated[datetime | None, typer.Option(formats=["%Y-%m-%d"], help="UTC; default: the invoice's own days")]


def reconcile(
    invoice: Annotated[Path, typer.Option("--invoice", metavar="FILE", exists=True, dir_okay=False)],
    config: Config = None,
    since: Day = None,
    until: Day = None,
    model: Annotated[
        list[str] | None, typer.Option(help="Only these configured models (or embedder); repeatable")
    ] = None,
    tolerance: Annotated[float, typer.Option(min=0, help="US dollars that may differ, all in all")] = 0.01,
    as_json: AsJson = False,
) -> None:
    """Hold an invoice against the books, by day and model, and say why they differ.

    Reads OpenAI's and Anthropic's usage and cost exports, and any CSV with date, model, input_tokens, output_tokens,
    cost_usd. Exit status 1 where more differs than the tolerance.
    """
    from gateway.reconcile.invoice import InvoiceError, read_invoice

    chosen = settings(config)
    try:
        bill = read_invoice(invoice.read_text(encoding="utf-8"))
        days = _days(bill, since, until)
    except (InvoiceError, UnicodeDecodeError) as error:
        raise Problem(f"{invoice}: {error}") from None
    result = asyncio.run(_compare(chosen, bill, days, model or ()))
    fits = result.wrong_nano <= tolerance * 1e9
    if as_json:
        print_json(_told(bill, days, result) | {"within_tolerance": fits})
    else:
        _show(bill, days, result)
    raise typer.Exit(0 if fits else 1)


def _days(bill: Invoice, since: datetime | None, until: datetime | None) -> tuple[date, date]:
    from gateway.reconcile.invoice import InvoiceError

    if not bill.days and not (since and until):
        raise InvoiceError("no rows")
    return (since.date() if since else bill.days[0]), (until.date() if until else bill.days[-1])


async def _compare(chosen: Settings, bill: Invoice, days: tuple[date, date], only: Iterable[str]) -> Result:
    import msgspec

    from gateway.pricing import PriceBook
    from gateway.pricing.helpers import hosted_helpers
    from gateway.reconcile.booked import booked
    from gateway.reconcile.match import reconcile as match
    from gateway.reconcile.names import plain
    from gateway.types import Usage

    models, helping = _billed(chosen.config.models, bill, set(only)), hosted_helpers(chosen.config)
    wanted = _billed(helping.values(), bill, set(only))
    helpers = {name: model for name, model in helping.items() if model in wanted}
    prices = PriceBook.load(chosen.config.models, helpers=helping)
    names = {plain(model.upstream_name): model.name for model in models}
    helper_of = {plain(model.upstream_name): name for name, model in helpers.items()}

    def reprice(model: str, usage: Usage) -> int | None:
        if model in names:
            return prices.baseline_nano(names[model], usage)
        price = prices.helper(helper_of[model], prices.now_ms) if model in helper_of else None
        return None if price is None else price.compiled.cost_nano(usage)

    async with opened(chosen) as store:
        books = await booked(store, models, helpers, days)
    lines = tuple(line for line in bill.lines if days[0] <= line.day <= days[1])
    if only:
        lines = tuple(line for line in lines if plain(line.model) in {**names, **helper_of})
    return match(msgspec.structs.replace(bill, lines=lines), books, {**names, **helper_of}, reprice)


def _billed(models: Iterable[ModelConfig], bill: Invoice, only: set[str]) -> list[ModelConfig]:
    """The models this bill should have: those chosen, else those of its vendor and those it names."""
    from gateway.reconcile.names import plain, vendor

    named = {plain(line.model) for line in bill.lines}

    def wanted(model: ModelConfig) -> bool:
        if model.is_local:
            return False
        if only:
            return model.name in only
        return not bill.vendor or vendor(model) == bill.vendor or plain(model.upstream_name) in named

    return [model for model in models if wanted(model)]


def _told(bill: Invoice, days: tuple[date, date], result: Result) -> dict[str, Any]:
    import msgspec

    from gateway.ledger.reports import dollars

    totals = {
        "invoice_nano": result.invoice_nano,
        "books_nano": result.books_nano,
        "difference_nano": result.invoice_nano - result.books_nano,
    }
    differences = [msgspec.structs.asdict(one) for one in result.differences]
    told: dict[str, Any] = dollars({"totals": totals, "differences": differences})
    exact: Any = msgspec.json.decode(msgspec.json.Encoder(decimal_format="number").encode(told))
    return {"format": bill.format, "since": days[0].isoformat(), "until": days[1].isoformat(), **exact}


def _show(bill: Invoice, days: tuple[date, date], result: Result) -> None:
    from gateway.ledger.reports import usd

    typer.echo(f"{bill.format}, {days[0]} to {days[1]} (UTC)")
    rows = [
        (
            f"{one.since}" if one.since == one.until else f"{one.since} … {one.until}",
            one.model,
            one.kind.replace("_", " "),
            usd(one.amount_nano),
            usd(one.invoice_nano),
            usd(one.books_nano),
            one.text,
        )
        for one in result.differences
    ]
    if rows:
        typer.echo()
        columns = ("day", "model", "difference", "$", "invoice $", "books $", "why")
        print_table(columns, rows, right=("$", "invoice $", "books $"))
        typer.echo()
    totals = (result.invoice_nano, result.books_nano, result.invoice_nano - result.books_nano)
    invoice, books, difference = map(usd, totals)
    typer.echo(f"invoice ${invoice}, books ${books}: difference ${difference}, in {len(rows)} findings")
