"""OpenAI's wire format: what is sent, what is made of what comes back."""

from typing import Any

import msgspec
import pytest

from gateway.backends.wire import ReplyStream, read_reply, request_body
from gateway.errors import UpstreamBroken, UpstreamUnavailable
from gateway.types import ChatRequest, Chunk, Usage
from tests.unit.backends.support import chat


def from_bytes(body: bytes, *, stream: bool = False) -> ChatRequest:
    fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    return ChatRequest(id="r", model="auto", messages=[], fields=fields, stream=stream)


def test_every_field_but_the_model_keeps_its_bytes_and_place() -> None:
    body = b'{"x_new":{"a":[1.50, 2e3,"\\u00e9"]},"model":"auto","messages":[ ],"seed":12345678901234567890}'
    assert request_body(from_bytes(body), "gpt-4o") == body.replace(b'"auto"', b'"gpt-4o"')


@pytest.mark.parametrize(
    ("options", "sent"),
    [
        (None, {"include_usage": True}),
        ({"include_usage": False, "include_obfuscation": False}, {"include_usage": True, "include_obfuscation": False}),
        ([], {"include_usage": True}),
    ],
)
def test_usage_is_always_asked_of_a_stream(options: Any, sent: Any) -> None:
    extra = {} if options is None else {"stream_options": options}
    assert msgspec.json.decode(request_body(chat(stream=True, **extra), "m"))["stream_options"] == sent
    assert "stream_options" not in msgspec.json.decode(request_body(chat(), "m"))


def test_leaves_out_what_the_target_cannot_take() -> None:
    sent = msgspec.json.decode(request_body(chat(stream=True, user="u", seed=1), "m", ("user", "stream_options")))
    assert set(sent) == {"model", "messages", "stream", "seed"}


def test_a_plain_reply_is_one_final_chunk_with_upstreams_bytes() -> None:
    body = b'{"choices":[{"index":0,"message":{"content":"hi"},"finish_reason":"stop"}], "usage":{"prompt_tokens":1}}'
    usage = Usage(prompt_tokens=1)
    assert read_reply(body) == Chunk(data=body, text="hi", finish_reason="stop", usage=usage, final=True)


@pytest.mark.parametrize(
    ("message", "text", "calls"),
    [
        ({"content": None, "tool_calls": [{"id": "1"}]}, "", True),
        ({"content": None, "function_call": {"name": "f"}}, "", True),
        ({"content": "x", "tool_calls": [], "function_call": None}, "x", False),
        ({"content": [{"type": "text", "text": "a"}, {"type": "image"}, {"text": "b"}, 7]}, "ab", False),
        ({"content": 7}, "", False),
        (None, "", False),
    ],
)
def test_reads_text_and_tool_calls_leniently(message: Any, text: str, calls: bool) -> None:
    chunk = read_reply(msgspec.json.encode({"choices": [{"message": message, "finish_reason": None}]}))
    assert (chunk.text, chunk.tool_calls, chunk.finish_reason) == (text, calls, None)


def test_text_is_the_first_choices_and_an_empty_finish_reason_is_none() -> None:
    choices = [
        {"index": 1, "message": {"content": "second"}, "finish_reason": ""},
        {"index": 0, "message": {"content": "first"}, "finish_reason": "length"},
    ]
    chunk = read_reply(msgspec.json.encode({"choices": choices}))
    assert (chunk.text, chunk.finish_reason) == ("first", "length")


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"choices":{}}', b"{}", b"\xff\xfe", b"[" * 100_000])
def test_a_body_that_is_no_completion_is_broken(body: bytes) -> None:
    with pytest.raises(UpstreamBroken):
        read_reply(body)


def test_an_error_under_a_status_of_success_is_not_an_answer() -> None:
    with pytest.raises(UpstreamUnavailable, match="no capacity") as caught:
        read_reply(b'{"error":{"message":"no capacity","code":503}}')
    assert caught.value.upstream_status == 503


def play(*parts: bytes, end: bool = True) -> list[Chunk]:
    stream = ReplyStream()
    chunks: list[Chunk] = []
    for part in [*parts, *([b""] if end else [])]:
        if not stream.done:
            chunks += stream.feed(part)
    return chunks


