"""What a call costs, said again in decimals and as slowly as it reads: what the compiled integers must equal."""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Context, Decimal, localcontext

from gateway.pricing.sheet import Sheet, tier_named
from gateway.types import Usage


def cost_nano(sheet: Sheet, usage: Usage) -> int:
    with localcontext(Context(prec=200)):
        return int(_cost(sheet, usage).quantize(Decimal(1), ROUND_HALF_EVEN))


def _cost(sheet: Sheet, usage: Usage) -> Decimal:
    rates = _rates(sheet, usage)
    long = min(usage.cache_write_1h_tokens, usage.cache_write_tokens)
    used = {
        "cached_input": usage.cached_tokens,
        "cache_write": usage.cache_write_tokens - long,
        "cache_write_1h": long,
        "audio_input": usage.audio_input_tokens,
        "image_input": usage.image_input_tokens,
    }
    made = {
        "reasoning": usage.reasoning_tokens,
        "audio_output": usage.audio_output_tokens,
        "image_output": usage.image_output_tokens,
    }
    used["input"] = max(0, usage.prompt_tokens - sum(used.values()))
    made["output"] = max(0, usage.completion_tokens - sum(made.values()))
    dollars = sum((Decimal(tokens) * rates[name] / 10**6 for name, tokens in (used | made).items()), Decimal(0))
    seconds = Decimal(round((usage.busy_s or 0) * 10**6)) / 10**6
    dollars += sheet.per_request + seconds * sheet.per_second + seconds * sheet.usd_per_hour / 3600
    return dollars * 10**9


def _rates(sheet: Sheet, usage: Usage) -> dict[str, Decimal]:
    tier = tier_named(usage.tier)
    reached = [
        above
        for above in sheet.thresholds
        if usage.prompt_tokens > above or above == 0 or (sheet.inclusive and usage.prompt_tokens == above)
    ]
    return sheet.rates(tier if tier in sheet.tiers else "", max(reached))
