"""A sheet compiled to integers, for the hot path: a cost is a sum of products and one division.

Every price of a sheet becomes a whole number of ``1/unit`` nano-dollars, so nothing is rounded but the sum, once.
"""

from __future__ import annotations

from gateway.pricing.sheet import INPUTS, OUTPUTS, STANDARD, TIERS, Sheet, tier_named
from gateway.types import Usage

SLOWEST_PREFILL, SLOWEST_DECODE = 50, 2  # tokens per second

_NANO_PER_TOKEN = 1000  # of a dollar per million
_NANO_PER_MICROSECOND = 1000  # of a dollar per second
_NANO = 1_000_000_000
_MICRO = 1_000_000
_HOUR_MICROSECONDS = 3600 * _MICRO
_ANY = frozenset({"", "auto"})

_Row = tuple[int, int, int, int, int, int, int, int, int, int]
_Bound = tuple[int, int, int]


class Compiled:
    """Costs by one sheet, in nano-dollars."""

    __slots__ = (
        *("_any_tier", "_bounds", "_inclusive", "_longest", "_per_microsecond", "_per_request", "_rows", "_single"),
        "_unit",
    )

    def __init__(self, sheet: Sheet) -> None:
        scale = _scale(sheet)
        self._unit = scale * (_HOUR_MICROSECONDS if sheet.usd_per_hour else 1)
        self._inclusive = int(sheet.inclusive)
        self._per_request = int(sheet.per_request * _NANO * self._unit)
        self._per_microsecond = int(sheet.per_second * _NANO_PER_MICROSECOND * self._unit)
        self._per_microsecond += int(sheet.usd_per_hour * _NANO * scale)
        self._longest = int(sheet.longest_s * _MICRO)
        self._rows: dict[str, list[tuple[int, _Row]]] = {
            tier: [(above, self._row_of(sheet, tier, above)) for above in reversed(sheet.thresholds)]
            for tier in sheet.tiers
        }
        self._single = self._rows[STANDARD][0][1] if len(sheet.cells) == 1 else None
        self._bounds = {tier: self._bounds_of(STANDARD, tier) for tier in sheet.tiers}
        self._any_tier = self._bounds_of(*(tier for tier in sheet.tiers if TIERS[tier]))

    def cost_nano(self, usage: Usage) -> int:
        """What a call cost, rounded once, half to even."""
        total, unit = self._total(usage), self._unit
        whole, rest = divmod(total, unit)
        rest *= 2
        return whole + 1 if rest > unit or (rest == unit and whole & 1) else whole

    def worst_case_nano(self, prompt_tokens: int, max_tokens: int, tier: str = STANDARD) -> int:
        """The most a call may cost, rounded up. ``tier``: the one asked for by name, else any that may be a default."""
        bounds = self._any_tier if tier in _ANY else self._bounds.get(tier_named(tier), self._any_tier)
        length = prompt_tokens + self._inclusive
        _, prompt, answer = next(bound for bound in bounds if length > bound[0] or bound[0] == 0)
        total = prompt_tokens * prompt + max_tokens * answer + self._per_request
        if self._per_microsecond:
            busy = prompt_tokens * _MICRO // SLOWEST_PREFILL + max_tokens * _MICRO // SLOWEST_DECODE
            total += min(self._longest, busy) * self._per_microsecond
        return -(-total // self._unit)

    def _total(self, usage: Usage) -> int:
        """Whole and parts as :class:`gateway.types.Usage` has them; what is left of a whole is plain text."""
        row = self._single or self._row(usage)
        input_, cached_input, cache_write, cache_write_1h, audio_input, image_input, output, *_ = row
        prompt, completion, total = usage.prompt_tokens, usage.completion_tokens, self._per_request
        if usage.cached_tokens > 0:
            prompt -= usage.cached_tokens
            total += usage.cached_tokens * cached_input
        if usage.cache_write_tokens > 0:
            long = min(max(0, usage.cache_write_1h_tokens), usage.cache_write_tokens)
            prompt -= usage.cache_write_tokens
            total += (usage.cache_write_tokens - long) * cache_write + long * cache_write_1h
        if usage.audio_input_tokens > 0:
            prompt -= usage.audio_input_tokens
            total += usage.audio_input_tokens * audio_input
        if usage.image_input_tokens > 0:
            prompt -= usage.image_input_tokens
            total += usage.image_input_tokens * image_input
        if usage.reasoning_tokens > 0:
            completion -= usage.reasoning_tokens
            total += usage.reasoning_tokens * row[7]
        if usage.audio_output_tokens > 0:
            completion -= usage.audio_output_tokens
            total += usage.audio_output_tokens * row[8]
        if usage.image_output_tokens > 0:
            completion -= usage.image_output_tokens
            total += usage.image_output_tokens * row[9]
        if self._per_microsecond and usage.busy_s is not None and usage.busy_s > 0:
            total += microseconds(usage) * self._per_microsecond
        return total + max(0, prompt) * input_ + max(0, completion) * output

    def _row(self, usage: Usage) -> _Row:
        rows = self._rows.get(tier_named(usage.tier) if usage.tier else STANDARD) or self._rows[STANDARD]
        length = usage.prompt_tokens + self._inclusive
        for above, row in rows:
            if length > above:
                return row
        return rows[-1][1]

    def _row_of(self, sheet: Sheet, tier: str, above: int) -> _Row:
        rates = sheet.rates(tier, above)
        prices = [int(rates[name] * _NANO_PER_TOKEN * self._unit) for name in INPUTS + OUTPUTS]
        return tuple(prices)  # type: ignore[return-value]

    def _bounds_of(self, *tiers: str) -> list[_Bound]:
        """For each length, the dearest input and output price of it and of all shorter prompts; the longest first."""
        found: list[_Bound] = []
        dearest_in = dearest_out = 0
        for level in reversed(list(zip(*(self._rows[tier] for tier in tiers), strict=True))):
            dearest_in = max(dearest_in, *(price for _, row in level for price in row[: len(INPUTS)]))
            dearest_out = max(dearest_out, *(price for _, row in level for price in row[len(INPUTS) :]))
            found.insert(0, (level[0][0], dearest_in, dearest_out))
        return found


def microseconds(usage: Usage) -> int:
    """The time a call took, in the whole microseconds it is billed by."""
    return round((usage.busy_s or 0) * _MICRO)


def _scale(sheet: Sheet) -> int:
    """The power of ten that makes every price of a sheet a whole number."""
    prices = [price for cell in sheet.cells for price in cell.given.values()]
    exact = [price * _NANO_PER_TOKEN for price in prices]
    exact += [sheet.per_request * _NANO, sheet.per_second * _NANO_PER_MICROSECOND, sheet.usd_per_hour * _NANO]
    exponents = [int(number.normalize().as_tuple().exponent) for number in exact]
    return int(10 ** max(0, -min(exponents)))
