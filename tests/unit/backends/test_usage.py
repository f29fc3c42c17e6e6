"""Token counts from every shape providers report them in."""

from typing import Any

import pytest

from gateway.backends.usage import merged, read_usage
from gateway.types import Usage

SHAPES: dict[str, tuple[dict[str, Any], Usage]] = {
    "openai": (
        {
            "prompt_tokens": 100,
            "completion_tokens": 50,
            "total_tokens": 150,
            "prompt_tokens_details": {"cached_tokens": 40, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 30},
        },
        Usage(prompt_tokens=100, completion_tokens=50, cached_tokens=40, reasoning_tokens=30),
    ),
    "openai responses": (
        {
            "input_tokens": 10,
            "output_tokens": 5,
            "input_tokens_details": {"cached_tokens": 4},
            "output_tokens_details": {"reasoning_tokens": 2},
        },
        Usage(prompt_tokens=10, completion_tokens=5, cached_tokens=4, reasoning_tokens=2),
    ),
    "deepseek": (
        {"prompt_tokens": 30, "completion_tokens": 5, "prompt_cache_hit_tokens": 20, "prompt_cache_miss_tokens": 10},
        Usage(prompt_tokens=30, completion_tokens=5, cached_tokens=20),
    ),
    "anthropic through litellm": (
        {
            "prompt_tokens": 30,
            "completion_tokens": 5,
            "prompt_tokens_details": {"cached_tokens": 12, "cache_creation_tokens": 8},
            "cache_creation_input_tokens": 8,
            "cache_read_input_tokens": 12,
        },
        Usage(prompt_tokens=30, completion_tokens=5, cached_tokens=12, cache_write_tokens=8),
    ),
    "openrouter": (
        {"prompt_tokens": 9, "completion_tokens": 1, "prompt_tokens_details": {"cache_write_tokens": 3}},
        Usage(prompt_tokens=9, completion_tokens=1, cache_write_tokens=3),
    ),
    "floats": ({"prompt_tokens": 9.0, "completion_tokens": 1.0}, Usage(prompt_tokens=9, completion_tokens=1)),
    "nulls": (
        {"prompt_tokens": 9, "completion_tokens": None, "prompt_tokens_details": None},
        Usage(prompt_tokens=9),
    ),
    "junk": (
        {
            "prompt_tokens": 9,
            "completion_tokens": "7",
            "prompt_tokens_details": {"cached_tokens": -3},
            "completion_tokens_details": [1],
        },
        Usage(prompt_tokens=9),
    ),
    "parts larger than their whole were counted beside it": (
        {
            "prompt_tokens": 9,
            "completion_tokens": 1,
            "prompt_cache_hit_tokens": 12,
            "cache_creation_input_tokens": 5,
            "completion_tokens_details": {"reasoning_tokens": 4},
        },
        Usage(prompt_tokens=26, completion_tokens=5, cached_tokens=12, cache_write_tokens=5, reasoning_tokens=4),
    ),
    "xai: reasoning beside the completion": (
        {
            "prompt_tokens": 10120,
            "completion_tokens": 1499,
            "total_tokens": 14428,
            "prompt_tokens_details": {"cached_tokens": 128},
            "completion_tokens_details": {"reasoning_tokens": 2809},
        },
        Usage(prompt_tokens=10120, completion_tokens=4308, cached_tokens=128, reasoning_tokens=2809),
    ),
    "xai: little reasoning": (
        {
            "prompt_tokens": 10,
            "completion_tokens": 20,
            "total_tokens": 35,
            "completion_tokens_details": {"reasoning_tokens": 5},
        },
        Usage(prompt_tokens=10, completion_tokens=25, reasoning_tokens=5),
    ),
    "google's own openai endpoint: thoughts in the total only": (
        {"prompt_tokens": 20, "completion_tokens": 198, "total_tokens": 623},
        Usage(prompt_tokens=20, completion_tokens=603, reasoning_tokens=405),
    ),
    "anthropic's own": (
        {
            "input_tokens": 10,
            "output_tokens": 5,
            "cache_read_input_tokens": 100,
            "cache_creation_input_tokens": 30,
            "cache_creation": {"ephemeral_5m_input_tokens": 10, "ephemeral_1h_input_tokens": 20},
            "service_tier": "priority",
        },
        Usage(
            prompt_tokens=140,
            completion_tokens=5,
            cached_tokens=100,
            cache_write_tokens=30,
            cache_write_1h_tokens=20,
            tier="priority",
        ),
    ),
    "a split of writes that does not add up": (
        {
            "prompt_tokens": 400,
            "completion_tokens": 5,
            "prompt_tokens_details": {
                "cache_creation_tokens": 150,
                "cache_creation_token_details": {"ephemeral_5m_input_tokens": 60, "ephemeral_1h_input_tokens": 40},
            },
        },
        Usage(
            prompt_tokens=400, completion_tokens=5, cache_write_tokens=150, cache_write_1h_tokens=40, incomplete=True
        ),
    ),
    "a cache counted beside the prompt, by the total": (
        {
            "prompt_tokens": 1000,
            "completion_tokens": 5,
            "total_tokens": 1405,
            "cache_read_input_tokens": 400,
        },
        Usage(prompt_tokens=1400, completion_tokens=5, cached_tokens=400),
    ),
    "openai with audio": (
        {
            "prompt_tokens": 100,
            "completion_tokens": 80,
            "total_tokens": 180,
            "prompt_tokens_details": {"cached_tokens": 30, "audio_tokens": 80},
            "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 60},
        },
        Usage(
            prompt_tokens=100,
            completion_tokens=80,
            cached_tokens=30,
            audio_input_tokens=70,
            audio_output_tokens=60,
        ),
    ),
    "gemini through litellm, tools' own tokens not billed": (
        {
            "prompt_tokens": 50,
            "completion_tokens": 40,
            "total_tokens": 190,
            "prompt_tokens_details": {"image_tokens": 20, "text_tokens": 30, "tool_use_tokens": 100},
            "completion_tokens_details": {"reasoning_tokens": 25, "image_tokens": 5},
        },
        Usage(
            prompt_tokens=50, completion_tokens=40, image_input_tokens=20, reasoning_tokens=25, image_output_tokens=5
        ),
    ),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_reads(shape: str) -> None:
    reported, usage = SHAPES[shape]
    assert read_usage(reported) == usage


@pytest.mark.parametrize("nothing", [None, {}, [], "12", {"prompt_tokens": None}, {"prompt_tokens": True}])
def test_what_counts_nothing_is_no_usage(nothing: Any) -> None:
    assert read_usage(nothing) is None


@pytest.mark.parametrize(
    ("timings", "busy_s"),
    [
        ({"prompt_ms": 250.5, "predicted_ms": 1000}, 1.2505),
        ({"prompt_ms": None, "predicted_ms": 500}, 0.5),
        ({"prompt_ms": 250.5, "predicted_ms": 1000, "busy_seconds": 0.4}, 0.4),
        ({"prompt_ms": 250.5, "predicted_ms": 1000, "busy_seconds": 0.0}, 1.2505),
        ({"prompt_ms": -1}, None),
        ("soon", None),
        (None, None),
    ],
)
def test_llama_cpp_says_how_long_it_computed(timings: Any, busy_s: float | None) -> None:
    usage = read_usage({"prompt_tokens": 1, "completion_tokens": 1}, timings)
    assert usage is not None
    assert usage.busy_s == (pytest.approx(busy_s) if busy_s is not None else None)


def test_llama_cpp_counts_in_its_timings_where_there_is_no_usage() -> None:
    timings = {"cache_n": 30, "prompt_n": 12, "prompt_ms": 10, "predicted_n": 7, "predicted_ms": 90}
    assert read_usage(None, timings) == Usage(prompt_tokens=42, completion_tokens=7, cached_tokens=30, busy_s=0.1)
    assert read_usage(None, {"prompt_ms": 10}) is None


@pytest.mark.parametrize(
    ("said", "tier"),
    [("default", ""), ("auto", ""), ("standard", ""), ("Priority", "priority"), ("flex", "flex"), (7, ""), (None, "")],
)
def test_the_tier_that_answered(said: Any, tier: str) -> None:
    usage = read_usage({"prompt_tokens": 1, "completion_tokens": 1}, tier=said)
    assert usage is not None
    assert usage.tier == tier


def test_streamed_usage_is_the_maximum_and_not_the_sum() -> None:
    first = Usage(prompt_tokens=10, completion_tokens=1, cached_tokens=4, busy_s=0.5)
    second = Usage(prompt_tokens=10, completion_tokens=7)
    assert merged(first, second) == Usage(prompt_tokens=10, completion_tokens=7, cached_tokens=4, busy_s=0.5)
    assert merged(None, second) is second
    assert merged(first, None) is first
    assert merged(None, None) is None
