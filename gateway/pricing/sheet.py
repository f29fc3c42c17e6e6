"""A price as data: dollars for each class of tokens, by service tier and length of prompt, from a day on.

Classes are disjoint parts of what a call used. A class without a price of its own costs what the class it is a part
of costs: a cached token is an input token, a reasoning token an output token.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from typing import Any

from gateway.types import Frozen

FALLBACK: dict[str, str] = {
    "cached_input": "input",
    "cache_write": "input",
    "cache_write_1h": "cache_write",
    "audio_input": "input",
    "image_input": "input",
    "reasoning": "output",
    "audio_output": "output",
    "image_output": "output",
}
INPUTS = ("input", "cached_input", "cache_write", "cache_write_1h", "audio_input", "image_input")
OUTPUTS = ("output", "reasoning", "audio_output", "image_output")
CLASSES = INPUTS + OUTPUTS

STANDARD = ""
# Service tiers with prices of their own, by the names vendors report and the price map uses. A tier marked False is
# served only to who asks for it by name; the others may be a default of the account at the vendor.
TIERS: dict[str, bool] = {
    STANDARD: True,
    "batch": True,
    "flex": True,
    "priority": True,
    "balanced": False,
    "ultrafast": False,
}
_ALSO_CALLED = {"batches": "batch", "fast": "priority"}

Rates = Mapping[str, Decimal]


def tier_named(name: str) -> str:
    """The price tier of a service tier as a vendor names it; what nobody has priced apart is the standard one."""
    lowered = name.lower()
    tier = _ALSO_CALLED.get(lowered, lowered)
    return tier if tier in TIERS else STANDARD


class Cell(Frozen, frozen=True, kw_only=True):
    """Prices (USD per million tokens) of one service tier for prompts of more than ``above`` tokens."""

    tier: str = STANDARD
    above: int = 0
    given: dict[str, Decimal]


class Sheet(Frozen, frozen=True, kw_only=True):
    """What one source says a model costs from ``since`` on (None: ever since), and where that was read, of which day.

    ``inclusive``: a prompt of exactly ``above`` tokens is a long one already. ``longest_s``: the most time ever paid.
    """

    source: str
    dated: date | None = None
    since: date | None = None
    cells: tuple[Cell, ...]
    per_request: Decimal = Decimal(0)
    per_second: Decimal = Decimal(0)
    usd_per_hour: Decimal = Decimal(0)
    inclusive: bool = False
    longest_s: Decimal = Decimal(0)

    @property
    def tiers(self) -> tuple[str, ...]:
        """Tiers with prices of their own, the standard one first."""
        return tuple(dict.fromkeys((STANDARD, *(cell.tier for cell in self.cells))))

    @property
    def thresholds(self) -> tuple[int, ...]:
        """Prompt lengths above which other prices hold, from 0 up."""
        return tuple(sorted({0, *(cell.above for cell in self.cells)}))

    @property
    def timed(self) -> bool:
        """Whether time is paid for."""
        return bool(self.per_second or self.usd_per_hour)

    def rates(self, tier: str = STANDARD, above: int = 0) -> dict[str, Decimal]:
        """Every class's price. What the tier's own long-prompt prices leave out costs the dearer of what the tier
        charges for shorter prompts and what the standard tier charges for such long ones.
        """
        found: dict[str, Decimal] = {}
        for name in CLASSES:
            price = self._written(name, tier, above)
            if price is None:
                others = [self._nearest(name, tier, above), self._nearest(name, STANDARD, above)]
                price = max((other for other in others if other is not None), default=None)
            found[name] = found.get(FALLBACK.get(name, ""), Decimal(0)) if price is None else price
        return found

    def _written(self, name: str, tier: str, above: int) -> Decimal | None:
        return next((cell.given.get(name) for cell in self.cells if (cell.tier, cell.above) == (tier, above)), None)

    def _nearest(self, name: str, tier: str, above: int) -> Decimal | None:
        """The price for the longest prompts up to ``above`` for which the tier has one."""
        lower = (self._written(name, tier, limit) for limit in reversed(self.thresholds) if limit <= above)
        return next((price for price in lower if price is not None), None)


def cells(given: Mapping[tuple[str, int], dict[str, Decimal]]) -> tuple[Cell, ...]:
    """Prices by tier and length as cells. A standard price that only repeats its class's fallback is left out, so that
    it follows the fallback in the other tiers and lengths.
    """
    standard = given.get((STANDARD, 0), {})
    own = {name: price for name, price in standard.items() if price != standard.get(FALLBACK.get(name, ""))}
    rows = {**given, (STANDARD, 0): own}
    return tuple(Cell(tier=tier, above=above, given=prices) for (tier, above), prices in sorted(rows.items()))


def decimal(number: Any) -> Decimal:
    """Through the shortest decimal that reads back as the number written in the file."""
    return number if isinstance(number, Decimal) else Decimal(str(number))


def plain(number: Decimal) -> str:
    """A decimal without exponent: ``0.075``."""
    return f"{number.normalize():f}"
