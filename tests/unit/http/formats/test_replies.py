"""A chat's replies in other formats: what the shapes of real upstreams become, plain and streamed."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pytest

from gateway.http.formats import completions, messages, responses
from gateway.http.formats.exchange import Exchange

USAGE = {
    "prompt_tokens": 100,
    "completion_tokens": 20,
    "total_tokens": 120,
    "prompt_tokens_details": {"cached_tokens": 30, "cache_write_tokens": 10},
    "completion_tokens_details": {"reasoning_tokens": 5},
    "cost_usd": 0.0000001,
    "saved_usd": 0,
}
OSLO, ROME = '{"city": "Oslo"}', '{"city": "Rome"}'


def anthropic(**body: Any) -> Exchange:
    whole = {"model": "auto", "max_tokens": 50, "messages": [{"role": "user", "content": "hi"}], **body}
    return messages.read(json.dumps(whole).encode(), {}, "req_1")


def openai(**body: Any) -> Exchange:
    return responses.read(json.dumps({"model": "auto", "input": "hi", **body}).encode(), {}, "req_1")


def legacy(**body: Any) -> Exchange:
    return completions.read(json.dumps({"model": "auto", "prompt": "hi", **body}).encode(), {}, "req_1")


def plain(exchange: Exchange, message: Any, finish: str | None = "stop", **choice: Any) -> dict[str, Any]:
    choices = [{"index": 0, "message": message, "finish_reason": finish, **choice}]
    reply = {"id": "chatcmpl-1", "object": "chat.completion", "created": 7, "model": "m", "choices": choices}
    told: dict[str, Any] = json.loads(exchange.whole(json.dumps(reply | {"usage": USAGE}).encode()))
    return told


def streamed(
    exchange: Exchange, deltas: Iterable[Any], finish: str = "stop", *, complete: bool = True, **choice: Any
) -> list[dict[str, Any]]:
    """The events that a stream of these deltas becomes."""
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 7, "model": "m"}
    chunks: list[dict[str, Any]] = [
        {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas
    ]
    chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": finish, **choice}]})
    chunks.append({"choices": [], "usage": USAGE})
    data = [exchange.event(json.dumps(head | chunk).encode()) for chunk in chunks]
    return _events(b"".join((*data, exchange.end(complete=complete))))


def _events(data: bytes) -> list[dict[str, Any]]:
    found = []
    for event in data.decode().split("\n\n")[:-1]:
        name, said = event.split("\n")
        value = json.loads(said.removeprefix("data: "))
        assert name == f"event: {value['type']}"
        found.append(value)
    return found


def call(index: int | None, call_id: str | None, name: str | None, arguments: str) -> dict[str, Any]:
    function = {"name": name, "arguments": arguments} if name else {"arguments": arguments}
    made: dict[str, Any] = {"function": function} | ({"id": call_id, "type": "function"} if call_id else {})
    return {"tool_calls": [made if index is None else made | {"index": index}]}


def accumulated(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The blocks as a strict client builds them: one open at a time, each delta to the one that is open."""
    blocks: list[dict[str, Any]] = []
    open_block: int | None = None
    for event in events:
        if event["type"] == "content_block_start":
            assert open_block is None
            open_block = event["index"]
            assert open_block == len(blocks)
            blocks.append(dict(event["content_block"]) | {"json": ""})
        elif event["type"] == "content_block_delta":
            assert event["index"] == open_block
            fields = {"text_delta": "text", "thinking_delta": "thinking", "signature_delta": "signature"}
            kind = event["delta"]["type"]
            name = fields.get(kind, "json")
            blocks[-1][name] += event["delta"]["partial_json" if name == "json" else name]
        elif event["type"] == "content_block_stop":
            assert event["index"] == open_block
            open_block = None
    assert open_block is None
    return blocks


CALLED = [
    [call(0, "a", "weather", ""), call(0, None, None, OSLO), call(1, "b", "weather", ""), call(1, None, None, ROME)],
    [call(0, "a", "weather", OSLO), call(0, "b", "weather", ROME)],  # Google's endpoint
    [call(None, "a", "weather", OSLO), call(None, "b", "weather", ROME)],
    [call(0, "a", "weather", OSLO[:5]), call(1, "b", "weather", ROME[:4]), call(0, None, None, OSLO[5:]),
     call(1, None, None, ROME[4:])],
    [call(0, "a", "weather", OSLO), call(0, "a", None, ""), call(1, "b", "weather", ROME)],
]  # fmt: skip


