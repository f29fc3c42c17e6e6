"""The forms of an answer: a stream folded into a plain body, a stored body streamed again."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.cache.replay import fold, plain_chunk, stream_chunks, usage_object, whole
from gateway.types import CacheEntry, Usage

USAGE = Usage(prompt_tokens=7, completion_tokens=3, cached_tokens=2, reasoning_tokens=1)
HEAD = {"id": "chatcmpl-1", "created": 5, "model": "big", "system_fingerprint": "fp", "service_tier": "default"}


def event(*choices: dict[str, Any], **more: Any) -> bytes:
    return msgspec.json.encode({**HEAD, "object": "chat.completion.chunk", "choices": list(choices), **more})


def piece(text: str | None = None, finish: str | None = None, index: int = 0, **delta: Any) -> dict[str, Any]:
    if text is not None:
        delta["content"] = text
    return {"index": index, "delta": delta, "finish_reason": finish, "logprobs": None}


def plain(*choices: dict[str, Any], **more: Any) -> bytes:
    body = {**HEAD, "object": "chat.completion", "choices": list(choices), "usage": usage_object(USAGE)}
    return msgspec.json.encode(body | more)


def answered(text: Any, finish: str = "stop", index: int = 0, **message: Any) -> dict[str, Any]:
    return {
        "index": index,
        "message": {"role": "assistant", "content": text, **message},
        "finish_reason": finish,
    }


def entry(body: bytes) -> CacheEntry:
    return CacheEntry(id="e", body=body, model="big", usage=USAGE, created_ms=1)


def test_a_stream_folds_into_the_plain_answer_it_would_have_been() -> None:
    chunks = [
        event(piece(role="assistant", content=""), usage=None),
        event(piece("Paris"), x="ignored"),
        event(piece(" it is")),
        event(piece(finish="stop")),
        event(),
    ]
    assert msgspec.json.decode(fold(chunks, USAGE) or b"") == msgspec.json.decode(plain(answered("Paris it is")))


def test_a_stream_that_is_no_text_folds_into_nothing() -> None:
    chunks = [event(piece("x")).replace(b"x", b"\xff"), event(piece(finish="stop"))]
    assert fold(chunks, USAGE) is whole(chunks) is None


def test_several_choices_fold_apart_and_in_order() -> None:
    chunks = [
        event(piece("b", index=1), piece("a")),
        event(piece("B", "stop", index=1)),
        event(piece("A", "length")),
    ]
    folded = msgspec.json.decode(fold(chunks, USAGE) or b"")
    assert folded["choices"] == [answered("aA", "length"), answered("bB", index=1)]


@pytest.mark.parametrize(
    "choices",
    [
        [],
        [piece("cut off")],
        [piece("a", "stop"), piece("cut off", index=1)],
        [piece("a", "stop", tool_calls=[{"index": 0}])],
        [piece("a", "stop", function_call={"name": "f"})],
        [piece("a", "stop", reasoning_content="because")],
        [piece("a", "stop", refusal="no")],
        [piece("a", "stop", audio={"id": "x"})],
        [{**piece("a", "stop"), "logprobs": {"content": [{"token": "a"}]}}],
    ],
)
def test_what_a_plain_answer_could_not_say_is_not_folded(choices: list[dict[str, Any]]) -> None:
    assert fold([event(choice) for choice in choices], USAGE) is None


def test_a_whole_stream_says_all_that_the_plain_reply_would_have() -> None:
    chunks = [
        event(piece(role="assistant", content=""), usage=None),
        event(piece(reasoning_content="be"), confidence=0.5),
        event(piece(reasoning_content="cause"), confidence=0.4),
        event(piece("Paris"), confidence=0.3),
        event(piece(finish="length"), confidence=0.2),
        event(usage={"prompt_tokens": 1}, timings={"prompt_n": 1}),
    ]
    told = answered("Paris", "length", reasoning_content="because", refusal=None) | {"logprobs": None}
    assert msgspec.json.decode(whole(chunks) or b"") == {
        **HEAD,
        "object": "chat.completion",
        "choices": [told],
        "confidence": 0.2,
        "usage": {"prompt_tokens": 1},
        "timings": {"prompt_n": 1},
    }


@pytest.mark.parametrize("more", [{"tool_calls": [{"index": 0}]}, {"audio": {"id": "x"}}, {"reasoning": ["a", "b"]}])
def test_what_is_not_text_makes_no_whole_reply(more: dict[str, Any]) -> None:
    assert whole([event(piece("a", "stop", **more))]) is None


def test_empty_extras_of_a_delta_are_no_reason() -> None:
    assert fold([event(piece("a", "stop", tool_calls=[], reasoning_content=None, refusal=None))], USAGE) is not None


@given(st.lists(st.text(max_size=60).filter(bool), min_size=1, max_size=3))
def test_streaming_a_stored_answer_and_folding_it_again_is_the_answer(texts: list[str]) -> None:
    body = plain(*(answered(text, index=index) for index, text in enumerate(texts)))
    chunks = list(stream_chunks(entry(body)))
    assert msgspec.json.decode(fold([chunk.data for chunk in chunks], USAGE) or b"") == msgspec.json.decode(body)
    assert "".join(chunk.text for chunk in chunks) == "".join(texts)


def test_a_stored_answer_streams_as_openai_would() -> None:
    chunks = list(stream_chunks(entry(plain(answered("one two three four five six", annotations=[1], refusal=None)))))
    events = [msgspec.json.decode(chunk.data) for chunk in chunks]
    assert all(one["object"] == "chat.completion.chunk" and one["id"] == "chatcmpl-1" for one in events)
    deltas = [one["choices"][0]["delta"] for one in events[:-1]]
    assert deltas == [
        {"role": "assistant", "content": "", "annotations": [1]},
        {"content": "one two three four"},
        {"content": " five six"},
        {},
    ]
    assert [one["choices"][0]["finish_reason"] for one in events[:-1]] == [None, None, None, "stop"]
    assert (events[-1]["choices"], events[-1]["usage"]["total_tokens"]) == ([], 10)
    assert [chunk.usage_only for chunk in chunks] == [False] * 4 + [True]
    assert (chunks[-1].usage, chunks[-2].finish_reason) == (USAGE, "stop")


def test_a_stored_answer_without_usage_gets_the_one_that_was_recorded() -> None:
    *_, last = stream_chunks(entry(plain(answered("a"), usage=None)))
    assert msgspec.json.decode(last.data)["usage"] == usage_object(USAGE)


def test_a_stored_answer_is_a_plain_reply_byte_for_byte() -> None:
    body = plain(answered("a"))
    chunk = plain_chunk(entry(body))
    assert (chunk.data, chunk.final, chunk.usage) == (body, True, USAGE)
