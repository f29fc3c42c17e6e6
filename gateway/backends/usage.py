"""Where each provider keeps its token counts, as data, and how they become one account without overlaps.

Shapes: OpenAI's chat completions and its dialects (Azure, vLLM, llama.cpp, Ollama, DeepSeek, Mistral, xAI, OpenRouter,
Moonshot), OpenAI's responses, Anthropic's own, and what litellm hands back for Anthropic, Gemini and Bedrock. A count
that is null, negative, not a whole number or beyond all that a call can use is as good as missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.types import Usage

_WRITES = {  # Anthropic's, and litellm's of it
    "ephemeral_5m_input_tokens": "cache_write_5m_tokens",
    "ephemeral_1h_input_tokens": "cache_write_1h_tokens",
}
_PROMPT_PARTS = {
    "cached_tokens": "cached_tokens",
    "cache_creation_tokens": "cache_write_tokens",  # litellm
    "cache_write_tokens": "cache_write_tokens",  # OpenAI, OpenRouter, litellm
    "cache_creation_token_details": _WRITES,
    "audio_tokens": "audio_input_tokens",
    "image_tokens": "image_input_tokens",  # litellm, for Gemini
    "tool_use_tokens": "unbilled_tokens",  # litellm, for Gemini: in the total, and in the prompt where they are billed
}
_COMPLETION_PARTS = {
    "reasoning_tokens": "reasoning_tokens",
    "audio_tokens": "audio_output_tokens",
    "image_tokens": "image_output_tokens",  # litellm, for Gemini
}

# A usage object's keys, and the count each holds. Where several keys hold the same count, the largest is taken.
TABLE: Mapping[str, Any] = {
    "prompt_tokens": "prompt_tokens",
    "input_tokens": "prompt_tokens",  # OpenAI's responses, Anthropic
    "completion_tokens": "completion_tokens",
    "output_tokens": "completion_tokens",
    "total_tokens": "total_tokens",
    "prompt_tokens_details": _PROMPT_PARTS,
    "input_tokens_details": _PROMPT_PARTS,
    "completion_tokens_details": _COMPLETION_PARTS,
    "output_tokens_details": _COMPLETION_PARTS,
    "cached_tokens": "cached_tokens",  # Moonshot
    "prompt_cache_hit_tokens": "cached_tokens",  # DeepSeek
    "cache_read_input_tokens": "cached_tokens",  # Anthropic
    "cache_creation_input_tokens": "cache_write_tokens",
    "cache_creation": _WRITES,
}
# llama.cpp's ``timings``: what it counts where a reply has no usage object.
TIMINGS: Mapping[str, Any] = {"prompt_n": "computed", "cache_n": "cached_tokens", "predicted_n": "completion_tokens"}

_PROMPT = ("cached_tokens", "cache_write_tokens", "audio_input_tokens", "image_input_tokens")
_COMPLETION = ("reasoning_tokens", "audio_output_tokens", "image_output_tokens")
_PARTS = (("prompt_tokens", _PROMPT), ("completion_tokens", _COMPLETION))
_WHOLES = frozenset(whole for whole, _ in _PARTS)
_COUNTS = ("prompt_tokens", "completion_tokens", "cache_write_1h_tokens", *_PROMPT, *_COMPLETION)
# Sums in the books are integers of 64 bits.
_MOST, _LONGEST_S = 1_000_000_000, 86_400.0
# Service tiers that are the standard one under another name.
_STANDARD_TIERS = frozenset({"default", "auto", "standard", "on_demand", "scale"})


def read_usage(usage: Any, timings: Any = None, tier: Any = None) -> Usage | None:
    """Upstream's ``usage`` object (llama.cpp's ``timings``, in ms) as a Usage; None where it counts nothing.

    ``tier``: the reply's own ``service_tier``; Anthropic's stands in the usage object.
    """
    counts = _read(usage, TABLE, {}) if isinstance(usage, dict) else {}
    if "prompt_tokens" not in counts and "completion_tokens" not in counts:
        counts = _from_timings(timings)
        if not counts:
            return None
    served = tier or (usage.get("service_tier") if isinstance(usage, dict) else None)
    short = _short(counts)
    return Usage(**_account(counts), busy_s=_busy_s(timings), tier=named_tier(served), incomplete=short)


def merged(before: Usage | None, now: Usage | None) -> Usage | None:
    """Usage of a stream so far: the maximum of each count over its chunks (some report running totals, some once)."""
    if before is None or now is None:
        return now or before
    counts: dict[str, Any] = {name: max(getattr(before, name), getattr(now, name)) for name in _COUNTS}
    busy = [usage.busy_s for usage in (before, now) if usage.busy_s is not None]
    tier = now.tier or before.tier
    return Usage(**_within(counts), busy_s=max(busy) if busy else None, tier=tier, incomplete=now.incomplete)


def named_tier(name: Any) -> str:
    """A service tier as upstream names it; "" for the standard one."""
    lowered = name.lower() if isinstance(name, str) else ""
    return "" if lowered in _STANDARD_TIERS else lowered


def _read(usage: Mapping[str, Any], table: Mapping[str, Any], counts: dict[str, int]) -> dict[str, int]:
    """``counts`` with those among ``usage``'s keys."""
    for key, value in usage.items():
        place = table.get(key)
        if type(place) is str:
            count = _count(value)
            if count is not None and count > counts.get(place, -1):
                counts[place] = count
        elif place is not None and isinstance(value, dict):
            _read(value, place, counts)
    return counts


