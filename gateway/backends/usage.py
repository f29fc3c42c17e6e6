"""Where each provider keeps its token counts, as data.

Shapes: OpenAI (chat completions and responses), DeepSeek, OpenRouter, Anthropic's counters as litellm hands them back,
llama.cpp's ``timings``. A count that is null, negative or not a whole number is as good as missing.
"""

from __future__ import annotations

from typing import Any

import msgspec

from gateway.types import Usage

Path = tuple[str, ...]

# The largest valid count among the paths of a field is taken.
PATHS: tuple[tuple[str, tuple[Path, ...]], ...] = (
    ("prompt_tokens", (("prompt_tokens",), ("input_tokens",))),
    ("completion_tokens", (("completion_tokens",), ("output_tokens",))),
    (
        "cached_tokens",
        (
            ("prompt_tokens_details", "cached_tokens"),
            ("input_tokens_details", "cached_tokens"),
            ("prompt_cache_hit_tokens",),
            ("cache_read_input_tokens",),
        ),
    ),
    (
        "cache_write_tokens",
        (
            ("cache_creation_input_tokens",),
            ("prompt_tokens_details", "cache_creation_tokens"),
            ("prompt_tokens_details", "cache_write_tokens"),
        ),
    ),
    (
        "reasoning_tokens",
        (
            ("completion_tokens_details", "reasoning_tokens"),
            ("output_tokens_details", "reasoning_tokens"),
        ),
    ),
)
_COUNTS = tuple(name for name, _ in PATHS)


def read_usage(usage: Any, timings: Any = None) -> Usage | None:
    """Upstream's ``usage`` object (and llama.cpp's ``timings``, in ms) as a Usage; None where it counts nothing."""
    if not isinstance(usage, dict):
        return None
    counts = {name: _largest(usage, paths) for name, paths in PATHS}
    if counts["prompt_tokens"] is None and counts["completion_tokens"] is None:
        return None
    known: dict[str, Any] = {name: count or 0 for name, count in counts.items()}
    return _consistent(Usage(**known, busy_s=_busy_s(timings)))


def merged(before: Usage | None, now: Usage | None) -> Usage | None:
    """Usage of a stream so far: the maximum of each count over its chunks (some report running totals, some once)."""
    if before is None or now is None:
        return now or before
    counts: dict[str, Any] = {name: max(getattr(before, name), getattr(now, name)) for name in _COUNTS}
    busy = [usage.busy_s for usage in (before, now) if usage.busy_s is not None]
    return Usage(**counts, busy_s=max(busy) if busy else None)


def _largest(usage: dict[str, Any], paths: tuple[Path, ...]) -> int | None:
    largest = None
    for path in paths:
        value: Any = usage
        for key in path:
            value = value.get(key) if isinstance(value, dict) else None
        if type(value) is float and value.is_integer():
            value = int(value)
        if type(value) is int and value >= 0 and (largest is None or value > largest):
            largest = value
    return largest


def _consistent(usage: Usage) -> Usage:
    """Parts never exceed their whole: a cached token is a prompt token."""
    cached = min(usage.cached_tokens, usage.prompt_tokens)
    written = min(usage.cache_write_tokens, usage.prompt_tokens - cached)
    reasoning = min(usage.reasoning_tokens, usage.completion_tokens)
    if (cached, written, reasoning) == (usage.cached_tokens, usage.cache_write_tokens, usage.reasoning_tokens):
        return usage
    return msgspec.structs.replace(usage, cached_tokens=cached, cache_write_tokens=written, reasoning_tokens=reasoning)


def _busy_s(timings: Any) -> float | None:
    if not isinstance(timings, dict):
        return None
    parts = [timings.get("prompt_ms"), timings.get("predicted_ms")]
    known = [part for part in parts if isinstance(part, int | float) and part >= 0]
    return sum(known) / 1000 if known else None