def event(**fields: Any) -> bytes:
    return b"data: " + msgspec.json.encode(fields) + b"\n\n"


def delta(text: str, finish: str | None = None, **fields: Any) -> bytes:
    return event(choices=[{"index": 0, "delta": {"content": text}, "finish_reason": finish}], **fields)


COUNTED = {"prompt_tokens": 3, "completion_tokens": 2}


def test_a_stream_gives_a_chunk_an_event_with_upstreams_bytes() -> None:
    trailing = event(choices=[], usage=COUNTED)
    chunks = play(delta("Hel"), delta("lo") + delta("", "stop"), trailing + b"data: [DONE]\n\n")
    assert [chunk.text for chunk in chunks] == ["Hel", "lo", "", ""]
    assert [chunk.finish_reason for chunk in chunks] == [None, None, "stop", None]
    assert [chunk.usage_only for chunk in chunks] == [False, False, False, True]
    assert chunks[3].usage == Usage(prompt_tokens=3, completion_tokens=2)
    assert b"data: " + chunks[3].data + b"\n\n" == trailing


@pytest.mark.parametrize("at", range(3))
def test_usage_is_found_wherever_it_stands_and_never_shrinks(at: int) -> None:
    reports: list[dict[str, Any]] = [{}, {}, {}]
    reports[at] = {"usage": COUNTED}
    last = delta("", "stop", usage={"prompt_tokens": 3, "completion_tokens": 0})
    parts = [delta("a", **fields) for fields in reports] + [last, b"data: [DONE]\n\n"]
    assert [chunk.usage for chunk in play(*parts) if chunk.usage][-1] == Usage(prompt_tokens=3, completion_tokens=2)


def test_an_event_over_several_lines_travels_on_as_one() -> None:
    chunks = play(b'data: {"choices":[{"delta":{"content":"hi"},\ndata: "finish_reason":"stop"}]}\n\n')
    assert [chunk.text for chunk in chunks] == ["hi"]
    assert b"\n" not in chunks[0].data


def test_events_of_other_kinds_travel_on() -> None:
    assert play(event(type="ping"), delta("", "stop"))[0].data == b'{"type":"ping"}'


def test_a_stream_that_finished_needs_no_done() -> None:
    assert play(delta("hi", "stop"))[-1].finish_reason == "stop"


@pytest.mark.parametrize(
    "parts",
    [
        [delta("hi")],
        [delta("hi"), b"data: {no json\n\n"],
        [delta("hi"), b'data: ["no object"]\n\n'],
        [delta("hi"), b"data: " + b"x" * (1 << 21)],
        [delta("hi"), delta("cut", "stop")[:-9]],
        [b"data: [DONE]\n\n"],
        [],
    ],
)
def test_a_stream_that_ends_early_or_turns_to_garbage_is_broken(parts: list[bytes]) -> None:
    with pytest.raises(UpstreamBroken):
        play(*parts)


def test_what_came_before_the_garbage_is_given_out() -> None:
    stream = ReplyStream()
    chunks: list[Chunk] = []
    with pytest.raises(UpstreamBroken):
        chunks.extend(stream.feed(delta("hi") + b"data: garbage\n\n"))
    assert [chunk.text for chunk in chunks] == ["hi"]


@pytest.mark.parametrize(
    ("error", "said"),
    [({"message": "overloaded", "code": 529}, "overloaded"), ("oops", "oops"), ({}, None), ({"code": "x"}, "upstream")],
)
def test_an_error_event_ends_the_stream(error: Any, said: str | None) -> None:
    chunks = play(delta("hi"), event(error=error) + delta("more", "stop"))
    if said is None:
        assert [chunk.error for chunk in chunks] == ["", "", ""]
    else:
        assert len(chunks) == 2
        assert said in chunks[1].error
        assert chunks[1].data == msgspec.json.encode({"error": error})


def test_an_error_as_the_first_event_leaves_the_way_to_another_target_open() -> None:
    with pytest.raises(UpstreamUnavailable, match="overloaded"):
        play(event(error={"message": "overloaded"}))
