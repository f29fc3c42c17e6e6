"""Prices somebody wrote down: ``price`` of a model in gateway.yaml, and the rows of prices.yaml."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec

from gateway.config import ModelConfig, PriceConfig, Strict, TierConfig
from gateway.pricing.sheet import CLASSES, STANDARD, Sheet, cells, decimal
from gateway.yamlfile import Document

OVERRIDES = Path(__file__).parents[1] / "prices.yaml"
GATEWAY_YAML = "gateway.yaml"


class Override(PriceConfig, frozen=True, kw_only=True):
    """A row of prices.yaml: a price of a model by the name upstream knows, and where that was read."""

    model: str
    source: str
    since: date = msgspec.field(name="from")


class Overrides(Strict, frozen=True, kw_only=True):
    """``litellm``: when each release of the wheel was built."""

    prices: tuple[Override, ...] = ()
    litellm: dict[str, date] = msgspec.field(default_factory=dict)

    @classmethod
    def read(cls, file: Path | None = None) -> Overrides:
        """Raises ConfigError where the file is wrong."""
        document = Document.read(file or OVERRIDES)
        written = document.convert(cls, document.value or {})
        seen: set[tuple[str, date]] = set()
        for index, row in enumerate(written.prices):
            if (row.model, row.since) in seen:
                raise document.error(f"{row.model} has two prices from {row.since} on", f".prices[{index}]", "from")
            seen.add((row.model, row.since))
        return written

    def of(self, model: ModelConfig) -> Iterator[Override]:
        """The rows that name a model, in the file's order."""
        return (row for row in self.prices if row.model in (model.name, model.upstream_name))


def own_sheets(model: ModelConfig) -> list[Sheet]:
    """A model's own prices from gateway.yaml."""
    return [_sheet(price, GATEWAY_YAML, price.since, model) for price in model.prices]


def override_sheets(model: ModelConfig, written: Overrides) -> list[Sheet]:
    """A model's rows of prices.yaml."""
    return [_sheet(row, f"prices.yaml ({row.source})", row.since, model) for row in written.of(model)]


def local_sheet(model: ModelConfig) -> Sheet:
    """A local model costs its busy time, up to the timeout of a call."""
    return Sheet(
        source=GATEWAY_YAML,
        cells=cells({}),
        usd_per_hour=decimal(model.usd_per_hour),
        longest_s=decimal(model.timeout),
    )


def _sheet(price: PriceConfig, source: str, since: date | None, model: ModelConfig) -> Sheet:
    given = dict(_given(STANDARD, price))
    for tier in price.tiers.__struct_fields__:
        prices = getattr(price.tiers, tier)
        given |= _given(tier, prices) if prices is not None else {}
    return Sheet(
        source=source,
        dated=since,
        since=since,
        cells=cells(given),
        per_request=decimal(price.per_request),
        per_second=decimal(price.per_second),
        longest_s=decimal(model.timeout),
    )


def _given(tier: str, prices: TierConfig) -> dict[tuple[str, int], dict[str, Decimal]]:
    found = {(tier, 0): _rates(prices)}
    return found | {(tier, above): _rates(rates) for above, rates in prices.above.items()}


def _rates(written: Any) -> dict[str, Decimal]:
    values = {name: getattr(written, name) for name in CLASSES}
    return {name: decimal(value) for name, value in values.items() if value is not None}
