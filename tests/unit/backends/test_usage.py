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
    "parts over the whole": (
        {
            "prompt_tokens": 9,
            "completion_tokens": 1,
            "prompt_cache_hit_tokens": 12,
            "cache_creation_input_tokens": 5,
            "completion_tokens_details": {"reasoning_tokens": 4},
        },
        Usage(prompt_tokens=9, completion_tokens=1, cached_tokens=9, reasoning_tokens=1),
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
        ({"prompt_ms": -1}, None),
        ("soon", None),
        (None, None),
    ],
)
def test_llama_cpp_says_how_long_it_computed(timings: Any, busy_s: float | None) -> None:
    usage = read_usage({"prompt_tokens": 1, "completion_tokens": 1}, timings)
    assert usage is not None
    assert usage.busy_s == (pytest.approx(busy_s) if busy_s is not None else None)


def test_streamed_usage_is_the_maximum_and_not_the_sum() -> None:
    first = Usage(prompt_tokens=10, completion_tokens=1, cached_tokens=4, busy_s=0.5)
    second = Usage(prompt_tokens=10, completion_tokens=7)
    assert merged(first, second) == Usage(prompt_tokens=10, completion_tokens=7, cached_tokens=4, busy_s=0.5)
    assert merged(None, second) is second
    assert merged(first, None) is first
    assert merged(None, None) is None
