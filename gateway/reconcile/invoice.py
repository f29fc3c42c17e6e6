"""Provider's exports as lines of day, model, tokens and cost. The format is told by the header alone.

=====================  ==================================================================================
``openai-usage``       platform.openai.com, Usage, Export, Activity: tokens per minute, hour or day; no cost
``openai-costs``       the same page, Cost: an amount per line item ("gpt-4o-mini, input"), in US dollars
``anthropic-usage``    Console, Usage, Export: tokens; input does not include what was read from the cache
``anthropic-costs``    Console, Cost, Export: US dollars in cents per model (as displayed) and kind of token
``generic``            any other bill, brought into ``date,model,input_tokens,output_tokens,cost_usd``
=====================  ==================================================================================

Days are UTC in all of them. Columns seen in exports of 2025 and 2026; those that are not named here are ignored.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from typing import Literal

import msgspec

Row = Mapping[str, str]
Vendor = Literal["openai", "anthropic", ""]
_LEAST_DECIMALS = 2


class InvoiceError(Exception):
    """The file is not an export this program knows, or a cell of it cannot be read."""


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One row of an invoice. ``None``: this export does not say. ``input_tokens`` include cached ones.

    ``cost`` is in US dollars as written; ``cells`` is the whole row, by which a line that was charged twice is known.
    """

    day: date
    model: str
    cells: tuple[str, ...]
    requests: int | None = None
    input_tokens: int | None = None
    cached_tokens: int | None = None
    output_tokens: int | None = None
    cost: Decimal | None = None


class Invoice(msgspec.Struct, frozen=True, kw_only=True):
    """``days`` are those the export covers, also where nothing was used; ``step``: what its costs are rounded to."""

    format: str
    vendor: Vendor
    lines: tuple[Line, ...]
    days: tuple[date, ...]
    step: Decimal


class _Format(msgspec.Struct, frozen=True):
    name: str
    vendor: Vendor
    header: frozenset[str]
    read: Callable[[Row], dict[str, object] | None]


def read_invoice(text: str) -> Invoice:
    """Read an export.

    Raises:
        InvoiceError: with the line where there is one.
    """
    reader = csv.DictReader(io.StringIO(text.removeprefix("\ufeff")))
    names = [name.strip().lower() for name in reader.fieldnames or ()]
    reader.fieldnames = names
    known = next((one for one in FORMATS if one.header <= set(names)), None)
    if known is None:
        wanted = "; or ".join(f"{one.name}: {', '.join(sorted(one.header))}" for one in FORMATS)
        raise InvoiceError(f"no known export has these columns: {', '.join(names) or 'none'}. Known are {wanted}")
    lines: list[Line] = []
    days: set[date] = set()
    decimals = _LEAST_DECIMALS
    for row in reader:
        cells = {name: (value or "").strip() for name, value in row.items() if name and not isinstance(value, list)}
        try:
            day = _day(cells)
            fields = known.read(cells)
        except (ValueError, InvalidOperation, OverflowError) as error:
            raise InvoiceError(f"line {reader.line_num}: {error}") from None
        days.add(day)
        decimals = max(decimals, _decimals(cells))
        if fields is not None:
            lines.append(msgspec.convert({"day": day, "cells": tuple(cells.values()), **fields}, Line))
    step = Decimal(1).scaleb(-decimals)
    return Invoice(format=known.name, vendor=known.vendor, lines=tuple(lines), days=tuple(sorted(days)), step=step)


def _day(row: Row) -> date:
    written = row.get("usage_date_utc") or row.get("start_time_iso") or row.get("date") or ""
    if written:
        try:
            return date.fromisoformat(written[:10])
        except ValueError:
            raise ValueError(f"'{written}' is not a date (YYYY-MM-DD)") from None
    return datetime.fromtimestamp(float(row.get("start_time") or ""), UTC).date()


def _decimals(row: Row) -> int:
    written = next((row[name] for name in _COSTS if row.get(name)), "")
    exponent = Decimal(written.lstrip("$").replace(",", "")).as_tuple().exponent if written else 0
    return min(9, -exponent) if isinstance(exponent, int) else 0


