"""Prices side by side: those in use against the installed map's, or the installed map against another one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import date
from decimal import Decimal
from pathlib import Path

from gateway.config import ModelConfig
from gateway.pricing.book import PriceBook
from gateway.pricing.price_map import PriceMap
from gateway.pricing.sheet import Sheet, plain
from gateway.pricing.written import Overrides
from gateway.types import Frozen


class Difference(Frozen, frozen=True, kw_only=True):
    """One price that is not the same; None where a side has none. ``what`` is a class, its tier, its prompt length."""

    model: str
    upstream: str
    what: str
    ours: str | None
    theirs: str | None
    change: str


def against_map(
    models: Sequence[ModelConfig], overrides: Path | None = None, *, today: date | None = None
) -> list[Difference]:
    """Configured models whose price in use is not the map's: overridden, or not in the map at all."""
    book = PriceBook.load(models, overrides, today=today)
    found: list[Difference] = []
    for entry in book.entries.values():
        period = entry.at(book.now_ms)
        mapped = book.price_map.sheet(entry.known) if entry.known else None
        if period is not None and not entry.model.is_local and mapped is not None:
            found += _compared(entry.model.name, entry.model.upstream_name, period.sheet, mapped)
    return found


def against_file(models: Sequence[ModelConfig], file: Path, *, everything: bool = False) -> list[Difference]:
    """What another map, of a newer wheel say, would change: for the configured models, or for all of both.

    Raises:
        ConfigError: the file is no price map.
    """
    ours, theirs = PriceMap.installed(Overrides.read().litellm), PriceMap.read(file, file.name)
    hosted = [model for model in models if not model.is_local and model.kind != "openai_compatible"]
    names = [(model.name, model.upstream_name) for model in hosted]
    if everything:
        names = [("", name) for name in sorted({*ours.names, *theirs.names})]
    found: list[Difference] = []
    for name, upstream in names:
        found += _compared(name, upstream, ours.sheet(ours.named(upstream)), theirs.sheet(theirs.named(upstream)))
    return found


def _compared(model: str, upstream: str, ours: Sheet | None, theirs: Sheet | None) -> Iterator[Difference]:
    before, after = _prices(ours), _prices(theirs)
    for what in dict.fromkeys((*before, *after)):
        old, new = before.get(what), after.get(what)
        if old != new:
            yield Difference(
                model=model,
                upstream=upstream,
                what=what,
                ours=None if old is None else plain(old),
                theirs=None if new is None else plain(new),
                change=_change(old, new),
            )


def _prices(sheet: Sheet | None) -> dict[str, Decimal]:
    """Every price that is not a fallback's repetition, by what it is for."""
    return dict(_named(sheet)) if sheet is not None else {}


def _named(sheet: Sheet) -> Iterable[tuple[str, Decimal]]:
    for cell in sheet.cells:
        length = f"above {cell.above:,}" if cell.above else ""
        for name, price in cell.given.items():
            yield " ".join(filter(None, (name, cell.tier, length))), price
    for name, price in (("per request", sheet.per_request), ("per second", sheet.per_second)):
        if price:
            yield name, price


def _change(old: Decimal | None, new: Decimal | None) -> str:
    if new is None:
        return "gone"
    if not old:
        return "new" if old is None else ""
    return f"{(new - old) / old:+.0%}" if new < 10 * old else f"× {new / old:,.0f}"
