"""The price book of the configured models: whose price holds at which time, and what calls cost by it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import msgspec

from gateway.config import ModelConfig
from gateway.pricing.compiled import Compiled
from gateway.pricing.price_map import PriceMap
from gateway.pricing.sheet import Sheet, decimal, plain
from gateway.pricing.written import Overrides, local_sheet, override_sheets, own_sheets
from gateway.protocols import Helper
from gateway.types import DAY_MS, Frozen, Price, Usage

LOCAL_CONTEXT = 8192  # the smallest of the catalog's

_NONE: Mapping[Helper, ModelConfig] = {}
_ALL = frozenset({"audio", "json", "tools", "vision"})
_MAP_CAPABILITIES = {
    "supports_audio_input": "audio",
    "supports_response_schema": "json",
    "supports_function_calling": "tools",
    "supports_vision": "vision",
}


class Period:
    """One price of a model and the time it holds from, epoch milliseconds; the next one ends it."""

    __slots__ = ("compiled", "from_ms", "price", "sheet")

    def __init__(self, sheet: Sheet, since: date | None) -> None:
        self.from_ms = 0 if since is None else _epoch_ms(since)
        self.sheet, self.compiled, self.price = sheet, Compiled(sheet), _shown(sheet)


class Entry(Frozen, frozen=True, kw_only=True):
    """What the book knows of one model; ``periods`` oldest first, ``known`` is its entry in the price map."""

    model: ModelConfig
    periods: tuple[Period, ...]
    known: dict[str, Any]
    context: int | None
    supports: frozenset[str]

    def at(self, ms: int) -> Period | None:
        """The price that holds at a time; None before the first."""
        return next((period for period in reversed(self.periods) if period.from_ms <= ms), None)


class PriceBook:
    """Prices, context windows and capabilities of the configured models. Times are epoch milliseconds, None is now."""

    def __init__(
        self, entries: Mapping[str, Entry], helpers: Mapping[Helper, Entry], price_map: PriceMap, today: date | None
    ) -> None:
        self.entries, self.helpers, self.price_map = entries, helpers, price_map
        ever = {name: entry.periods[0] for name, entry in entries.items() if len(entry.periods) == 1}
        self._always = {name: period for name, period in ever.items() if period.from_ms == 0}
        self._fixed_ms = None if today is None else _epoch_ms(today) + DAY_MS - 1

    @classmethod
    def load(
        cls,
        models: Sequence[ModelConfig],
        overrides: Path | None = None,
        *,
        today: date | None = None,
        helpers: Mapping[Helper, ModelConfig] = _NONE,
    ) -> PriceBook:
        """Read what these models need; about 10 ms. ``today`` stands still at that day.

        Raises:
            ConfigError: prices.yaml is wrong.
        """
        written = Overrides.read(overrides)
        price_map = PriceMap.installed(written.litellm)
        entries = {model.name: _entry(model, written, price_map) for model in models}
        helping = {name: _entry(model, written, price_map) for name, model in helpers.items()}
        return cls(entries, helping, price_map, today)

    @property
    def now_ms(self) -> int:
        return int(time.time() * 1000) if self._fixed_ms is None else self._fixed_ms

    @property
    def today(self) -> date:
        return datetime.fromtimestamp(self.now_ms / 1000, UTC).date()

    def price(self, name: str, at_ms: int | None = None) -> Price | None:
        """None where nobody has said what the model costs: unknown is not free."""
        period = self.period(name, at_ms)
        return period.price if period else None

    def period(self, name: str, at_ms: int | None = None) -> Period | None:
        """The price that holds, with everything known of it."""
        if (always := self._always.get(name)) is not None:
            return always
        entry = self.entries.get(name)
        return entry.at(self.now_ms if at_ms is None else at_ms) if entry else None

    def helper(self, name: Helper, at_ms: int) -> Period | None:
        """The price of a hosted helper; None where there is none, or nobody has said what it costs."""
        entry = self.helpers.get(name)
        return entry.at(at_ms) if entry else None

    def paid(self, name: Helper) -> bool:
        """Whether a call of a helper costs anything now, as far as is known."""
        period = self.helper(name, self.now_ms)
        return period is not None and period.compiled.worst_case_nano(1, 0) > 0

    def context(self, name: str) -> int | None:
        """Tokens of prompt and answer together; None where not known."""
        entry = self.entries.get(name)
        return entry.context if entry else None

    def supports(self, name: str) -> frozenset[str]:
        """Which of tools, vision, json, audio the model can do. A hosted model nobody knows is taken to do all."""
        entry = self.entries.get(name)
        return entry.supports if entry else _ALL

    def timed(self, name: str, at_ms: int | None = None) -> bool:
        """Whether upstream bills a call by the second, so that ``usage.busy_s`` has to be known."""
        period = self.period(name, at_ms)
        return period is not None and bool(period.sheet.per_second)

    def cost_nano(self, name: str, usage: Usage, at_ms: int | None = None) -> int:
        """What a call cost in nano-dollars, by the price of its time, rounded once, half to even.

        Raises:
            KeyError: the model has no known price (ask ``price`` first; 402 is the caller's to say).
        """
        return self._compiled(name, at_ms).cost_nano(usage)

    def baseline_nano(self, name: str, usage: Usage, at_ms: int | None = None) -> int | None:
        """What the baseline model would have cost for the same tokens; None where it has no known price."""
        period = self.period(name, at_ms)
        return period.compiled.cost_nano(usage) if period else None

    def worst_case_nano(
        self, name: str, prompt_tokens: int, max_tokens: int, *, tier: str = "", at_ms: int | None = None
    ) -> int:
        """The most a call with at most so many tokens may cost, rounded up: what a reservation holds.

        Every token is charged at the dearest class, prompt length and service tier it may turn out to have; ``tier``
        is the one the request names. A local model is taken to prefill 50 and decode 2 tokens a second, up to its
        timeout.

        Raises:
            KeyError: the model has no known price.
        """
        return self._compiled(name, at_ms).worst_case_nano(prompt_tokens, max_tokens, tier)

    def _compiled(self, name: str, at_ms: int | None) -> Compiled:
        period = self.period(name, at_ms)
        if period is None:
            raise KeyError(name)
        return period.compiled


def _entry(model: ModelConfig, written: Overrides, price_map: PriceMap) -> Entry:
    known = price_map.find(model)
    base = local_sheet(model) if model.is_local else price_map.sheet(known) if known else None
    if base is not None and base.per_second:
        base = msgspec.structs.replace(base, longest_s=decimal(model.timeout))
    return Entry(
        model=model,
        periods=tuple(_periods(own_sheets(model), override_sheets(model, written), [base] if base else [])),
        known=known,
        context=model.context or (LOCAL_CONTEXT if model.is_local else _context(known)),
        supports=_supports(model, known),
    )


def _periods(*sources: Sequence[Sheet]) -> Iterable[Period]:
    """The timeline of sources, the first that has a price by then winning, each with its newest."""
    starts = {sheet.since for source in sources for sheet in source}
    before: Sheet | None = None
    for start in sorted(starts, key=lambda day: day or date.min):
        sheet = next(filter(None, (_newest(source, start) for source in sources)), None)
        if sheet is not None and sheet is not before:
            yield Period(sheet, start)
            before = sheet


def _newest(source: Sequence[Sheet], day: date | None) -> Sheet | None:
    begun = [sheet for sheet in source if sheet.since is None or (day is not None and sheet.since <= day)]
    return max(begun, key=lambda sheet: sheet.since or date.min, default=None)


def _context(known: Mapping[str, Any]) -> int | None:
    return known.get("max_input_tokens") or known.get("max_tokens")


def _supports(model: ModelConfig, known: Mapping[str, Any]) -> frozenset[str]:
    if model.supports is not None:
        return frozenset(model.supports)
    if model.is_local:
        return frozenset()
    return frozenset(need for key, need in _MAP_CAPABILITIES.items() if known.get(key)) if known else _ALL


def _shown(sheet: Sheet) -> Price:
    rates = sheet.rates()
    return Price(
        input=plain(rates["input"]),
        output=plain(rates["output"]),
        cached_input=plain(rates["cached_input"]),
        cache_write=plain(rates["cache_write"]),
        source=sheet.source,
        date=sheet.dated.isoformat() if sheet.dated else "",
        usd_per_hour=plain(sheet.usd_per_hour),
    )


def _epoch_ms(day: date) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) * 1000