def _count(value: Any) -> int | None:
    if type(value) is float and value.is_integer():
        value = int(value)
    return value if type(value) is int and 0 <= value <= _MOST else None


def _from_timings(timings: Any) -> dict[str, int]:
    counts = _read(timings, TIMINGS, {}) if isinstance(timings, dict) else {}
    if "completion_tokens" not in counts:
        return {}
    counts["prompt_tokens"] = counts.pop("computed", 0) + counts.get("cached_tokens", 0)
    return counts


def _short(counts: dict[str, int]) -> bool:
    """Whether writes are split by how long they are kept and the split is not all of them; the rest has no name."""
    if "cache_write_5m_tokens" not in counts and "cache_write_1h_tokens" not in counts:
        return False
    split = counts.get("cache_write_5m_tokens", 0) + counts.get("cache_write_1h_tokens", 0)
    return split != counts.get("cache_write_tokens", 0)


def _account(counts: dict[str, int]) -> dict[str, Any]:
    """Wholes that include their parts, and parts that do not overlap, whatever the provider counts apart.

    Anthropic counts cached and written tokens beside the prompt; xAI and Gemini (by Google's own OpenAI endpoint) count
    reasoning beside the completion. Either shows in the total, or in a part that is larger than its whole.
    """
    total = counts.pop("total_tokens", 0) - counts.pop("unbilled_tokens", 0)
    counts.pop("cache_write_5m_tokens", 0)
    prompt, completion = counts.get("prompt_tokens", 0), counts.get("completion_tokens", 0)
    kept = counts.get("cached_tokens", 0) + counts.get("cache_write_tokens", 0)
    thought = counts.get("reasoning_tokens", 0)
    if kept > prompt or (kept and total == prompt + completion + kept and thought != kept):
        counts["prompt_tokens"] = prompt = prompt + kept
    if thought > completion:
        counts["completion_tokens"] = completion = completion + thought
    if prompt and total > prompt + completion:
        beside = total - prompt - completion
        counts["completion_tokens"] = completion + beside
        counts["reasoning_tokens"] = max(thought, beside)
    return _within(counts)


def _within(counts: dict[str, Any]) -> dict[str, Any]:
    """Each part as large as its whole has room for after those before it: a cached audio token is a cached token."""
    if counts.keys() <= _WHOLES:
        return counts
    for whole, parts in _PARTS:
        room = counts.get(whole, 0)
        for part in parts:
            if held := counts.get(part):
                counts[part] = held = min(held, room)
                room -= held
    if hour := counts.get("cache_write_1h_tokens"):
        counts["cache_write_1h_tokens"] = min(hour, counts.get("cache_write_tokens", 0))
    return counts


def _busy_s(timings: Any) -> float | None:
    """The request's share of the engine's time where it says (requests of a batch overlap), else from begin to end."""
    if not isinstance(timings, dict):
        return None
    share = timings.get("busy_seconds")
    if isinstance(share, int | float) and 0 < share <= _LONGEST_S:
        return float(share)
    parts = [timings.get("prompt_ms"), timings.get("predicted_ms")]
    known = [part for part in parts if isinstance(part, int | float) and 0 <= part <= _LONGEST_S * 1000]
    return sum(known) / 1000 if known else None