@pytest.mark.parametrize("deltas", CALLED)
@pytest.mark.parametrize("finish", ["tool_calls", "stop"])
def test_calls_arrive_whole_and_in_order_whatever_way_upstream_tells_them(deltas: Any, finish: str) -> None:
    events = streamed(anthropic(), deltas, finish)
    blocks = accumulated(events)
    assert [(block["id"], block["name"], block["json"]) for block in blocks] == [
        ("a", "weather", OSLO),
        ("b", "weather", ROME),
    ]
    [ending] = [event for event in events if event["type"] == "message_delta"]
    assert ending["delta"]["stop_reason"] == "tool_use", "else a client would not run them"
    done = streamed(openai(), deltas, finish)[-1]["response"]
    assert [(item["call_id"], item["arguments"]) for item in done["output"]] == [("a", OSLO), ("b", ROME)]


def test_a_stream_of_thought_text_and_a_call() -> None:
    thinking = (
        {"reasoning_content": "hm"},
        {"thinking_blocks": [{"type": "thinking", "thinking": "", "signature": "s"}]},
    )
    deltas = [{"role": "assistant", "content": ""}, *thinking, {"content": "Let "}, {"content": "me."}]
    events = streamed(anthropic(), [*deltas, call(0, "a", "weather", OSLO)], "tool_calls")
    assert [event["type"] for event in events[:1] + events[-2:]] == ["message_start", "message_delta", "message_stop"]
    blocks = accumulated(events)
    assert [block["type"] for block in blocks] == ["thinking", "text", "tool_use"]
    assert (blocks[0]["thinking"], blocks[0]["signature"], blocks[1]["text"]) == ("hm", "s", "Let me.")
    assert events[0]["message"]["usage"]["input_tokens"] > 0
    assert (events[-2]["usage"]["input_tokens"], events[-2]["usage"]["output_tokens"]) == (60, 20)


def test_usage_is_counted_as_anthropic_counts_and_says_what_it_cost() -> None:
    told = plain(anthropic(), {"content": "hi"})
    assert told["usage"] == {
        "input_tokens": 60,
        "cache_creation_input_tokens": 10,
        "cache_read_input_tokens": 30,
        "output_tokens": 20,
        "output_tokens_details": {"thinking_tokens": 5},
        "service_tier": "standard",
        "cost_usd": 0.0000001,
        "saved_usd": 0,
    }


@pytest.mark.parametrize(
    ("message", "finish", "reason", "kinds"),
    [
        ({"content": "hi"}, "stop", "end_turn", ["text"]),
        ({"content": ""}, "stop", "end_turn", []),
        ({"content": "hi"}, "length", "max_tokens", ["text"]),
        ({"content": None, "refusal": "no"}, "stop", "refusal", ["text"]),
        ({"content": ""}, "content_filter", "refusal", []),
        ({"content": None, **call(None, "a", "weather", "")}, "tool_calls", "tool_use", ["tool_use"]),
        ({"content": None, **call(None, None, "weather", "{}")}, "stop", "tool_use", ["tool_use"]),
        ({"content": [{"type": "text", "text": "hi"}], "reasoning": "hm"}, None, "end_turn", ["thinking", "text"]),
    ],
)
def test_why_it_ended_and_of_what_it_is_made(message: Any, finish: str | None, reason: str, kinds: list[str]) -> None:
    told = plain(anthropic(), message, finish)
    assert (told["stop_reason"], [block["type"] for block in told["content"]]) == (reason, kinds)
    assert all(block["id"] and block["input"] == {} for block in told["content"] if block["type"] == "tool_use")


def test_the_sequence_that_ended_it_is_named_where_upstream_tells() -> None:
    told = plain(anthropic(stop_sequences=["END"]), {"content": "hi"}, stop_reason="END")
    assert (told["stop_reason"], told["stop_sequence"]) == ("stop_sequence", "END")
    ending = streamed(anthropic(stop_sequences=["END"]), [{"content": "hi"}], stop_reason="END")[-2]
    assert ending["delta"] == {"stop_reason": "stop_sequence", "stop_sequence": "END"}


@pytest.mark.parametrize("arguments", ["{no json", "[1]", "7"])
def test_arguments_that_are_no_object_are_not_lost(arguments: str) -> None:
    [block] = plain(anthropic(), {"content": None, **call(0, "a", "weather", arguments)})["content"]
    assert block["input"] == {"arguments": arguments}


