"""What is wrong with the prices of the configured models: missing, stale, absurd, or in conflict with each other."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from decimal import Decimal

from gateway.pricing.book import Entry, Period, PriceBook
from gateway.pricing.sheet import CLASSES, STANDARD, Sheet, plain
from gateway.pricing.written import GATEWAY_YAML
from gateway.types import Frozen, Price

STALE_DAYS = 90
DEAREST, CHEAPEST = Decimal(1000), Decimal("0.001")  # USD per million tokens that anyone has charged for text
UNLIKE = 10  # times more or less than the map says: a price per token or per thousand, taken for one per million

_CHEAPER_TIERS, _DEARER_TIERS = ("batch", "flex"), ("priority", "ultrafast")


class PriceCheck(Frozen, frozen=True, kw_only=True):
    """A row of ``gateway prices check``. ``age_days`` is None where the day of the price is not known."""

    model: str
    upstream: str
    price: Price | None
    age_days: int | None
    problems: tuple[str, ...]


def check(book: PriceBook) -> list[PriceCheck]:
    """Every configured model and hosted helper with its price, how old that is, and what is wrong with it."""
    return [_checked(entry.model.name, entry, book) for entry in (*book.entries.values(), *book.helpers.values())]


def _checked(name: str, entry: Entry, book: PriceBook) -> PriceCheck:
    period, today = entry.at(book.now_ms), book.today
    if period is None:
        problems, age = [_missing(entry)], None
    else:
        dated = period.sheet.dated
        age = (today - dated).days if dated else None
        problems = [*_stale(entry, period, age, today), *_absurd(entry, period), *_conflicts(entry, period, book)]
    return PriceCheck(
        model=name,
        upstream=entry.model.upstream_name,
        price=period.price if period else None,
        age_days=age,
        problems=tuple(problems),
    )


def _missing(entry: Entry) -> str:
    if entry.periods:
        return f"no known price before {entry.periods[0].sheet.since}"
    return "no known price"


def _stale(entry: Entry, period: Period, age: int | None, today: date) -> Iterator[str]:
    if age is not None and age > STALE_DAYS and period.sheet.source != GATEWAY_YAML:
        yield f"the price is {age} days old"
    retired = str(entry.known.get("deprecation_date") or "")
    if retired and retired <= today.isoformat():
        yield f"upstream retired this model on {retired}"


def _absurd(entry: Entry, period: Period) -> Iterator[str]:
    sheet = period.sheet
    standard = sheet.rates()
    for name in CLASSES:
        if standard[name] > DEAREST:
            yield f"{name} costs ${plain(standard[name])} a million tokens"
    if 0 < max(standard["input"], standard["output"]) < CHEAPEST:
        yield f"output at ${plain(standard['output'])} a million tokens: is that the price of one, or of a thousand?"
    if min(standard.values()) < 0:
        yield "a price is negative"
    free = not any(standard.values()) and not sheet.timed and not sheet.per_request
    if free and sheet.source != GATEWAY_YAML:
        yield "free, its source says: if that is true, write `price: {input: 0, output: 0}`"
    if standard["cached_input"] > standard["input"]:
        yield "a cached token costs more than another"
    yield from _absurd_tiers(sheet, standard)
    if entry.known.get("off_peak_pricing") and sheet.source != GATEWAY_YAML:
        yield "cheaper off peak: every hour is charged at the full price"


def _absurd_tiers(sheet: Sheet, standard: dict[str, Decimal]) -> Iterator[str]:
    for above in sheet.thresholds[1:]:
        if sheet.rates(STANDARD, above)["input"] < standard["input"]:
            yield f"a prompt of more than {above:,} tokens costs less a token than a short one"
    for tier in sheet.tiers[1:]:
        input_ = sheet.rates(tier)["input"]
        if tier in _CHEAPER_TIERS and input_ > standard["input"]:
            yield f"the {tier} tier is dearer than the standard one"
        if tier in _DEARER_TIERS and input_ < standard["input"]:
            yield f"the {tier} tier is cheaper than the standard one"


def _conflicts(entry: Entry, period: Period, book: PriceBook) -> Iterator[str]:
    """A written price against the map's for the same model: very different, or older than the map and not the same."""
    mapped = book.price_map.sheet(entry.known) if entry.known else None
    if mapped is None or period.sheet.source == mapped.source:
        return
    ours, theirs = period.sheet.rates(), mapped.rates()
    for name in ("input", "output"):
        low, high = sorted((ours[name], theirs[name]))
        if low < high and low * UNLIKE <= high:
            yield f"{name} is ${plain(ours[name])}, which {mapped.source} has at ${plain(theirs[name])}"
    older = period.sheet.dated and mapped.dated and period.sheet.dated < mapped.dated
    if older and period.sheet.source != GATEWAY_YAML and ours != theirs:
        yield f"{period.sheet.source} of {period.sheet.dated} differs from {mapped.source} of {mapped.dated}"