def _count(row: Row, *names: str) -> int | None:
    """The sum of whole numbers ("3.0" is one) in these columns; None where all are empty."""
    written = [row[name] for name in names if row.get(name)]
    if not written:
        return None
    numbers = [Decimal(each.replace(",", "")) for each in written]
    if any(number != int(number) or number < 0 for number in numbers):
        raise ValueError(f"{', '.join(names)}: {', '.join(written)} is not a number of tokens or requests")
    return int(sum(numbers))


_COSTS = ("amount_value", "cost_usd", "cost")


def _cost(row: Row) -> Decimal | None:
    written = next((row[name] for name in _COSTS if row.get(name)), "")
    amount = Decimal(written.lstrip("$").replace(",", "")) if written else None
    if amount is not None and not amount.is_finite():
        raise ValueError(f"'{written}' is not an amount")
    return amount


def _openai_usage(row: Row) -> dict[str, object] | None:
    if not row.get("model"):
        return None  # a bucket in which nothing was used
    return {
        "model": row["model"],
        "requests": _count(row, "num_model_requests"),
        "input_tokens": _count(row, "input_tokens") or 0,
        "cached_tokens": _count(row, "input_cached_tokens") or 0,
        "output_tokens": _count(row, "output_tokens") or 0,
    }


def _openai_costs(row: Row) -> dict[str, object] | None:
    amount = _cost(row)
    if amount is None:
        return None
    currency = row.get("amount_currency", "usd").lower()
    if currency not in ("", "usd"):
        raise ValueError(f"the amount is in {currency}: only US dollars can be compared")
    model, _, kind = row.get("line_item", "").partition(",")
    tokens = _count(row, "quantity") if "token" in row.get("quantity_unit", "") else None
    return {"model": model.strip(), "cost": amount} | _part(kind, tokens)


def _part(kind: str, tokens: int | None) -> dict[str, object]:
    """What a line item's quantity adds to the tokens of its model: a cached prompt token is a prompt token."""
    if tokens is None:
        return {}
    if "output" in kind:
        return {"output_tokens": tokens}
    return {"input_tokens": tokens, "cached_tokens": tokens if "cache" in kind else None}


def _anthropic_usage(row: Row) -> dict[str, object] | None:
    cached = _count(row, "usage_input_tokens_cache_read") or 0
    written = _count(row, "usage_input_tokens_cache_write_5m", "usage_input_tokens_cache_write_1h") or 0
    return {
        "model": row["model_version"],
        "input_tokens": (_count(row, "usage_input_tokens_no_cache") or 0) + cached + written,
        "cached_tokens": cached,
        "output_tokens": _count(row, "usage_output_tokens") or 0,
    }


def _anthropic_costs(row: Row) -> dict[str, object] | None:
    return {"model": row["model"], "cost": _cost(row)}


def _generic(row: Row) -> dict[str, object] | None:
    return {
        "model": row["model"],
        "requests": _count(row, "requests"),
        "input_tokens": _count(row, "input_tokens"),
        "cached_tokens": _count(row, "cached_input_tokens"),
        "output_tokens": _count(row, "output_tokens"),
        "cost": _cost(row),
    }


# The first whose columns are all there.
FORMATS = (
    _Format("openai-costs", "openai", frozenset({"start_time", "amount_value", "line_item"}), _openai_costs),
    _Format("openai-usage", "openai", frozenset({"start_time", "model", "input_tokens"}), _openai_usage),
    _Format(
        "anthropic-usage",
        "anthropic",
        frozenset({"usage_date_utc", "model_version", "usage_input_tokens_no_cache", "usage_output_tokens"}),
        _anthropic_usage,
    ),
    _Format("anthropic-costs", "anthropic", frozenset({"usage_date_utc", "model", "cost_usd"}), _anthropic_costs),
    _Format("generic", "", frozenset({"date", "model"}), _generic),
)
