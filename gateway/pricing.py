"""What a call costs: one price book with provenance. ``Decimal`` in here, integer nano-dollars out, never float.

A model's price is the first of: its own ``price`` in gateway.yaml; a dated override in ``gateway/prices.yaml``; the
price map inside the installed litellm wheel, read as a file (litellm is not imported). An openai_compatible server may
call its models what it likes, so the map says nothing about those. A local model costs its busy time.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from decimal import ROUND_CEILING, ROUND_HALF_EVEN, Decimal
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec

from gateway.config import ModelConfig, Strict
from gateway.types import Frozen, Price, Usage
from gateway.yamlfile import Document

OVERRIDES = Path(__file__).with_name("prices.yaml")
MAP_PATTERN = "model_prices_and_context_window*.json"
STALE_DAYS = 90
ESTIMATE_MARGIN = Decimal("1.25")
LOCAL_CONTEXT = 8192  # the smallest of the catalog's
SLOWEST_PREFILL, SLOWEST_DECODE = Decimal(50), Decimal(2)

_NANO_PER_MICRO = 1000
_PER_MILLION = Decimal(1_000_000)
_NANO_PER_HOUR_SECOND = Decimal(1_000_000_000) / 3600
_ALL = frozenset({"audio", "json", "tools", "vision"})
_MAP_CAPABILITIES = {
    "supports_audio_input": "audio",
    "supports_response_schema": "json",
    "supports_function_calling": "tools",
    "supports_vision": "vision",
}


class Override(Strict, frozen=True, kw_only=True):
    """A row of prices.yaml, USD per million tokens, from ``date`` on."""

    model: str
    date: date
    input: Decimal
    output: Decimal
    source: str
    cached_input: Decimal | None = None
    cache_write: Decimal | None = None


class Overrides(Strict, frozen=True, kw_only=True):
    prices: tuple[Override, ...] = ()
    litellm: dict[str, date] = msgspec.field(default_factory=dict)


class PriceCheck(Frozen, frozen=True, kw_only=True):
    """A row of ``gateway prices check``. ``age_days`` is None where the day of the price is not known."""

    model: str
    upstream: str
    price: Price | None
    age_days: int | None
    problems: tuple[str, ...]


class _Rates(Frozen, frozen=True, kw_only=True):
    """USD per million tokens; ``second`` in nano-dollars."""

    input: Decimal
    output: Decimal
    cached: Decimal
    write: Decimal
    second: Decimal = Decimal(0)
    longest_s: Decimal = Decimal(0)


class _Entry(Frozen, frozen=True, kw_only=True):
    upstream: str
    price: Price | None
    rates: _Rates | None
    context: int | None
    supports: frozenset[str]


class PriceBook:
    """Prices, context windows and capabilities of the configured models."""

    def __init__(self, entries: Mapping[str, _Entry], today: date) -> None:
        self._entries = entries
        self._today = today

    @classmethod
    def load(
        cls,
        models: Sequence[ModelConfig],
        overrides: Path | None = None,
        *,
        today: date | None = None,
    ) -> PriceBook:
        """Read what these models need; about 10 ms.

        Raises:
            ConfigError: prices.yaml is wrong.
        """
        day = today or datetime.now(UTC).date()
        document = Document.read(overrides or OVERRIDES)
        written = document.convert(Overrides, document.value or {})
        price_map = _PriceMap.read(written.litellm)
        return cls({model.name: _entry(model, written, price_map, day) for model in models}, day)

    def price(self, name: str) -> Price | None:
        """None where nobody has said what the model costs: unknown is not free."""
        entry = self._entries.get(name)
        return entry.price if entry else None

    def context(self, name: str) -> int | None:
        """Tokens of prompt and answer together; None where not known."""
        entry = self._entries.get(name)
        return entry.context if entry else None

    def supports(self, name: str) -> frozenset[str]:
        """Which of tools, vision, json, audio the model can do. A hosted model nobody knows is taken to do all."""
        entry = self._entries.get(name)
        return entry.supports if entry else _ALL

    def cost_nano(self, name: str, usage: Usage) -> int:
        """What a call cost in nano-dollars, rounded once, half to even.

        Raises:
            KeyError: the model has no known price (ask ``price`` first; 402 is the caller's to say).
        """
        return int(_cost(self._rates(name), usage).quantize(Decimal(1), ROUND_HALF_EVEN))

    def baseline_nano(self, name: str, usage: Usage) -> int | None:
        """What the baseline model would have cost for the same tokens; None where it has no known price."""
        entry = self._entries.get(name)
        return self.cost_nano(name, usage) if entry and entry.rates else None

    def worst_case_nano(self, name: str, prompt_tokens: int, max_tokens: int) -> int:
        """The most a call may cost, rounded up: what a reservation holds.

        ``prompt_tokens`` is an estimate and gets a quarter on top; a prompt is charged at the dearer of the input and
        the cache-write price. A local model is taken to prefill 50 and decode 2 tokens a second, up to its timeout.

        Raises:
            KeyError: the model has no known price.
        """
        rates = self._rates(name)
        prompt = prompt_tokens * ESTIMATE_MARGIN
        tokens = prompt * max(rates.input, rates.write) + max_tokens * rates.output
        seconds = min(rates.longest_s, prompt / SLOWEST_PREFILL + max_tokens / SLOWEST_DECODE)
        worst = tokens * _NANO_PER_MICRO + seconds * rates.second
        return int(worst.quantize(Decimal(1), ROUND_CEILING))

    def check(self) -> list[PriceCheck]:
        """Every configured model with its price, how old that is, and what is wrong with it."""
        return [self._check(name, entry) for name, entry in self._entries.items()]

    def _check(self, name: str, entry: _Entry) -> PriceCheck:
        if entry.price is None:
            return PriceCheck(
                model=name, upstream=entry.upstream, price=None, age_days=None, problems=("no known price",)
            )
        dated = date.fromisoformat(entry.price.date) if entry.price.date else None
        age = (self._today - dated).days if dated else None
        problems = (f"the price is {age} days old",) if age is not None and age > STALE_DAYS else ()
        return PriceCheck(model=name, upstream=entry.upstream, price=entry.price, age_days=age, problems=problems)

    def _rates(self, name: str) -> _Rates:
        entry = self._entries.get(name)
        if entry is None or entry.rates is None:
            raise KeyError(name)
        return entry.rates


def _cost(rates: _Rates, usage: Usage) -> Decimal:
    """Nano-dollars, not rounded. ``prompt_tokens`` includes cached and cache-written ones."""
    cached, write = max(0, usage.cached_tokens), max(0, usage.cache_write_tokens)
    plain = max(0, usage.prompt_tokens - cached - write)
    tokens = plain * rates.input + cached * rates.cached + write * rates.write
    tokens += max(0, usage.completion_tokens) * rates.output
    busy = Decimal(str(usage.busy_s)) if usage.busy_s is not None else Decimal(0)
    return tokens * _NANO_PER_MICRO + max(Decimal(0), busy) * rates.second


def _entry(model: ModelConfig, written: Overrides, price_map: _PriceMap, today: date) -> _Entry:
    known = price_map.find(model)
    rates, source, dated = _priced(model, written, price_map, known, today)
    return _Entry(
        upstream=model.upstream_name,
        rates=rates,
        price=_shown(rates, model, source, dated) if rates else None,
        context=model.context or (LOCAL_CONTEXT if model.is_local else _context(known)),
        supports=_supports(model, known),
    )


def _context(known: Mapping[str, Any]) -> int | None:
    return known.get("max_input_tokens") or known.get("max_tokens")


def _supports(model: ModelConfig, known: Mapping[str, Any]) -> frozenset[str]:
    if model.supports is not None:
        return frozenset(model.supports)
    if model.is_local:
        return frozenset()
    return frozenset(need for key, need in _MAP_CAPABILITIES.items() if known.get(key)) if known else _ALL


def _priced(
    model: ModelConfig, written: Overrides, price_map: _PriceMap, known: Mapping[str, Any], today: date
) -> tuple[_Rates | None, str, str]:
    """The rates of the first source that has any, its name, and its day."""
    if model.price is not None:
        own = model.price
        return _rates(own.input, own.output, own.cached_input, own.cache_write), "gateway.yaml", ""
    dated = [row for row in written.prices if row.model in (model.name, model.upstream_name) and row.date <= today]
    if dated:
        row = max(dated, key=lambda row: row.date)
        rates = _rates(row.input, row.output, row.cached_input, row.cache_write)
        return rates, f"prices.yaml ({row.source})", row.date.isoformat()
    if model.is_local:
        second = Decimal(str(model.usd_per_hour)) * _NANO_PER_HOUR_SECOND
        zero = Decimal(0)
        longest = Decimal(str(model.timeout))
        rates = _Rates(input=zero, output=zero, cached=zero, write=zero, second=second, longest_s=longest)
        return rates, "gateway.yaml", ""
    if known.get("input_cost_per_token") is None or known.get("output_cost_per_token") is None:
        return None, "", ""
    keys = ("input_cost_per_token", "output_cost_per_token", "cache_read_input_token_cost")
    costs = [known.get(key) for key in (*keys, "cache_creation_input_token_cost")]
    per_million = [None if cost is None else Decimal(cost) * _PER_MILLION for cost in costs]
    return _rates(*per_million), price_map.source, price_map.date


def _rates(input_: Any, output: Any, cached: Any = None, write: Any = None) -> _Rates:
    """Through the shortest decimal that reads back as the number written in the file; no price of its own: input's."""
    price = Decimal(str(input_))
    return _Rates(
        input=price,
        output=Decimal(str(output)),
        cached=price if cached is None else Decimal(str(cached)),
        write=price if write is None else Decimal(str(write)),
    )


def _shown(rates: _Rates, model: ModelConfig, source: str, dated: str) -> Price:
    return Price(
        input=_plain(rates.input),
        output=_plain(rates.output),
        cached_input=_plain(rates.cached),
        cache_write=_plain(rates.write),
        source=source,
        date=dated,
        usd_per_hour=_plain(Decimal(str(model.usd_per_hour))) if rates.second else "0",
    )


def _plain(number: Decimal) -> str:
    return f"{number.normalize():f}"


class _PriceMap:
    """The JSON in the litellm wheel; an entry is decoded when it is asked for."""

    def __init__(self, raw: Mapping[str, msgspec.Raw], source: str, dated: str) -> None:
        self._raw, self.source, self.date = raw, source, dated

    @classmethod
    def read(cls, released: Mapping[str, date]) -> _PriceMap:
        """Empty where litellm is not installed; ``find_spec`` of a top-level package does not execute it."""
        spec = importlib.util.find_spec("litellm")
        files = [file for folder in (spec and spec.submodule_search_locations) or () for file in _maps(Path(folder))]
        if not files:
            return cls({}, "", "")
        version = metadata.version("litellm")
        day = released.get(version)
        raw = msgspec.json.decode(files[0].read_bytes(), type=dict[str, msgspec.Raw])
        return cls(raw, f"litellm {version}", day.isoformat() if day else "")

    def find(self, model: ModelConfig) -> dict[str, Any]:
        """The map's entry of a hosted model; {} where it has none."""
        if model.is_local or model.kind == "openai_compatible":
            return {}
        name = model.upstream_name
        provider, _, rest = name.partition("/")
        for key, owner in ((name, ""), (rest, provider), (f"openai/{name}", "openai")):
            found = self._decode(key)
            if found and (not owner or found.get("litellm_provider") == owner):
                return found
        return {}

    def _decode(self, key: str) -> dict[str, Any]:
        raw = self._raw.get(key)
        if raw is None:
            return {}
        found: dict[str, Any] = msgspec.json.Decoder(dict[str, Any], float_hook=Decimal).decode(raw)
        return found


def _maps(folder: Path) -> list[Path]:
    return sorted(folder.glob(MAP_PATTERN))
