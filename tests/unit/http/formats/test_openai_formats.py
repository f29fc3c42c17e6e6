"""OpenAI's responses and legacy completions as chats: what becomes of each field, and which are refused by name."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from gateway.cache.keys import cache_context
from gateway.errors import InvalidRequest
from gateway.http.formats import completions, responses
from gateway.types import ChatRequest, Principal

WEATHER = {"type": "function", "name": "weather", "description": "Of a city.", "parameters": {}, "strict": True}
CALL = {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "weather", "arguments": "{}"}
OUTPUT = {"type": "function_call_output", "call_id": "call_1", "output": "rain"}
IMAGE = {"type": "input_image", "image_url": "https://example.org/a.png", "detail": "low"}


def response(given: Any = "hi", **body: Any) -> ChatRequest:
    return responses.read(json.dumps({"model": "auto", "input": given, **body}).encode(), {}, "req_1").request


def legacy(prompt: Any = "hi", **body: Any) -> ChatRequest:
    return completions.read(json.dumps({"model": "auto", "prompt": prompt, **body}).encode(), {}, "req_1").request


def sent(request: ChatRequest) -> dict[str, Any]:
    """What a provider of chats would be sent."""
    return {name: msgspec.json.decode(raw) for name, raw in request.fields.items()}


def test_text_and_instructions() -> None:
    request = response("hi", instructions="Be brief.", max_output_tokens=50)
    assert request.messages == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}]
    assert (request.max_tokens, sent(request)) == (50, {"model": "auto", "messages": request.messages})


def test_items_are_turns_and_a_turns_calls_are_one_message() -> None:
    parts = [{"type": "input_text", "text": "what?"}, IMAGE, {"type": "input_file", "filename": "a", "file_data": "d"}]
    second = CALL | {"call_id": "call_2"}
    said = [{"type": "output_text", "text": "Let me see.", "annotations": []}]
    items = [
        {"role": "developer", "content": "Be kind."},
        {"type": "message", "role": "user", "content": parts},
        {"type": "reasoning", "id": "rs_1", "summary": []},
        {"type": "message", "role": "assistant", "id": "msg_1", "status": "completed", "content": said},
        CALL,
        second,
        OUTPUT | {"output": [{"type": "input_text", "text": "see: "}, IMAGE]},
        OUTPUT | {"call_id": "call_2"},
    ]
    function = {"name": "weather", "arguments": "{}"}
    image = {"type": "image_url", "image_url": {"url": IMAGE["image_url"], "detail": "low"}}
    file = {"type": "file", "file": {"filename": "a", "file_data": "d"}}
    calls = [{"id": call_id, "type": "function", "function": function} for call_id in ("call_1", "call_2")]
    *before, shown, other, seen = response(items).messages
    assert before == [
        {"role": "developer", "content": "Be kind."},
        {"role": "user", "content": [{"type": "text", "text": "what?"}, image, file]},
        {"role": "assistant", "content": "Let me see.", "tool_calls": calls},
    ]
    assert (shown["role"], shown["tool_call_id"], shown["content"][:5]) == ("tool", "call_1", "see: ")
    assert other == {"role": "tool", "tool_call_id": "call_2", "content": "rain"}
    assert (seen["role"], seen["content"][1]) == ("user", image), "after all results: a chat wants them together"


def test_words_after_a_call_do_not_part_it_from_its_result() -> None:
    said = response([CALL, {"role": "assistant", "content": "Let me see."}, OUTPUT]).messages
    assert [message["role"] for message in said] == ["assistant", "tool"]
    assert (said[0]["content"], said[0]["tool_calls"][0]["id"]) == ("Let me see.", "call_1")


def test_tools_formats_and_the_rest() -> None:
    form = {"type": "json_schema", "name": "city", "schema": {"type": "object"}, "strict": True}
    request = response(
        *("hi",),
        tools=[WEATHER],
        tool_choice={"type": "function", "name": "weather"},
        parallel_tool_calls=False,
        text={"format": form, "verbosity": "low"},
        reasoning={"effort": "high", "summary": "auto"},
        temperature=0.5,
        metadata={"a": "b"},
        store=True,
        safety_identifier="u",
        top_logprobs=3,
        service_tier="flex",
    )
    assert sent(request) == {
        "model": "auto",
        "messages": [{"role": "user", "content": "hi"}],
        "tools": [{"type": "function", "function": {name: WEATHER[name] for name in WEATHER if name != "type"}}],
        "tool_choice": {"type": "function", "function": {"name": "weather"}},
        "parallel_tool_calls": False,
        "response_format": {
            "type": "json_schema",
            "json_schema": {name: form[name] for name in form if name != "type"},
        },
        "verbosity": "low",
        "reasoning_effort": "high",
        "temperature": 0.5,
        "user": "u",
        "logprobs": True,
        "top_logprobs": 3,
        "service_tier": "flex",
    }
    assert (request.user, request.logprobs) == ("u", True)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [({"format": {"type": "text"}}, None), ({"format": {"type": "json_object"}}, {"type": "json_object"}), ({}, None)],
)
def test_other_formats(text: Any, wanted: Any) -> None:
    assert sent(response(text=text)).get("response_format") == wanted


def test_what_asks_for_nothing_is_not_sent() -> None:
    body = {"tools": [], "tool_choice": "auto", "parallel_tool_calls": True, "background": False, "conversation": None}
    assert sent(response(**body)).keys() == {"model", "messages"}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": ""}, "input"),
        ({"input": [{"type": "reasoning", "id": "rs_1", "summary": []}]}, "input"),
        ({"input": [{"role": "tool", "content": "x"}]}, "input[0].role"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type"),
        ({"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "x"}]}]}, "input[0].content[0]"),
        ({"input": [{"type": "function_call", "name": "x"}]}, "input[0].arguments"),
        ({"input": [{"type": "function_call_output", "call_id": "x"}]}, "input[0].output"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt"),
        ({"background": True}, "background"),
        ({"moderation": {"model": "omni-moderation-latest"}}, "moderation"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "function", "function": {"name": "x"}}]}, "tools[0].name"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": "some", "tools": [WEATHER]}, "tool_choice"),
        ({"tool_choice": {"type": "file_search"}, "tools": [WEATHER]}, "tool_choice.type"),
        ({"text": {"format": {"type": "xml"}}}, "text.format"),
        ({"reasoning": {"effort": 7}}, "reasoning.effort"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
    ],
)
def test_what_a_response_cannot_be_made_of_is_refused_by_name(body: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        response(**{"given": "hi", **body} if "input" not in body else {"given": body["input"]})
    assert refused.value.param == param


@pytest.mark.parametrize("prompt", ["Once", ["Once"]])
def test_a_prompt_is_one_message(prompt: Any) -> None:
    request = legacy(prompt, max_tokens=9, n=2, stop="\n", seed=7, top_k=4, best_of=1, echo=False, suffix=None)
    messages = [{"role": "user", "content": "Once"}]
    assert sent(request) == {"model": "auto", "messages": messages, "n": 2, "stop": "\n", "seed": 7, "top_k": 4}
    assert (request.max_tokens, request.n) == (9, 2)


def test_log_probabilities_are_asked_for_as_a_chat_asks() -> None:
    assert {"logprobs", "top_logprobs"}.isdisjoint(sent(legacy()))
    assert sent(legacy(logprobs=0))["logprobs"] is True
    assert sent(legacy(logprobs=3))["top_logprobs"] == 3


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": ["a", "b"]}, "prompt"),
        ({"prompt": [1, 2]}, "prompt"),
        ({"prompt": [[1, 2]]}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"suffix": "end"}, "suffix"),
        ({"echo": True}, "echo"),
        ({"best_of": 2}, "best_of"),
        ({"logprobs": True}, "logprobs"),
        ({"max_tokens": "many"}, "max_tokens"),
    ],
)
def test_what_a_completion_cannot_be_made_of_is_refused_by_name(body: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        legacy(**{"prompt": "hi", **body})
    assert refused.value.param == param


def _key(request: ChatRequest) -> str:
    principal = Principal(key_id="k")
    return cache_context(request, principal, scope="key", local_only=False, embedder="e").exact


def test_what_is_lost_on_the_way_still_keeps_stored_answers_apart() -> None:
    reasoning = {"type": "reasoning", "id": "rs_1", "summary": []}
    said = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "hi"}]
    asked = [
        response(said),
        response(said, max_output_tokens=50),
        response(said, truncation="auto"),
        response(said, include=["reasoning.encrypted_content"]),
        response([*said[:2], reasoning, said[2]]),
        legacy(),
        legacy(max_tokens=5),
        legacy(max_tokens=6),
    ]
    assert len({_key(request) for request in asked}) == len(asked)
    assert _key(response(said, metadata={"a": "b"}, user="u", store=False)) == _key(asked[0])
