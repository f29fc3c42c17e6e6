"""``gateway prices``: what models cost, where that is known from, and what would change with other prices."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli.options import AsJson, Config, Problem, print_json, print_table, settings

if TYPE_CHECKING:
    from gateway.pricing.diff import Difference
    from gateway.pricing.sheet import Sheet

app = typer.Typer(no_args_is_help=True)

_UNITS = "USD per million tokens."


@app.command()
def check(config: Config = None, as_json: AsJson = False) -> None:
    """Every configured model and hosted embedder: its price, where that comes from, how old it is, what is wrong."""
    import msgspec

    from gateway.pricing import PriceBook
    from gateway.pricing import check as find
    from gateway.pricing.helpers import hosted_helpers

    chosen = settings(config).config
    checks = find(PriceBook.load(chosen.models, helpers=hosted_helpers(chosen)))
    if as_json:
        print_json([msgspec.to_builtins(one) for one in checks])
    else:
        columns = ("model", "upstream", "input", "output", "source", "dated", "")
        rows = [(one.model, one.upstream, *_price_cells(one.price), "; ".join(one.problems)) for one in checks]
        print_table(columns, rows, right=("input", "output"))
        typer.echo(f"\n{_UNITS}")
    raise typer.Exit(1 if any(one.problems for one in checks) else 0)


@app.command()
def show(
    model: Annotated[str, typer.Argument(help="A configured model, or a name in the price map")],
    at: Annotated[str | None, typer.Option(metavar="YYYY-MM-DD", help="The day it is asked for; default today")] = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Everything a model costs on a day: classes of tokens, service tiers, long prompts, requests and time."""
    sheet = _sheet(model, _day(at), config)
    told = _told(model, sheet)
    if as_json:
        print_json(told)
        return
    typer.echo(f"{model}: {sheet.source}" + (f", of {sheet.dated}" if sheet.dated else ""))
    for name, words in (("usd_per_request", "a request"), ("usd_per_second", "a second"), ("usd_per_hour", "an hour")):
        if told[name] != "0":
            typer.echo(f"${told[name]} {words}")
    if told["prices"] and not sheet.usd_per_hour:
        columns = ("", *(_where(row) for row in told["prices"]))
        classes = [name for name in told["prices"][0] if name not in ("tier", "above")]
        rows = [(name.replace("_", " "), *(row[name] for row in told["prices"])) for name in classes]
        print_table(columns, rows, right=columns[1:])
        typer.echo(f"\n{_UNITS}")


@app.command()
def diff(
    file: Annotated[Path | None, typer.Argument(metavar="[FILE]", help="Another price map of litellm's format")] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Every model of both maps, not only configured ones")
    ] = False,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """What the installed price map says otherwise than the prices in use or, with FILE, than that map. 1: it does."""
    import msgspec

    from gateway.pricing.diff import against_file, against_map

    models = settings(config).config.models
    if everything and file is None:
        raise typer.BadParameter("needs a FILE to compare the map with", param_hint="--all")
    found = against_map(models) if file is None else against_file(models, file, everything=everything)
    if as_json:
        print_json([msgspec.to_builtins(one) for one in found])
    else:
        _print_differences(found)
    raise typer.Exit(1 if found else 0)


def _price_cells(price: Any) -> tuple[str, str, str, str]:
    if price is None:
        return "–", "–", "", ""
    if price.usd_per_hour != "0":
        return "", "", f"{price.source}: ${price.usd_per_hour} an hour", price.date
    return price.input, price.output, price.source, price.date


def _sheet(name: str, day: date, config: Path | None) -> Sheet:
    from gateway.pricing import PriceBook
    from gateway.pricing.price_map import PriceMap
    from gateway.pricing.written import Overrides

    models = settings(config).config.models
    if any(model.name == name for model in models):
        period = PriceBook.load(models, today=day).period(name)
        sheet = period.sheet if period else None
    else:
        price_map = PriceMap.installed(Overrides.read().litellm)
        sheet = price_map.sheet(price_map.named(name))
    if sheet is None:
        raise Problem(f"{name}: no known price on {day}")
    return sheet


def _day(text: str | None) -> date:
    try:
        return date.fromisoformat(text) if text else datetime.now(UTC).date()
    except ValueError:
        raise typer.BadParameter(f"'{text}' is no day: write it as 2026-11-01", param_hint="--at") from None


def _told(model: str, sheet: Sheet) -> dict[str, Any]:
    from gateway.pricing.sheet import plain

    return {
        "model": model,
        "source": sheet.source,
        "date": sheet.dated.isoformat() if sheet.dated else "",
        "from": sheet.since.isoformat() if sheet.since else "",
        "usd_per_request": plain(sheet.per_request),
        "usd_per_second": plain(sheet.per_second),
        "usd_per_hour": plain(sheet.usd_per_hour),
        "prices": [
            {"tier": tier, "above": above} | {name: plain(price) for name, price in sheet.rates(tier, above).items()}
            for tier in sheet.tiers
            for above in sheet.thresholds
        ],
    }


def _where(row: dict[str, Any]) -> str:
    length = f"> {row['above']:,}" if row["above"] else ""
    return " ".join(filter(None, (row["tier"] or "standard", length)))


def _print_differences(found: Iterable[Difference]) -> None:
    rows = [(one.model, one.upstream, one.what, one.ours or "–", one.theirs or "–", one.change) for one in found]
    if not rows:
        typer.echo("no differences")
        return
    print_table(("model", "upstream", "price", "now", "there", ""), rows, right=("now", "there"))
    typer.echo(f"\n{_UNITS}")