def test_a_stream_that_breaks_off_ends_with_an_error_and_nothing_else() -> None:
    broken = json.dumps({"error": {"message": "gone", "code": "upstream_broken"}}).encode()
    chunk = json.dumps({"choices": [{"index": 0, "delta": {"content": "a"}}]}).encode()
    exchange = anthropic()
    events = _events(exchange.event(chunk) + exchange.event(broken) + exchange.end(complete=False))
    assert events[-1]["error"] == {"type": "api_error", "message": "gone", "code": "upstream_broken"}
    assert "message_stop" not in [event["type"] for event in events]
    exchange = openai()
    events = _events(exchange.event(chunk) + exchange.event(broken) + exchange.end(complete=False))
    assert (events[-1]["type"], events[-1]["response"]["status"]) == ("response.failed", "failed")
    assert events[-1]["response"]["error"] == {"code": "server_error", "message": "gone"}
    exchange = legacy()
    assert exchange.event(chunk) + exchange.event(broken) + exchange.end(complete=False) == (
        exchange.event(chunk) + b"data: " + broken + b"\n\n"
    )


def test_a_responses_events_are_numbered_and_paired_and_end_in_what_they_built() -> None:
    deltas = [{"reasoning_content": "hm"}, {"content": "Let "}, {"content": "me."}, call(0, "a", "weather", OSLO)]
    events = streamed(openai(metadata={"a": "b"}), deltas, "tool_calls")
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert [event["type"].removeprefix("response.") for event in events] == [
        *("created", "in_progress"),
        *("output_item.added", "content_part.added", "reasoning_text.delta", "reasoning_text.done"),
        *("content_part.done", "output_item.done"),
        *("output_item.added", "content_part.added", "output_text.delta", "output_text.delta", "output_text.done"),
        *("content_part.done", "output_item.done"),
        *("output_item.added", "function_call_arguments.delta", "function_call_arguments.done", "output_item.done"),
        "completed",
    ]
    response = events[-1]["response"]
    assert [item["type"] for item in response["output"]] == ["reasoning", "message", "function_call"]
    assert [event["item"] for event in events if event["type"] == "response.output_item.done"] == response["output"]
    assert response["output"][1]["content"][0]["text"] == "Let me."
    assert (response["metadata"], response["status"], response["store"]) == ({"a": "b"}, "completed", False)
    assert response["usage"]["input_tokens_details"] == {"cached_tokens": 30, "cache_write_tokens": 10}


@pytest.mark.parametrize(("finish", "reason"), [("length", "max_output_tokens"), ("content_filter", "content_filter")])
def test_a_response_that_was_cut_is_incomplete(finish: str, reason: str) -> None:
    told = plain(openai(), {"content": "a"}, finish)
    assert (told["status"], told["incomplete_details"]) == ("incomplete", {"reason": reason})
    assert told["output"][0]["status"] == "incomplete"
    last = streamed(openai(), [{"content": "a"}], finish)[-1]
    assert (last["type"], last["response"]["incomplete_details"]) == ("response.incomplete", {"reason": reason})


def test_a_refusal_is_a_part_of_its_own() -> None:
    [item] = plain(openai(), {"content": "Well. ", "refusal": "No."})["output"]
    assert [part["type"] for part in item["content"]] == ["output_text", "refusal"]


TOKENS = [
    {"token": "ab", "logprob": -0.1, "bytes": [97, 98], "top_logprobs": [{"token": "ab", "logprob": -0.1}]},
    {"token": "c", "logprob": -0.2, "bytes": [99], "top_logprobs": []},
]


def test_log_probabilities_in_each_formats_words() -> None:
    told = plain(legacy(logprobs=1), {"content": "abc"}, logprobs={"content": TOKENS})
    assert told["choices"][0] == {
        "index": 0,
        "text": "abc",
        "finish_reason": "stop",
        "logprobs": {
            "tokens": ["ab", "c"],
            "token_logprobs": [-0.1, -0.2],
            "top_logprobs": [{"ab": -0.1}, {}],
            "text_offset": [0, 2],
        },
    }
    assert (told["object"], told["id"], told["usage"]["cost_usd"]) == ("text_completion", "cmpl-1", 0.0000001)
    part = plain(openai(top_logprobs=1), {"content": "abc"}, logprobs={"content": TOKENS})["output"][0]["content"][0]
    assert part["logprobs"] == TOKENS


def test_offsets_go_on_from_event_to_event() -> None:
    exchange = legacy(logprobs=0)
    offsets = []
    for token in TOKENS:
        choice = {"index": 0, "delta": {"content": token["token"]}, "logprobs": {"content": [token]}}
        data = exchange.event(json.dumps({"choices": [choice]}).encode())
        offsets += json.loads(data.removeprefix(b"data: "))["choices"][0]["logprobs"]["text_offset"]
    assert offsets == [0, 2]
