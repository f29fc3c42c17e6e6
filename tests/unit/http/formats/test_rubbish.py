"""Whatever a client sends is read or refused as its mistake; whatever an upstream says has a form in each format."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.cache.keys import cache_context
from gateway.errors import InvalidRequest
from gateway.features import extract, prompt_texts
from gateway.http.formats import completions, messages, responses
from gateway.http.formats.exchange import Format
from gateway.prompt_bound import prompt_bound
from gateway.types import Principal
from tests.unit.http.formats.test_replies import anthropic, legacy, openai

WORDS = (
    *("text", "image", "document", "tool_use", "tool_result", "thinking", "message", "function_call", "reasoning"),
    *("function_call_output", "input_text", "input_image", "output_text", "refusal", "function", "custom", "auto"),
    *(
        "any",
        "tool",
        "none",
        "required",
        "enabled",
        "user",
        "assistant",
        "system",
        "json_schema",
        "base64",
        "url",
        "\ud7ff",
    ),
)
NAMES = (
    *("type", "role", "content", "text", "id", "name", "input", "output", "arguments", "call_id", "tool_use_id"),
    *("source", "data", "media_type", "url", "image_url", "is_error", "cache_control", "signature", "schema", "format"),
    *("effort", "budget_tokens", "user_id", "input_schema", "parameters", "include_usage"),
)
FIELDS = (
    *("system", "stop_sequences", "tools", "tool_choice", "thinking", "output_config", "metadata", "stream", "stop"),
    *("temperature", "top_p", "top_k", "service_tier", "cache_control", "instructions", "text", "reasoning", "include"),
    *("parallel_tool_calls", "top_logprobs", "logprobs", "n", "echo", "best_of", "suffix", "user", "stream_options"),
)
scalars = st.none() | st.booleans() | st.integers() | st.floats(-9, 9) | st.sampled_from(WORDS) | st.text(max_size=4)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4),
    max_leaves=5,
)
blocks = st.dictionaries(st.sampled_from(NAMES), values, max_size=5)
turns = st.lists(
    st.fixed_dictionaries(
        {
            "role": st.sampled_from(("user", "assistant", "system", "tool")) | scalars,
            "content": values | st.lists(blocks),
        },
        optional={"type": st.sampled_from(WORDS), "call_id": scalars, "output": values},
    )
    | blocks,
    max_size=4,
)
bodies = st.builds(
    lambda known, more: {"model": "auto", "max_tokens": 5} | more | known,
    st.fixed_dictionaries({"messages": turns | values, "input": turns | values, "prompt": values}),
    st.dictionaries(st.sampled_from(FIELDS), values | turns, max_size=4),
)


@pytest.mark.parametrize("form", [messages.MESSAGES, responses.RESPONSES, completions.COMPLETIONS])
@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(body=bodies)
def test_what_is_read_can_be_asked_and_what_cannot_is_refused(form: Format, body: dict[str, Any]) -> None:
    try:
        request = form.read(json.dumps(body).encode(), {}, "req_1").request
    except InvalidRequest:
        return
    extract(request, Principal(key_id="k"), default_max_tokens=10)
    prompt_bound(request)
    cache_context(request, Principal(key_id="k"), scope="key", local_only=False, embedder="e")
    assert all(isinstance(text, str) for text in prompt_texts(request)[0])
    assert {message["role"] for message in request.messages} <= {"user", "assistant", "system", "developer", "tool"}


@pytest.mark.parametrize("form", [messages.MESSAGES, responses.RESPONSES, completions.COMPLETIONS])
@pytest.mark.parametrize(
    "raw", [b"", b"null", b"[]", b'"a"', b"{", b"\xff", b'{"model":"auto"}', b'{"model":1}', b'{"model":"a","a":1e999}']
)
def test_what_is_no_request_is_refused(form: Format, raw: bytes) -> None:
    with pytest.raises(InvalidRequest):
        form.read(raw, {}, "req_1")


said = st.fixed_dictionaries(
    {},
    optional={
        "content": values,
        "refusal": values,
        "reasoning_content": values,
        "thinking_blocks": values,
        "tool_calls": values
        | st.lists(st.fixed_dictionaries({"function": values | blocks}, optional={"index": scalars, "id": scalars})),
    },
)
choices = st.fixed_dictionaries(
    {"message": said, "delta": said},
    optional={"index": scalars, "finish_reason": scalars, "logprobs": values, "stop_reason": values},
)
replies = st.fixed_dictionaries(
    {"choices": st.lists(choices, max_size=2)},
    optional={"usage": values, "model": values, "created": values, "service_tier": values},
)


@pytest.mark.parametrize("exchange", [anthropic, openai, legacy])
@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(reply=replies)
def test_any_reply_has_a_form(exchange: Any, reply: dict[str, Any]) -> None:
    data = json.dumps(reply).encode()
    assert isinstance(json.loads(exchange().whole(data)), dict)
    told = exchange()
    told.event(data)
    assert told.event(data) + told.end(complete=True)
