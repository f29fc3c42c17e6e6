"""Figures as people read them: money from nano-dollars (never through a float), durations, counts, shares, times."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, Decimal

from gateway.ledger.reports import usd
from gateway.types import NANO

NOTHING = "–"
MINUS = "−"


def money(nano: int | None, places: int | None = None) -> str:
    """``$1,234.56``; small amounts keep two significant digits unless ``places`` says how many decimals."""
    if nano is None:
        return NOTHING
    value = Decimal(abs(nano)) / NANO
    shown = places if places is not None else 2 if value >= 1 else _own_places(value)
    rounded = value.quantize(Decimal(1).scaleb(-shown), ROUND_HALF_EVEN)
    if nano and not rounded:
        return f"{MINUS if nano < 0 else ''}<${Decimal(1).scaleb(-shown):f}"
    text = f"{rounded:,f}"
    if places is None and shown == 4:
        text = text.removesuffix("00")
    return f"{MINUS if nano < 0 else ''}${text}"


def exact(nano: int) -> str:
    """Dollars with nothing rounded: what hovering over a rounded amount shows."""
    return usd(nano).replace("-", MINUS)


def places(amounts: Iterable[int | None]) -> int:
    """Decimals for a column, so that its points stand under each other: as many as its largest amount needs."""
    largest = max((abs(nano) for nano in amounts if nano is not None), default=0)
    return _own_places(Decimal(largest) / NANO)


def _own_places(value: Decimal) -> int:
    if value == 0 or value >= 10:
        return 2
    if value >= Decimal("0.01"):
        return 4
    return min(9, 1 - value.adjusted())


def count(value: int | None) -> str:
    return NOTHING if value is None else f"{value:,}".replace("-", MINUS)


def compact(value: int | None) -> str:
    """``1.2 M``, for cards; exact below ten thousand."""
    if value is None or value < 10_000:
        return count(value)
    for size, sign in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if value >= size:
            return f"{value / size:.3g} {sign}" if value < 1000 * size else f"{value // size:,} {sign}"
    return count(value)


def share(part: float | None) -> str:
    """A share of 1 in per cent."""
    if part is None:
        return NOTHING
    per_cent = 100 * part
    if 0 < abs(per_cent) < 0.1:
        return f"{MINUS if per_cent < 0 else ''}<0.1 %"
    text = f"{per_cent:.1f}" if abs(per_cent) < 100 and per_cent != round(per_cent) else f"{per_cent:.0f}"
    return f"{text.replace('-', MINUS)} %"


def duration(milliseconds: float | None) -> str:
    if milliseconds is None:
        return NOTHING
    if milliseconds < 10:
        return f"{milliseconds:.1f} ms"
    if milliseconds < 1000:
        return f"{milliseconds:.0f} ms"
    if milliseconds < 100_000:
        return f"{milliseconds / 1000:.1f} s"
    return f"{milliseconds / 60_000:.0f} min"


def rate(value: float | None) -> str:
    """Tokens a second."""
    return NOTHING if value is None else f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def iso(ms: int) -> str:
    """An instant as ISO 8601 in UTC, to the second."""
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def utc(ms: int) -> str:
    """An instant for people: ``2026-11-22 14:03:07``."""
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
