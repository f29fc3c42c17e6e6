"""Anthropic's requests as chats: what becomes of each field, and which are refused by name."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from gateway.cache.keys import cache_context
from gateway.errors import InvalidRequest, Overloaded, Unauthenticated
from gateway.http.formats import messages
from gateway.types import ChatRequest, Principal

MARK = {"type": "ephemeral"}
WEATHER = {"name": "weather", "description": "Of a city.", "input_schema": {"type": "object", "properties": {}}}


def chat(*turns: Any, **body: Any) -> ChatRequest:
    said = list(turns) or [{"role": "user", "content": "hi"}]
    whole = {"model": "auto", "max_tokens": 50, "messages": said, **body}
    return messages.read(json.dumps(whole).encode(), {}, "req_1").request


def sent(*turns: Any, **body: Any) -> dict[str, Any]:
    """What a provider of chats would be sent."""
    return {name: msgspec.json.decode(raw) for name, raw in chat(*turns, **body).fields.items()}


def user(*blocks: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(blocks)}


def assistant(*blocks: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": list(blocks)}


def text(words: str, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": words, **more}


def test_the_bound_on_the_answer_is_left_to_be_named_as_each_provider_names_it() -> None:
    request = chat()
    assert request.max_tokens == 50
    assert request.fields.keys() == {"model", "messages"}


def test_a_system_prompt_comes_first_as_a_text_or_as_blocks() -> None:
    hi = {"role": "user", "content": "hi"}
    assert sent(hi, system="Be brief.")["messages"] == [{"role": "system", "content": "Be brief."}, hi]
    assert sent(hi, system=[text("Be brief.")])["messages"][0]["content"] == "Be brief."
    blocks = [text("Be brief."), text("Be kind.", cache_control=MARK)]
    assert sent(hi, system=blocks)["messages"][0]["content"] == [text("Be brief."), text("Be kind.")]


def test_breakpoints_of_a_prompt_cache_are_for_anthropic_alone() -> None:
    request = chat(user(text("long", cache_control=MARK)), system=[text("Be brief.", cache_control=MARK)])
    assert request.messages == [
        {"role": "system", "content": [text("Be brief.", cache_control=MARK)]},
        {"role": "user", "content": [text("long", cache_control=MARK)]},
    ]
    assert b"cache_control" not in bytes(request.fields["messages"])


def test_a_breakpoint_at_the_end_of_the_body_is_at_the_end_of_the_last_turn() -> None:
    assert chat(cache_control=MARK).messages[-1]["content"] == [text("hi", cache_control=MARK)]


def test_images_come_as_urls() -> None:
    held = {"type": "base64", "media_type": "image/png", "data": "aGk="}
    there = {"type": "url", "url": "https://example.org/a.png"}
    images = [{"type": "image", "source": source} for source in (held, there)]
    assert sent(user(text("what?"), *images))["messages"] == [
        user(
            text("what?"),
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}},
            {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}},
        )
    ]


def test_documents_are_files_or_text() -> None:
    pdf = {
        "type": "document",
        "title": "a.pdf",
        "source": {"type": "base64", "media_type": "application/pdf", "data": "x"},
    }
    note = {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "words"}}
    file = {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,x"}}
    assert sent(user(pdf, note))["messages"] == [user(file, text("words"))]


def test_calls_and_results_keep_their_ids_and_stand_where_a_chat_wants_them() -> None:
    calls = [
        {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Oslo"}},
        {"type": "tool_use", "id": "toolu_2", "name": "weather", "input": {}},
    ]
    results = [
        {"type": "tool_result", "tool_use_id": "toolu_1", "content": [text("rain")]},
        {"type": "tool_result", "tool_use_id": "toolu_2", "content": "no city", "is_error": True},
    ]
    said = sent(assistant(text("Let me see."), *calls), user(*results, text("So?")))["messages"]
    functions = [
        {"name": "weather", "arguments": '{"city":"Oslo"}'},
        {"name": "weather", "arguments": "{}"},
    ]
    assert said == [
        {
            "role": "assistant",
            "content": "Let me see.",
            "tool_calls": [
                {"id": f"toolu_{number}", "type": "function", "function": function}
                for number, function in enumerate(functions, 1)
            ],
        },
        {"role": "tool", "tool_call_id": "toolu_1", "content": "rain"},
        {"role": "tool", "tool_call_id": "toolu_2", "content": "Error: no city"},
        {"role": "user", "content": "So?"},
    ]


def test_images_that_a_tool_returned_are_shown_by_the_user_after_all_results() -> None:
    image = {"type": "image", "source": {"type": "url", "url": "https://example.org/a.png"}}
    first = {"type": "tool_result", "tool_use_id": "toolu_1", "content": [text("Here: "), image]}
    said = sent(user(first, {"type": "tool_result", "tool_use_id": "toolu_2"}))["messages"]
    assert [message["role"] for message in said] == ["tool", "tool", "user"]
    assert said[0]["content"].startswith("Here: ")
    assert said[1]["content"] == ""
    assert [part["type"] for part in said[2]["content"]] == ["text", "image_url"]
    assert "toolu_1" in said[2]["content"][0]["text"]


def test_thoughts_go_back_to_anthropic_alone_and_only_as_it_signed_them() -> None:
    signed = {"type": "thinking", "thinking": "hm", "signature": "s"}
    request = chat(
        user(text("q")), assistant({"type": "thinking", "thinking": "?", "signature": ""}, signed, text("a"))
    )
    assert request.messages[1] == {"role": "assistant", "content": "a", "thinking_blocks": [signed]}
    assert msgspec.json.decode(request.fields["messages"])[1] == {"role": "assistant", "content": "a"}


def test_tools_and_the_choice_among_them() -> None:
    body = sent(tools=[WEATHER | {"cache_control": MARK, "strict": True}], tool_choice={"type": "any"})
    function = {"name": "weather", "parameters": WEATHER["input_schema"], "description": "Of a city.", "strict": True}
    assert body["tools"] == [{"type": "function", "function": function}]
    assert body["tool_choice"] == "required"
    for choice, wanted in (
        ({"type": "auto"}, "auto"),
        ({"type": "none"}, "none"),
        ({"type": "tool", "name": "weather"}, {"type": "function", "function": {"name": "weather"}}),
    ):
        assert sent(tools=[WEATHER], tool_choice=choice)["tool_choice"] == wanted
    alone = sent(tools=[WEATHER], tool_choice={"type": "auto", "disable_parallel_tool_use": True})
    assert alone["parallel_tool_calls"] is False
    assert "tool_choice" not in sent(tool_choice={"type": "auto"})


def test_what_samples_and_who_asks() -> None:
    name = "user_" + "x" * 100
    request = chat(
        stop_sequences=["END"], temperature=0.2, top_p=0.9, top_k=40, metadata={"user_id": name}, service_tier="auto"
    )
    body = {
        field: msgspec.json.decode(raw) for field, raw in request.fields.items() if field not in ("model", "messages")
    }
    wanted = {"stop": ["END"], "temperature": 0.2, "top_p": 0.9, "top_k": 40, "service_tier": "auto"}
    assert body == wanted | {"user": name[:64]}, "OpenAI refuses a longer one"
    assert request.user == name
    assert sent(service_tier="standard_only")["service_tier"] == "default"


@pytest.mark.parametrize(
    ("body", "effort"),
    [
        ({"thinking": {"type": "enabled", "budget_tokens": 20_000}}, "high"),
        ({"thinking": {"type": "enabled", "budget_tokens": 1_024}}, "low"),
        ({"thinking": {"type": "adaptive"}}, None),
        ({"thinking": {"type": "adaptive"}, "output_config": {"effort": "max"}}, "high"),
        ({"thinking": {"type": "disabled"}}, None),
    ],
)
def test_thinking_is_an_effort(body: dict[str, Any], effort: str | None) -> None:
    assert sent(**body).get("reasoning_effort") == effort


def test_a_schema_for_the_answer() -> None:
    schema = {"type": "object", "properties": {}}
    form = sent(output_config={"format": {"type": "json_schema", "schema": schema}})["response_format"]
    assert form == {"type": "json_schema", "json_schema": {"name": "output", "schema": schema, "strict": True}}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [user()], "cache_control": MARK}, "messages[0].content"),
        ({"messages": [user({"type": "text"})]}, "messages[0].content[0].text"),
        ({"messages": [user({"type": "image", "source": {"type": "file"}})]}, "messages[0].content[0].source.type"),
        ({"messages": [user({"type": "search_result"})]}, "messages[0].content[0].type"),
        ({"messages": [user({"type": "tool_result", "content": "x"})]}, "messages[0].content[0].tool_use_id"),
        ({"messages": [assistant({"type": "tool_use", "name": "x"})]}, "messages[0].content[0].id"),
        ({"tools": [{"type": "web_search_20260318", "name": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"name": "x"}]}, "tools[0].input_schema"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"tool_choice": {"type": "some"}, "tools": [WEATHER]}, "tool_choice.type"),
        ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens"),
        ({"output_config": {"effort": "most"}}, "output_config.effort"),
        ({"output_config": {"format": {"type": "xml"}}}, "output_config.format"),
        ({"mcp_servers": [{"name": "x"}]}, "mcp_servers"),
        ({"inference_geo": "us"}, "inference_geo"),
        ({"thread": {"type": "continue", "previous_message_id": "msg_1"}}, "thread"),
        ({"temperature": "hot"}, "temperature"),
        ({"system": 7}, "system"),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(body: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        chat(**{"messages": [{"role": "user", "content": "hi"}], **body})
    assert refused.value.param == param


def _key(request: ChatRequest) -> str:
    principal = Principal(key_id="k")
    return cache_context(request, principal, scope="key", local_only=False, embedder="e").exact


@pytest.mark.parametrize(
    "body",
    [
        {"max_tokens": 51},
        {"thinking": {"type": "adaptive"}},
        {"thinking": {"type": "enabled", "budget_tokens": 21_000}},
        {"never_heard_of": 1},
        {"tools": [WEATHER | {"input_examples": [{}]}]},
        {"messages": [user(text("hi", citations=[{"type": "x"}]))]},
        {"messages": [user({"type": "document", "context": "b", "source": {"type": "text", "data": "hi"}})]},
    ],
)
def test_what_is_lost_on_the_way_still_keeps_stored_answers_apart(body: dict[str, Any]) -> None:
    base: dict[str, Any] = {"thinking": {"type": "enabled", "budget_tokens": 20_000}, "tools": [WEATHER]}
    documents = [user({"type": "document", "context": "a", "source": {"type": "text", "data": "hi"}})]
    base["messages"] = documents if "context" in str(body) else [user(text("hi"))]
    whole = {"model": "auto", "max_tokens": 50, **base}
    read = [messages.read(json.dumps(one).encode(), {}, "req_1").request for one in (whole, whole | body)]
    assert _key(read[0]) != _key(read[1])


def test_who_asks_and_how_does_not_keep_them_apart_and_questions_are_compared() -> None:
    same = [chat(metadata={"user_id": "a"}), chat(metadata={"user_id": "b"}, stream=True)]
    assert _key(same[0]) == _key(same[1])
    partitions = {
        cache_context(request, Principal(key_id="k"), scope="key", local_only=False, embedder="e").partition
        for request in (chat(user(text("one"))), chat({"role": "user", "content": "another"}))
    }
    assert len(partitions) == 1


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (InvalidRequest("no", param="x"), "invalid_request_error"),
        (Unauthenticated("no"), "authentication_error"),
        (Overloaded("no"), "overloaded_error"),
    ],
)
def test_errors_are_anthropics(error: Any, kind: str) -> None:
    told = msgspec.json.decode(messages.refusal(error, "req_1"))
    assert (told["type"], told["request_id"]) == ("error", "req_1")
    assert told["error"].pop("details") == {"error_code": error.code}
    assert told["error"] == {"type": kind, "message": "no", "param": error.param, "code": error.code}


@pytest.mark.parametrize(("status", "kind"), [(418, "invalid_request_error"), (500, "api_error"), (502, "api_error")])
def test_any_status_has_a_type(status: int, kind: str) -> None:
    assert messages.error_type(status) == kind
